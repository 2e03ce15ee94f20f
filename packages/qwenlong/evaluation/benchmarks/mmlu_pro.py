"""MMLU-Pro (TIGER-Lab): 12,032 questions of three to ten options in 14 fields.

Zero-shot, as a thinking model is asked; with the published validation file as `documents` its solved questions of the
same field stand before each question (five a field: the official setting).

Rules: `accuracy`, no letter is a wrong answer; `official`, the expected score of the official code, which guesses at
random among the options where it finds no letter (1 / number of options); `unextracted`, no letter was found. "avg" is
over items, as the official total; groups are the fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from qwenlong.core import templates
from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.multiple_choice import PROMPTS, render, whole
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import choices
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

INSTRUCTION = (
    'Think step by step, then end your response with "the answer is (X)", where X is the letter of the option.'
)
#: Solved questions before each question, where the validation file is given.
SHOTS = 5
FIELDS = (
    "biology",
    "business",
    "chemistry",
    "computer science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
)
#: How published solutions begin.
_OPENING = "A: "


class Record(Published):
    """One record of the published files."""

    question_id: int | str
    question: str
    options: Annotated[tuple[str, ...], Field(min_length=2, max_length=10)]
    answer: str
    category: str
    cot_content: str = ""

    @model_validator(mode="after")
    def _gold_is_an_option(self) -> Record:
        # Not held against answer_index: one published record disagrees, and the official code goes by the letter.
        if self.answer not in tuple(choices.LETTERS[: len(self.options)]):
            raise ValueError(f"answer {self.answer!r} is no letter of its {len(self.options)} options")
        return self

    @property
    def shown(self) -> str:
        """The options as the prompt shows them."""
        return render(self.options)


@dataclass(frozen=True)
class MMLUProItem(Item):
    """One question, with the solved questions that stand before it."""

    record: Record
    solved: Sequence[Record] = field(default=(), repr=False)

    @property
    def id(self) -> str:  # type: ignore[override]
        """The record's `question_id`."""
        return str(self.record.question_id)

    @property
    def group(self) -> str:  # type: ignore[override]
        """Field of knowledge."""
        return self.record.category

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the prompt; solved questions are left out, the last first, where they do not fit."""
        for number in range(len(self.solved), 0, -1):
            chat = [{"role": "user", "content": self._prompt(self.solved[:number])}]
            if tokenizer.count_chat(chat) <= max_tokens:
                return chat
        return whole(self.id, self._prompt(()), tokenizer, max_tokens)

    def _prompt(self, solved: Sequence[Record]) -> str:
        record = self.record
        values = {
            "category": record.category,
            "question": record.question.strip(),
            "choices": record.shown,
            "instruction": INSTRUCTION,
        }
        if not solved:
            return templates.fill("mmlu_pro", values, PROMPTS)
        examples = [
            templates.fill(
                "mmlu_pro_example",
                {
                    "question": example.question.strip(),
                    "choices": example.shown,
                    "solution": example.cot_content.removeprefix(_OPENING).strip(),
                },
                PROMPTS,
            )
            for example in solved
        ]
        return templates.fill(
            "mmlu_pro_examples", {**values, "number": len(solved), "examples": "\n\n".join(examples)}, PROMPTS
        )

    def score(self, response: str) -> dict[str, float]:
        """Return `accuracy`, `official` and `unextracted`."""
        text = after_thinking(response)
        letter = None if text is None else choices.mmlu_pro(text)
        right = float(letter == self.record.answer)
        chance = 1 / len(self.record.options)
        return {
            "accuracy": right,
            "official": chance if letter is None else right,
            "unextracted": float(letter is None),
        }


@dataclass(frozen=True)
class MMLUPro(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[MMLUProItem]:
        """Read the published Parquet; `documents` is the validation file, for solved questions.

        Raises DataError also for a field without solved questions.
        """
        records = read_records(examples, Record)
        solved = {} if documents is None else _solved(documents)
        for record in records if documents is not None else ():
            if record.category not in solved:
                raise DataError(
                    f"{documents} has no solved question of {record.category!r}, the field of {record.question_id}; "
                    "give the published validation file, or none"
                )
        return distinct([MMLUProItem(record, solved.get(record.category, ())) for record in records], examples)


def _solved(path: Path) -> Mapping[str, tuple[Record, ...]]:
    found: dict[str, tuple[Record, ...]] = {}
    for record in read_records(path, Record):
        before = found.get(record.category, ())
        if record.cot_content.strip() and len(before) < SHOTS:
            found[record.category] = (*before, record)
    return found


BENCHMARKS = (
    MMLUPro(
        "mmlu_pro",
        "MMLU-Pro",
        ("accuracy", "official", "unextracted"),
        "accuracy",
        official="official",
        groups=FIELDS,
        source=Source("TIGER-Lab/MMLU-Pro", ("data/test-00000-of-00001.parquet",), licence="MIT", records=12_032),
    ),
)
