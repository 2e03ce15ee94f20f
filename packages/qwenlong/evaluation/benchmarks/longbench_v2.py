"""LongBench-V2 (THUDM): 503 questions of four options on long texts.

Rules: multiple_choice.values. The official code leaves an empty response out of its denominator; here it is wrong.
"avg" is over items; easy, hard, short, medium, long and the six domains come from the same predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from qwenlong.core import templates
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import prompting
from qwenlong.evaluation.benchmarks.multiple_choice import PROMPTS, RULES, render, values
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import choices
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

INSTRUCTION = 'End your response with "The correct answer is (X)", where X is the letter of the option.'


class Record(Published):
    """One record of the published file."""

    id: str = Field(alias="_id", min_length=1)
    domain: str
    difficulty: Literal["easy", "hard"]
    length: Literal["short", "medium", "long"]
    question: str
    choice_A: str
    choice_B: str
    choice_C: str
    choice_D: str
    answer: Literal["A", "B", "C", "D"]
    context: str


@dataclass(frozen=True)
class LongBenchV2Item(Item):
    """One question on its text."""

    record: Record = field(repr=False)

    @property
    def id(self) -> str:  # type: ignore[override]
        """The record's `_id`."""
        return self.record.id

    @property
    def group(self) -> str:  # type: ignore[override]
        """Difficulty: easy or hard."""
        return self.record.difficulty

    @property
    def slices(self) -> tuple[str, ...]:  # type: ignore[override]
        """Length (short, medium, long) and domain."""
        return self.record.length, self.record.domain

    def _choices(self) -> str:
        r = self.record
        return render((r.choice_A, r.choice_B, r.choice_C, r.choice_D))

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the prompt, the middle of its text cut above `max_tokens`."""
        fixed = {"question": self.record.question.strip(), "choices": self._choices(), "instruction": INSTRUCTION}

        def build(context: str) -> Messages:
            return [
                {
                    "role": "user",
                    "content": templates.fill("longbench_v2", {**fixed, "context": context}, PROMPTS),
                }
            ]

        return prompting.fit(self.id, self.record.context.strip(), build, tokenizer, max_tokens)

    def problem(self) -> tuple[str, str, str]:
        """Return question with options, format instruction and text."""
        return f"{self.record.question.strip()}\n{self._choices()}", INSTRUCTION, self.record.context

    def score(self, response: str) -> dict[str, float]:
        """Return multiple_choice.RULES."""
        text = after_thinking(response)
        return values(None if text is None else choices.longbench_v2(text), self.record.answer, response, 4)


@dataclass(frozen=True)
class LongBenchV2(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[LongBenchV2Item]:
        """Read the published JSON (or the same records as JSON lines or Parquet)."""
        return distinct([LongBenchV2Item(record) for record in read_records(examples, Record)], examples)


BENCHMARKS = (
    LongBenchV2(
        "longbench_v2",
        "LongBench-V2",
        RULES,
        "accuracy",
        official="official",
        groups=("easy", "hard"),
        source=Source("THUDM/LongBench-v2", ("data.json",), licence="Apache-2.0", records=503),
    ),
)
