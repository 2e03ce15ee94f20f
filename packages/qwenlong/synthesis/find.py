"""Finding one sample: in a folder of a run or a Parquet file, by the beginning of its id or by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.files import read_parquet
from qwenlong.core.records import TASKS, Document, Sample
from qwenlong.core.seeds import rng
from qwenlong.synthesis.checker.check import FILES


def load(data: Path, documents: Path | None = None) -> tuple[dict[str, list[Sample]], dict[str, Document]]:
    """Return samples by file and their documents, of a folder or of one Parquet file of samples.

    Without `documents` they are looked for beside the samples, then in a folder `synthesis` beside theirs or above it:
    stages after synthesis write samples only. Raises DataError naming what is not there.
    """
    if data.is_dir():
        files = [data / f"{name}.parquet" for name in FILES if (data / f"{name}.parquet").is_file()]
        if not files:
            raise DataError(f"{data} holds none of {', '.join(f'{n}.parquet' for n in FILES)}; name a Parquet file")
    else:
        files = [data]
    sets = {file.stem: read_parquet(file, Sample) for file in files}
    folder = files[0].resolve().parent
    near = [folder, *(above / "synthesis" for above in list(folder.parents)[:3])]
    candidates = [documents] if documents is not None else [place / "documents.parquet" for place in near]
    found = next((file for file in candidates if file.is_file()), candidates[0])
    return sets, {document.id: document for document in read_parquet(found, Document)}


def by_id(sets: Mapping[str, Sequence[Sample]], beginning: str, where: Path) -> Sample:
    """Return the sample whose id begins so; the same id in several files is one sample.

    Raises QwenlongError naming some of several, UsageError for an empty beginning.
    """
    if not beginning:
        raise UsageError("an empty id begins every id; give the id of a sample, or --random")
    found = {sample.id: sample for samples in sets.values() for sample in samples if sample.id.startswith(beginning)}
    if beginning in found:
        return found[beginning]
    if len(found) != 1:
        near = ", ".join(sorted(found)[:5]) or "none"
        raise QwenlongError(f"{len(found)} samples in {where} start with {beginning!r} ({near}); give one whole id")
    return next(iter(found.values()))


def drawn(sets: Mapping[str, Sequence[Sample]], task: str | None, seed: int, where: Path) -> Sample:
    """Return a sample drawn by seed, of one task or of all.

    Raises UsageError for an unknown task, DataError when there is no such sample.
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"--task {task!r} is none of {', '.join(TASKS)}")
    pool = {s.id: s for samples in sets.values() for s in samples if task is None or s.task == task}
    if not pool:
        raise DataError(f"{where} holds no sample{f' of {task}' if task else ''}; give another --data or --task")
    return pool[rng(seed, "show", task or "").choice(sorted(pool))]
