"""Accepted candidates as lines of JSON, and as candidates again that length extension can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core.files import read_jsonl, write_jsonl
from qwenlong.core.records import Document, Evidence, Task
from qwenlong.synthesis import choice
from qwenlong.synthesis.agents import MIN_QUOTE, plain
from qwenlong.synthesis.candidates import Candidate


class Stored(BaseModel):
    """A candidate in a file: all of it but the function that guards its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: Task
    question_type: str
    template: str
    question: str
    answers: Annotated[tuple[str, ...], Field(min_length=1)]
    evidence: tuple[Evidence, ...]
    reasoning_chain: tuple[str, ...]
    instruction: str
    choices: tuple[str, ...]
    answer_prefix: str
    n_needles: int
    n_hops: int
    generator: str
    specifics: tuple[str, ...]
    quotes: tuple[str, ...] = ()


def write(path: Path, candidates: Sequence[Candidate]) -> None:
    """Write candidates in their order; the same ones give the same bytes."""
    write_jsonl(path, [Stored(**{name: getattr(one, name) for name in Stored.model_fields}) for one in candidates])


def read(path: Path) -> list[Candidate]:
    """Return the candidates of a file with `holds` made anew. Raises DataError naming file, line and field."""
    found = []
    for stored in read_jsonl(path, Stored):
        values: dict[str, Any] = {name: getattr(stored, name) for name in Stored.model_fields}
        one = Candidate(**values, holds=lambda _: False)
        found.append(replace(one, holds=holds(one)))
    return found


def holds(candidate: Candidate) -> Callable[[Sequence[Document]], bool]:
    """Return what tells whether the answer is still the one answer among documents shown.

    Nothing can compute a proposed answer again, so the test is strict: all evidence is shown, and no other document
    has a title of theirs or holds the answer (the right option, the message) or one of the quotes.
    """
    return _Alone(candidate).among


class _Alone:
    """What a candidate's answer and quotes are looked for in; each document is read once, since many are tried."""

    def __init__(self, candidate: Candidate) -> None:
        answer = candidate.answers[0].removeprefix(candidate.answer_prefix)
        if candidate.choices and answer in choice.LETTERS[: len(candidate.choices)]:
            answer = candidate.choices[choice.LETTERS.index(answer)]
        # Short ones ("1912", "yes") stand in half of all documents and answer nothing there.
        needles = {plain(text) for text in (answer, *candidate.quotes)}
        self._needles = sorted(needle for needle in needles if len(needle) >= MIN_QUOTE)
        self._home = frozenset(candidate.documents)
        self._known: dict[tuple[str, str], bool] = {}

    def among(self, documents: Sequence[Document]) -> bool:
        by_id = {document.id: document for document in documents}
        if not self._home <= by_id.keys():
            return False
        titles = {by_id[name].title for name in self._home}
        return all(
            document.id in self._home or (document.title not in titles and self._silent(document))
            for document in documents
        )

    def _silent(self, document: Document) -> bool:
        key = document.id, document.text
        if key not in self._known:
            text = plain(document.text)
            self._known[key] = not any(needle in text for needle in self._needles)
        return self._known[key]
