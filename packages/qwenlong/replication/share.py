"""Data of one seed for runs of others: copied, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from qwenlong.core.files import read_json
from qwenlong.replication.plan import SHARED, Run

#: What is there when all that is shared is made.
LAST = "bins/bins.json"


def missing(run: Run) -> bool:
    """Tell whether the run waits for data that the folder of its data seed does not have yet."""
    return run.data != run.results and not (run.results / LAST).is_file() and not (run.data / LAST).is_file()


def copy(run: Run) -> list[str]:
    """Copy what the run shares into its folder, with times; return the folders copied. A killed copy is repeated."""
    copied: list[str] = []
    if run.data == run.results or (run.results / LAST).is_file():
        return copied
    for name in SHARED:
        source, target = run.data / name, run.results / name
        if target.exists() or not source.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.copied")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, symlinks=True)
        partial.rename(target)
        copied.append(name)
    return copied


def seed_of(folder: Path) -> int | None:
    """Return the seed that the samples of a results folder were made with, as their sidecar says; none without one."""
    file = folder / "synthesis" / "samples.parquet.provenance.json"
    return int(read_json(file)["seed"]) if file.is_file() else None
