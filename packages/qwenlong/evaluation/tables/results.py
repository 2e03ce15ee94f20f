"""What results folders hold for a cell: values of score files, averaged over runs of different seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.core import provenance
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import read_json
from qwenlong.evaluation.compare import read_scores
from qwenlong.evaluation.registry import BENCHMARKS
from qwenlong.evaluation.tables import values
from qwenlong.evaluation.tables.layout import WHOLE_FILES, Measure, Model, Part
from qwenlong.evaluation.tables.values import Value


@dataclass(frozen=True)
class Measured:
    """A number of ours. Without one, `missing` names the score files that it waits for, under the results."""

    value: Value | None = None
    n: int = 0
    """Items behind it."""
    attempted: int = 0
    """Responses asked for, over all runs."""
    scored: int = 0
    seeds: int = 0
    """Runs behind it, of different seeds."""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    value: Value
    n: int
    attempted: int
    scored: int
    file: Path
    notes: tuple[str, ...]


class Results:
    """The score files of one run, or of several runs that differ in their seed alone; each is read once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take folders as `run.results` names them. Raises UsageError for none, one twice, and what is no folder."""
        if not folders:
            raise UsageError("no results folder; give one with --results")
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"--results {folder} is no folder; give the run.results of a configuration")
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise UsageError("--results names a folder twice; give each run once")
        self.folders = tuple(folders)
        self._scores: dict[Path, Mapping[str, Any] | None] = {}

    def benchmarks(self) -> set[str]:
        """Return the names of all benchmarks that there are scores of, ablations included."""
        patterns = ("evaluation/*/*/scores.json", "ablations/*/evaluation/*/scores.json")
        return {file.parent.name for folder in self.folders for p in patterns for file in folder.glob(p)}

    @property
    def read(self) -> list[Path]:
        """The score files that were read."""
        return sorted(file for file, scores in self._scores.items() if scores is not None)

    @property
    def seeds(self) -> set[int]:
        """The seeds of the score files that were read."""
        return {seed for file in self.read if (seed := _seed(file)) is not None}

    def measured(self, model: Model, measure: Measure) -> Measured:
        """Return our number of a cell. Raises DataError for files that are no scores, or of runs that do not fit."""
        runs: list[list[_Found]] = []
        gaps: list[list[str]] = []
        for folder in self.folders:
            parts = [self._part(folder, model, part) for part in measure.parts]
            found = [part for part in parts if isinstance(part, _Found)]
            gaps.append([part for part in parts if isinstance(part, str)])
            if len(found) == len(parts):
                runs.append(found)
        if not runs:
            fewest: list[str] = min(gaps, key=len)
            return Measured(missing=tuple(dict.fromkeys(fewest)))
        _check_runs(runs)
        each = [values.mean([part.value for part in run], independent=not measure.paired) for run in runs]
        every = [part for run in runs for part in run]
        return Measured(
            values.over_seeds(each),
            max(part.n for part in runs[0]) if measure.paired else sum(part.n for part in runs[0]),
            sum(part.attempted for part in every),
            sum(part.scored for part in every),
            len(runs),
            tuple(dict.fromkeys(note for part in every for note in part.notes)),
        )

    def _part(self, folder: Path, model: Model, part: Part) -> _Found | str:
        """Return a metric, or the score file that lacks it."""
        wanted = f"{model.folder}/{part.benchmark}/scores.json"
        names = (part.benchmark, WHOLE_FILES.get(part.benchmark))
        for name in (name for name in names if name is not None):
            file = folder / model.folder / name / "scores.json"
            scores = self._read(file)
            if scores is None:
                continue
            if scores["benchmark"] != name:
                raise DataError(f"{file} is of {scores['benchmark']}, and lies where {name} belongs; move it")
            metric = scores["metrics"].get(part.metric)
            if metric is None or metric.get("value") is None:
                return wanted
            kept = scores["metrics"].get(f"{part.metric}_scored", {}).get("n", metric.get("n"))
            try:
                return _Found(
                    _percent(metric),
                    int(metric["n"]),
                    int(scores["n_attempted"] if part.metric == "avg" else metric["n"]),
                    int(scores["n_scored"] if part.metric == "avg" else kept),
                    file,
                    tuple(_notes(scores, part, name, model)),
                )
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file}: metric {part.metric} is damaged ({error!r}); score it again") from error
        return wanted

    def _read(self, file: Path) -> Mapping[str, Any] | None:
        if file not in self._scores:
            self._scores[file] = read_scores(file) if file.is_file() else None
        return self._scores[file]


def _percent(metric: Mapping[str, Any]) -> Value:
    numbers = [metric["value"], *(metric["ci95"] or ())]
    if not all(math.isfinite(x) and 0 <= x <= 1 for x in numbers) or len(numbers) not in (1, 3):
        raise ValueError(f"{numbers} are no shares in [0, 1]")
    return Value(*(100 * x for x in numbers))


def _notes(scores: Mapping[str, Any], part: Part, name: str, model: Model) -> list[str]:
    notes = []
    known = BENCHMARKS.get(name)
    rule = scores.get("headline")
    if known is not None and rule is not None and rule != known.headline:
        why = f"without the judge that {known.headline} needs" if rule == known.fallback else f"not {known.headline}"
        notes.append(f"{name} of {model.name} is scored by {rule}, {why}")
    judge = scores.get("judge")
    if judge is not None:
        notes.append(f"Judged by {judge['model']}: {name}")
        unparsed = sum(judge.get("no_verdict", {}).values())
        if unparsed:
            notes.append(f"{name} of {model.name}: {unparsed} of {judge['asked']} replies of the judge hold no verdict")
    if name != part.benchmark:
        notes.append(f"{part.benchmark} of {model.name} is read from {name}: all records of its file")
    if scores["n_scored"] < scores["n_attempted"]:
        notes.append(
            f"{name} of {model.name}: {scores['n_scored']} of {scores['n_attempted']} responses have a score, "
            "the others count 0"
        )
    return notes


def _check_runs(runs: Sequence[Sequence[_Found]]) -> None:
    """Raise DataError for runs that are no seeds of one another: other items, or the same seed."""
    for parts in zip(*runs, strict=True):
        sizes = {part.n: part.file for part in parts}
        if len(sizes) > 1:
            (a, first), (b, second) = list(sizes.items())[:2]
            raise DataError(f"{first} has {a} items and {second} has {b}: these are no runs on the same items")
        seen: dict[int, Path] = {}
        for part in parts:
            seed = _seed(part.file)
            if seed is not None and seed in seen:
                raise DataError(f"{seen[seed]} and {part.file} are both of seed {seed}; give runs of different seeds")
            if seed is not None:
                seen[seed] = part.file


def _seed(file: Path) -> int | None:
    sidecar = provenance.path_of(file)
    found = read_json(sidecar).get("seed") if sidecar.is_file() else None
    return found if isinstance(found, int) else None
