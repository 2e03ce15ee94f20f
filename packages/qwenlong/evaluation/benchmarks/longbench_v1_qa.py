"""LongBench-V1 QA: five datasets, averaged over datasets.

Rules: `cover_em_strict`, `cover_em_loose`, `f1` (token F1 of the final answer) and `official` (token F1 of all that
stands behind the thinking, as the published script reads a prediction), best over the golds. With a judge: `judge`,
`paper`.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from qwenlong.core.errors import DataError
from qwenlong.core.templates import fill
from qwenlong.evaluation.interface import Benchmark
from qwenlong.evaluation.open_question import FOLDER, JUDGE_RULES, RULES, WithText
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import cover_em
from qwenlong.evaluation.rules.token_f1 import best_f1
from qwenlong.evaluation.sources import Source
from qwenlong.rewards.extract import after_thinking, final_answer

DATASETS = ("2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper")


class Record(Published):
    """One record as published."""

    id: str = Field(alias="_id")
    dataset: str
    input: Annotated[str, Field(min_length=1)]
    context: str
    answers: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class LongBenchItem(WithText):
    """One question of one dataset."""

    def score(self, response: str) -> dict[str, float]:
        """Return cover-EM and both F1."""
        text, answer = after_thinking(response), final_answer(response)
        f1 = 0.0 if answer is None else best_f1(answer, self.golds)
        official = 0.0 if text is None else best_f1(text, self.golds)
        return super().score(response) | {"f1": f1, "official": official}


@dataclass(frozen=True)
class LongBenchQA(Benchmark):
    """The benchmark; examples are one file with records of all datasets, the published data.zip, or its folder."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[LongBenchItem]:
        """Read the records of the five datasets; those of others are left out.

        Raises DataError naming a file, record or dataset that is missing.
        """
        records = [record for record in _records(examples) if record.dataset in DATASETS]
        if not records:
            raise DataError(f"{examples} has no record of {', '.join(DATASETS)}; give LongBench's files of these")
        return distinct([_item(record) for record in records], examples)


def _item(record: Record) -> LongBenchItem:
    extra = fill("qasper", {}, FOLDER) if record.dataset == "qasper" else ""
    golds = tuple(record.answers)
    return LongBenchItem(record.id, record.dataset, record.input, golds, extra=extra, context=record.context)


def _records(examples: Path) -> list[Record]:
    if examples.is_dir():
        found = {name: examples / f"{name}.jsonl" for name in DATASETS}
        missing = [file.name for file in found.values() if not file.is_file()]
        if missing:
            raise DataError(f"{examples} lacks {', '.join(missing)}; give all five, or one file with all records")
        return [record for file in found.values() for record in read_records(file, Record)]
    if examples.suffix == ".zip":
        return _zipped(examples)
    return read_records(examples, Record)


def _zipped(path: Path) -> list[Record]:
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            for name in DATASETS:
                archive.extract(f"data/{name}.jsonl", folder)
            return _records(Path(folder) / "data")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not LongBench's data.zip ({error}); fetch it again") from error


BENCHMARKS = (
    LongBenchQA(
        "longbench_v1_qa",
        "LongBench-V1 QA",
        (*RULES, "f1", "official"),
        headline=cover_em.PAPER,
        judge_rules=JUDGE_RULES,
        fallback=cover_em.STRICT,
        official="official",
        groups=DATASETS,
        average="groups",
        source=Source("THUDM/LongBench", ("data.zip",), licence="MIT", records=1000),
    ),
)
