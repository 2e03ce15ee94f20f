r"""AIME 2024 and 2025: 30 problems each, whose answers are integers from 0 to 999; 32 responses a problem.

Its authors publish no scorer. Rules: `accuracy`, the integer of the last \boxed{}, or without any the one after "the
answer is", is the gold ("025" is 25); `official`, a public scorer's reading (rules.integers.public), which takes the
last number of the text where there is no box; `unextracted`, `accuracy` found no integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, field_validator

from qwenlong.core import templates
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.multiple_choice import PROMPTS, whole
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import integers
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

INSTRUCTION = r"Reason step by step, then give the answer in \boxed{}."


class Record(Published):
    """One record; the published files name the problem `question` or `problem`, and may number it."""

    question: str = Field(validation_alias=AliasChoices("question", "problem"), min_length=1)
    answer: int
    id: str = Field("", validation_alias=AliasChoices("id", "problem_idx"))

    @field_validator("answer", mode="before")
    @classmethod
    def _integer(cls, value: Any) -> int:
        found = integers.integer(str(value))
        if found is None:
            raise ValueError(f"{value!r} is no integer from 0 to {integers.LARGEST}")
        return found

    @field_validator("id", mode="before")
    @classmethod
    def _text(cls, value: Any) -> str:
        return "" if value is None else str(value)


@dataclass(frozen=True)
class AIMEItem(Item):
    """One problem; `number` is its place in the file, from 0."""

    record: Record
    number: int
    group: str

    @property
    def id(self) -> str:  # type: ignore[override]
        """The record's own id, else its place in the file."""
        return self.record.id or str(self.number)

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the prompt. Raises DataError when it does not fit."""
        values = {"question": self.record.question.strip(), "instruction": INSTRUCTION}
        return whole(self.id, templates.fill("aime", values, PROMPTS), tokenizer, max_tokens)

    def score(self, response: str) -> dict[str, float]:
        """Return `accuracy`, `official` and `unextracted`."""
        text = after_thinking(response) or ""
        answer = integers.answered(text)
        return {
            "accuracy": float(answer == self.record.answer),
            "official": float(integers.public(text) == self.record.answer),
            "unextracted": float(answer is None),
        }


@dataclass(frozen=True)
class AIME(Benchmark):
    """The problems of one year."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[AIMEItem]:
        """Read JSON lines, JSON, CSV or Parquet with the columns of Record."""
        records = read_records(examples, Record)
        return distinct([AIMEItem(record, number, self.name) for number, record in enumerate(records)], examples)


def _year(name: str, title: str, source: Source) -> AIME:
    rules = ("accuracy", "official", "unextracted")
    return AIME(name, title, rules, "accuracy", official="official", groups=(name,), samples=32, source=source)


BENCHMARKS = (
    _year(
        "aime24",
        "AIME24",
        Source("HuggingFaceH4/aime_2024", ("data/train-00000-of-00001.parquet",), records=30),
    ),
    _year("aime25", "AIME25", Source("math-ai/aime25", ("test.jsonl",), licence="Apache-2.0", records=30)),
)
