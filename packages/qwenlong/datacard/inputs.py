"""What a data card is made from: files of earlier stages, each there or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json, read_parquet
from qwenlong.core.records import Document, Sample
from qwenlong.core.templates import select_documents

#: Files of samples that `synthesize run` writes, the training set first.
SETS = ("samples", "memory", "heldout", "heldout_long")


@dataclass(frozen=True)
class Stage:
    """A later stage's summary and the samples that it kept."""

    summary: Mapping[str, Any]
    samples: list[Sample]


@dataclass(frozen=True)
class Inputs:
    """Samples by set, their documents, and what is there of the rest; `files` are those that were read, by name."""

    sets: Mapping[str, list[Sample]]
    documents: Mapping[str, Document]
    funnel: Mapping[str, Any]
    corpus: Mapping[str, Any] | None = None
    stages: Mapping[str, Stage] = field(default_factory=dict)
    check: Mapping[str, Any] | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


def read(
    folder: Path, corpus: Path | None = None, stages: Mapping[str, Path | None] | None = None, check: Path | None = None
) -> Inputs:
    """Read a synthesis folder, and whatever else is given.

    Raises DataError naming a file that is missing, is no JSON object or holds other records, and a sample whose
    document is not there.
    """
    files: dict[str, Path] = {}
    sets: dict[str, list[Sample]] = {}
    for name in SETS:
        file = folder / f"{name}.parquet"
        # Only the training set is always there: a folder may have been made without the others.
        if name == "samples" or file.is_file():
            files[name] = file
            sets[name] = read_parquet(file, Sample)
    files["documents"] = folder / "documents.parquet"
    documents = {document.id: document for document in read_parquet(files["documents"], Document)}
    for samples in sets.values():
        for sample in samples:
            select_documents(sample, documents)
    files["funnel"] = folder / "funnel.json"
    funnel = _object(files["funnel"])
    statistics = None
    if corpus is not None:
        files["corpus"] = corpus / "corpus.json"
        statistics = _object(files["corpus"])
    later: dict[str, Stage] = {}
    for name, place in (stages or {}).items():
        if place is not None:
            files[name], files[f"{name} samples"] = place / f"{name}.json", place / "samples.parquet"
            later[name] = Stage(_object(files[name]), read_parquet(files[f"{name} samples"], Sample))
    verdict = None
    if check is not None:
        files["check"] = check
        verdict = _object(check)
        missing = [key for key in ("samples", "derived", "not_derivable", "faults") if key not in verdict]
        if missing:
            raise DataError(
                f"{check} has no {missing[0]!r}: it is not what `qwenlong synthesize check --json` prints; make it anew"
            )
    return Inputs(sets, documents, funnel, statistics, later, verdict, files)


def _object(file: Path) -> Mapping[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise DataError(f"{file} holds a {type(value).__name__}, not an object; run the stage that writes it again")
    return value
