"""Frames: 824 questions over several Wikipedia articles.

Rules: `cover_em_strict`, `cover_em_loose`, and `official`, the rule part of the closest public scorer (QwenLong-L1's):
what follows the last "the answer is", and either text in the other after lower case and without ASCII punctuation and
articles, characters instead of words: "1" is in "1912", and a whole document holds its gold. It counts 1 for two
answers that ours does not: inside unfinished thinking, and where a side is empty after normalisation. With a judge:
`judge`, `paper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field

from qwenlong.core.errors import DataError
from qwenlong.evaluation.interface import Benchmark
from qwenlong.evaluation.open_question import JUDGE_RULES, RULES, ContextQuestion
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import cover_em, token_f1
from qwenlong.evaluation.sources import Source
from qwenlong.rewards.extract import after_thinking

_MARKER = "the answer is"
_TOKENS = ("<｜Assistant｜>", "<｜end▁of▁sentence｜>")


class Article(Published):
    """One document of a record."""

    title: str
    text: str


class Documents(Published):
    """What Tongyi-Zhiwen/frames adds to a question."""

    question: Annotated[str, Field(min_length=1, validation_alias=AliasChoices("Prompt", "question"))]
    wiki_items: list[Article]


class Record(Published):
    """One record of google/frames-benchmark, of Tongyi-Zhiwen/frames, or of a plain question file."""

    question: Annotated[str, Field(min_length=1, validation_alias=AliasChoices("Prompt", "question"))]
    answer: Annotated[str, Field(min_length=1, validation_alias=AliasChoices("Answer", "answer"))]
    id: str | int | None = None
    wiki_items: list[Article] | None = None


@dataclass(frozen=True)
class FramesItem(ContextQuestion):
    """One question; without documents it can be scored, not asked."""

    articles: tuple[Article, ...] = field(default=(), repr=False)

    def text(self) -> str:
        """Return the articles, title first. Raises DataError when there are none."""
        if not self.articles:
            raise DataError(
                f"question {self.id} has no documents: give the file of Tongyi-Zhiwen/frames (Prompt, wiki_items) "
                "as --data or --documents"
            )
        return "\n\n".join(f"{article.title}\n{article.text}" for article in self.articles)

    def score(self, response: str) -> dict[str, float]:
        """Return cover-EM and the closest public scorer's rule."""
        return super().score(response) | {"official": _official(response, self.golds[0])}


def _official(response: str, gold: str) -> float:
    text = (after_thinking(response) or "").replace("*", "")
    before, marker, tail = text.rpartition(_MARKER)
    if not marker:
        return 0.0
    for token in _TOKENS:
        tail = tail.replace(token, "")
    given, wanted = (" ".join(token_f1.normalise(side)) for side in (tail, gold))
    return float(bool(given and wanted) and (wanted in given or given in wanted))


@dataclass(frozen=True)
class Frames(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[FramesItem]:
        """Read the questions; their documents stand in the records or, by question, in `documents`.

        Raises DataError naming a file, record or question without documents.
        """
        texts = {} if documents is None else _documents(documents)
        items = [_item(number, record, texts) for number, record in enumerate(read_records(examples, Record))]
        if documents is not None and (bare := [item.id for item in items if not item.articles]):
            raise DataError(
                f"{documents} has no documents for {len(bare)} questions of {examples}, the first {bare[0]}"
            )
        return distinct(items, examples)


def _documents(path: Path) -> Mapping[str, tuple[Article, ...]]:
    return {record.question.strip(): tuple(record.wiki_items) for record in read_records(path, Documents)}


def _item(number: int, record: Record, texts: Mapping[str, tuple[Article, ...]]) -> FramesItem:
    question = record.question.strip()
    articles = tuple(record.wiki_items or ()) or texts.get(question, ())
    name = str(number) if record.id is None else str(record.id)
    return FramesItem(name, "all", question, (record.answer,), articles=articles)


BENCHMARKS = (
    Frames(
        "frames",
        "Frames",
        (*RULES, "official"),
        headline=cover_em.PAPER,
        judge_rules=JUDGE_RULES,
        fallback=cover_em.STRICT,
        official="official",
        groups=("all",),
        source=Source(
            "Tongyi-Zhiwen/frames",
            ("test.jsonl",),
            obtain="the questions alone are google/frames-benchmark, test.tsv: enough to score, not to ask",
            records=824,
        ),
    ),
)
