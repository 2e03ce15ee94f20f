"""CorpusQA: questions over a whole collection of documents, answered by a number or a list.

The chat is published with the documents in it. Rules: `cover_em_strict`, `cover_em_loose`; an empty list as gold
matches nothing, the judge decides. With a judge: `judge`, `paper`, and `official`: what stands on the line behind the
first "The answer is: ", or else the whole response, judged by a criterion of its own, for every response that has one.
Here the verdict is the judge's last line; the published script looks for [[YES]] without [[NO]] anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from qwenlong.core.templates import fill
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Ask, Benchmark
from qwenlong.evaluation.open_question import FOLDER, JUDGE_RULES, RULES, OpenQuestion
from qwenlong.evaluation.prompting import fit
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import cover_em
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

OFFICIAL = "official"
DOMAINS = ("education_en", "financial_en", "financial_zh", "real_estate_en", "other")
_ANSWER = re.compile(r"The answer is: (.*)")


class Message(Published):
    """One message of the published chat."""

    role: str
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        if isinstance(value, list):
            return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in value)
        return value


class Record(Published):
    """One record as published; `answer` is a number, a text or a list of texts."""

    id: str
    prompt: Annotated[list[Message], Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    answer: str

    @field_validator("id", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("prompt", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value

    @field_validator("answer", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return str(int(value))  # 282.0 is a count from a table, and no answer writes it so
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | int | float) else value


@dataclass(frozen=True)
class CorpusItem(OpenQuestion):
    """One question with its chat."""

    prompt: tuple[Message, ...] = field(default=(), repr=False)

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the published chat; above `max_tokens` the middle of the documents is cut, the question never."""
        at, before, text, after = self._split()

        def build(context: str) -> Messages:
            chat = [{"role": message.role, "content": message.content} for message in self.prompt]
            chat[at]["content"] = f"{before}{context}{after}"
            return chat

        return fit(self.id, text, build, tokenizer, max_tokens)

    def problem(self) -> tuple[str, str, str]:
        """Return the question with what the chat says behind it, the format and the documents."""
        _, before, text, after = self._split()
        said = after.partition(self.question)[2].strip()
        return f"{self.question}\n\n{said}".strip(), fill("corpusqa_answer", {}, FOLDER), text.strip()

    def _split(self) -> tuple[int, str, str, str]:
        """Return the number of the longest message, and it in three parts: before the documents, them, after them."""
        at = max(range(len(self.prompt)), key=lambda n: len(self.prompt[n].content))
        content = self.prompt[at].content
        # Wherever the question stands, the documents are the longest stretch without it.
        first, start, best = 0, 0, (0, len(content))
        longest = -1
        while start >= 0:
            start = content.find(self.question, first)
            end = len(content) if start < 0 else start
            if end - first > longest:
                longest, best = end - first, (first, end)
            first = start + len(self.question)
        return at, content[: best[0]], content[best[0] : best[1]], self._ending(content[best[1] :])

    def _ending(self, after: str) -> str:
        # A chat that does not say the question as the record does may lose it with the middle.
        known = any(self.question in message.content for message in self.prompt)
        return after if known else f"{after}\n\n{self.question}\n{fill('corpusqa_answer', {}, FOLDER)}"

    def asks(self, response: str) -> Mapping[str, Ask]:
        """Return the paper's question to the judge where cover-EM is 0, and the benchmark's own."""
        answer = official_answer(response, cover_em.characters_allowed(self.golds))
        asked = dict(super().asks(response))
        if answer:
            asked[OFFICIAL] = Ask(self.question, self.golds, answer, criterion="corpusqa")
        return asked

    def judged(self, values: Mapping[str, float], verdicts: Mapping[str, bool | None]) -> dict[str, float]:
        """Return what the judge adds, the paper's rule, and the benchmark's own."""
        return super().judged(values, verdicts) | {OFFICIAL: float(verdicts.get(OFFICIAL) is True)}


def official_answer(response: str, limit: int) -> str:
    """Return the answer that the benchmark's script takes from a response; empty when the thinking is unfinished.

    A line of more than `limit` characters is a copy of the documents, no answer. Of a longer response without the
    sentence the end is taken, where a conclusion stands; the script shows the judge all of it.
    """
    text = after_thinking(response) or ""
    match = _ANSWER.search(text)
    if match is None:
        return text[-limit:].strip()
    answer = match[1].strip()
    return answer if len(answer) <= limit else ""


@dataclass(frozen=True)
class CorpusQA(Benchmark):
    """The benchmark at one length: that of the file."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[CorpusItem]:
        """Read the records. Raises DataError naming file, record and field."""
        return distinct([_item(record) for record in read_records(examples, Record)], examples)


def _item(record: Record) -> CorpusItem:
    domain = next((name for name in DOMAINS if record.id.startswith(name)), "other")
    return CorpusItem(record.id, domain, record.question.strip(), (record.answer,), prompt=tuple(record.prompt))


def _corpusqa(length: str, source: Source, agent: bool = False) -> CorpusQA:
    return CorpusQA(
        f"corpusqa_{length.lower()}" if length else "corpusqa",
        f"CorpusQA {length}".strip(),
        RULES,
        headline=cover_em.PAPER,
        judge_rules=(*JUDGE_RULES, OFFICIAL),
        fallback=cover_em.STRICT,
        official=OFFICIAL,
        groups=DOMAINS,
        agent=agent,
        source=source,
    )


def _source(file: str, obtain: str = "") -> Source:
    return Source("Tongyi-Zhiwen/CorpusQA", (file,) if file else (), obtain=obtain, licence="MIT", records=329)


BENCHMARKS = (
    _corpusqa("", _source("", "give one of its files as --data")),
    _corpusqa("128K", _source("128k_4domains.jsonl")),
    _corpusqa("1M", _source("1m_4domains.jsonl"), agent=True),
    _corpusqa("4M", _source("", "the file of 4M tokens is not on the hub; ask its authors"), agent=True),
)
