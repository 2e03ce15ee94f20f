"""The runs of a bundle, unpacked and read: what cells, claims and pages are made from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit.bundles import layout, unfinished
from qwenlong.audit.results import read_metrics, sidecars
from qwenlong.audit.tables import Evaluations
from qwenlong.core import config_files
from qwenlong.core.config import AblationRow, Config
from qwenlong.core.errors import DataError


@dataclass(frozen=True)
class Run:
    """A run of a bundle. `folder` is its results folder, unpacked; `file` its configuration from where commands run."""

    name: str
    scale: str
    seed: int
    config: Config
    folder: Path
    file: str
    record: Mapping[str, Any]
    evaluations: Evaluations
    sidecars: Mapping[str, Mapping[str, Any]]
    """By name under the folder, of the output."""

    @property
    def planned(self) -> bool:
        """Whether it has not run."""
        return bool(self.record["planned"])

    @property
    def rows(self) -> list[AblationRow]:
        """The ablation rows of its configuration."""
        return [row for row in self.config.ablations.rows if isinstance(row, AblationRow)]

    def metrics(self, name: str, ablation: bool = False) -> list[dict[str, float]]:
        """Return the metrics of a stage or of an ablation row by step; empty where it has not run."""
        return read_metrics(self.folder / self.metrics_file(name, ablation))

    def metrics_file(self, name: str, ablation: bool = False) -> str:
        """Return the file of the metrics, below the run: the policy's, or that of a training that did not end."""
        policy, other = unfinished.policy_file(name, ablation), unfinished.file_of(name, ablation)
        return other if not (self.folder / policy).is_file() and (self.folder / other).is_file() else policy

    def cut(self, name: str, ablation: bool = False) -> str:
        """Return where a training stopped that did not end ("step 33 of 50"); empty for all others."""
        if self.metrics_file(name, ablation) != unfinished.file_of(name, ablation):
            return ""
        planned = (self.config.ablation(name) if ablation else self.config.stage(name)).steps
        return f"step {int(self.metrics(name, ablation)[-1]['step'])} of {planned}"


@dataclass(frozen=True)
class Opened:
    """A bundle that is open: its runs, and what could not be read of it."""

    runs: tuple[Run, ...]
    index: Mapping[str, Any]
    faults: tuple[str, ...]

    @property
    def scales(self) -> list[str]:
        """The scales in order."""
        return list(dict.fromkeys(run.scale for run in self.runs))

    def of(self, scale: str) -> list[Run]:
        """Return the runs of a scale, seeds in order."""
        return sorted((run for run in self.runs if run.scale == scale), key=lambda run: (run.seed, run.name))


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    """Unpack a bundle into a folder of its own, which goes at the end. Raises DataError for what is no bundle."""
    index = layout.read_index(folder)
    with tempfile.TemporaryDirectory(prefix="qwenlong-bundle-") as scratch:
        faults: list[str] = []
        runs = [_run(folder, record, Path(scratch), str(index.get("place", "")), faults) for record in index["runs"]]
        yield Opened(tuple(runs), index, tuple(faults))


def _run(folder: Path, record: Mapping[str, Any], scratch: Path, place: str, faults: list[str]) -> Run:
    try:
        name, scale, seed = str(record["name"]), str(record["scale"]), int(record["seed"])
        examples = {str(k): str(v) for k, v in record["examples"].items()}
        if Path(name).name != name or not name.strip("."):
            raise ValueError(f"{name!r} is no name of a folder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / layout.INDEX} has a run without what it needs ({error!r}); restore it") from error
    root = folder / layout.RUNS / name
    if not (root / "config.yaml").is_file():
        raise DataError(f"{root}/config.yaml is missing: run {name} (scale {scale}, seed {seed}) is not whole")
    to = scratch / name
    faults += layout.unpack_run(folder, name, to, examples)
    config = config_files.load(root / "config.yaml")
    file = f"{place}/{layout.RUNS}/{name}/config.yaml".lstrip("/")
    known = {path.relative_to(to).as_posix(): value for path, value in sidecars(to).items()}
    return Run(name, scale, seed, config, to, file, record, Evaluations(to, config, file), known)


def by_seed(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Return the runs of each seed, in order."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        found.setdefault(run.seed, []).append(run)
    return found
