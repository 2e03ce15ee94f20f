"""GPQA-Diamond (Rein et al.): 198 questions of four options, gated: its text belongs into no repository.

Rules: multiple_choice.values, with the letter as openai/simple-evals reads it. Each question is asked four times
[assumed]: an order of the options drawn from its Record ID, then turned by one, so that over the four the right option
stands once at each letter, and always answering "A" scores exactly a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from qwenlong.core import seeds, templates
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.multiple_choice import PROMPTS, RULES, render, values, whole
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import choices
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

INSTRUCTION = 'Think step by step, then end your response with the line "Answer: X", where X is one of A, B, C and D.'
SAMPLES = 4


class Record(Published):
    """One row of the published table."""

    id: str = Field(alias="Record ID", min_length=1)
    question: str = Field(alias="Question", min_length=1)
    right: str = Field(alias="Correct Answer", min_length=1)
    wrong_1: str = Field(alias="Incorrect Answer 1", min_length=1)
    wrong_2: str = Field(alias="Incorrect Answer 2", min_length=1)
    wrong_3: str = Field(alias="Incorrect Answer 3", min_length=1)
    domain: str | None = Field(None, alias="High-level domain")


def order(name: str, sample: int) -> tuple[int, ...]:
    """Return the order of the options (0: the right one) in response number `sample` of record `name`."""
    drawn = seeds.rng(0, "gpqa_diamond", name, sample // SAMPLES).sample(range(4), 4)
    turn = sample % SAMPLES
    return tuple(drawn[turn:] + drawn[:turn])


@dataclass(frozen=True)
class GPQAItem(Item):
    """One question, its options in the order of one of its responses."""

    record: Record
    sample: int = 0

    @property
    def id(self) -> str:  # type: ignore[override]
        """The record's `Record ID`."""
        return self.record.id

    @property
    def group(self) -> str:  # type: ignore[override]
        """Domain: Physics, Chemistry, Biology; "all" where the file does not say it."""
        return self.record.domain or "all"

    @property
    def gold(self) -> str:
        """Letter of the right option."""
        return choices.LETTERS[order(self.id, self.sample).index(0)]

    def variant(self, sample: int) -> GPQAItem:
        """Return the item with the options in the order of response number `sample`."""
        return replace(self, sample=sample)

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the prompt. Raises DataError when it does not fit."""
        r = self.record
        options = (r.right, r.wrong_1, r.wrong_2, r.wrong_3)
        shown = render([options[place] for place in order(self.id, self.sample)], "{})")
        values = {"question": r.question.strip(), "choices": shown, "instruction": INSTRUCTION}
        return whole(self.id, templates.fill("gpqa_diamond", values, PROMPTS), tokenizer, max_tokens)

    def score(self, response: str) -> dict[str, float]:
        """Return multiple_choice.RULES, against the order of `sample`."""
        text = after_thinking(response)
        return values(None if text is None else choices.gpqa(text), self.gold, response, 4)


@dataclass(frozen=True)
class GPQADiamond(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[GPQAItem]:
        """Read the published CSV (or the same columns as Parquet or JSON)."""
        return distinct([GPQAItem(record) for record in read_records(examples, Record)], examples)


BENCHMARKS = (
    GPQADiamond(
        "gpqa_diamond",
        "GPQA-Diamond",
        RULES,
        "accuracy",
        official="official",
        groups=("Biology", "Chemistry", "Physics"),
        samples=SAMPLES,
        source=Source(
            "Idavidrein/gpqa",
            ("gpqa_diamond.csv",),
            gated=True,
            obtain="accept the terms on the data set's page, then give the file; keep its text out of any repository",
            licence="CC-BY-4.0",
            records=198,
        ),
    ),
)
