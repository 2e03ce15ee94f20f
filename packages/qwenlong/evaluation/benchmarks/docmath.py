"""DocMath-Eval: a number to be worked out from long financial documents with tables (testmini, 800 questions).

Rules: `official` (rules.docmath), cover-EM strict and loose on the reference as it may be written, `judge` and `paper`.
The judge is asked where strict cover-EM fails, with a template that lets rounding pass: references have all digits of a
float, answers rarely do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field

from qwenlong.core.errors import DataError
from qwenlong.evaluation.interface import Ask, Benchmark
from qwenlong.evaluation.open_question import JUDGE_RULES, RULES, WithText
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import cover_em, docmath
from qwenlong.evaluation.sources import Source
from qwenlong.rewards.extract import final_answer

GROUPS = ("complong", "compshort", "simplong", "simpshort")
CRITERION = "docmath"


class Record(Published):
    """What is read of a published record; `ground_truth` is hidden in the test split."""

    question_id: str
    question: str
    paragraphs: tuple[str, ...]
    ground_truth: bool | Annotated[float, Field(allow_inf_nan=False)] | None = None


def spellings(value: bool | float) -> tuple[str, ...]:
    """Return a reference as it may be written: as Python does, without exponent, and without ".0"."""
    if isinstance(value, bool):
        return ("True", "yes") if value else ("False", "no")
    plain = format(Decimal(repr(value)), "f")
    return tuple(dict.fromkeys((repr(value), plain, plain.removesuffix(".0"))))


@dataclass(frozen=True)
class DocMathItem(WithText):
    """One question, its document (paragraphs and tables in order) and the number that answers it."""

    gold: float = 0.0

    def score(self, response: str) -> dict[str, float]:
        """Return the authors' rule and cover-EM."""
        answer = final_answer(response)
        given = None if answer is None else docmath.stated(answer)
        return super().score(response) | {"official": float(given is not None and docmath.correct(given, self.gold))}

    def asks(self, response: str) -> Mapping[str, Ask]:
        """Return the judge's question where strict cover-EM is 0, for numbers."""
        return {name: dataclasses.replace(ask, criterion=CRITERION) for name, ask in super().asks(response).items()}


@dataclass(frozen=True)
class DocMath(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[DocMathItem]:
        """Read the records of a file, or of a folder with the four testmini files.

        Raises DataError naming the file, the record and what is wrong with it.
        """
        return distinct([_item(examples, record) for record in read_records(examples, Record)], examples)


def _item(path: Path, record: Record) -> DocMathItem:
    group = record.question_id.partition("-")[0]
    if group not in GROUPS:
        raise DataError(
            f"{path}: question_id {record.question_id!r} begins with none of {', '.join(GROUPS)}; give its own files"
        )
    if record.ground_truth is None:
        raise DataError(
            f"{path}: {record.question_id} has no ground_truth, as all of the test split; give the testmini files"
        )
    return DocMathItem(
        id=record.question_id,
        group=group,
        question=record.question,
        golds=spellings(record.ground_truth),
        extra="The final answer is one number.",
        context="\n".join(record.paragraphs),
        gold=float(record.ground_truth),
    )


BENCHMARKS = (
    DocMath(
        "docmath",
        "DocMath",
        rules=("official", *RULES),
        headline=cover_em.PAPER,
        judge_rules=JUDGE_RULES,
        fallback=cover_em.STRICT,
        official="official",
        groups=GROUPS,
        source=Source(
            "yale-nlp/DocMath-Eval",
            tuple(f"data/{group}_testmini.json" for group in GROUPS),
            obtain="load_dataset('yale-nlp/DocMath-Eval') has a split for each file; test splits hide the answers",
            records=800,
        ),
    ),
)
