"""Scoring stored predictions again by the project's own scorer, in processes of its own: the audit reads files only."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit.bundles import layout
from qwenlong.audit.site.runs import Run
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import read_json, write_jsonl

#: Processes that score at once.
PROCESSES = 2
#: How far a float may be from the stored one: another machine may add in another order.
TOLERANCE = 1e-9
#: Differences named for each file before they are only counted.
NAMED = 5


@dataclass(frozen=True)
class Job:
    """One scores.json of a run, and where it is made again. `name` is its place in the bundle."""

    run: str
    name: str
    stored: Path
    again: Path
    values: Mapping[str, Any]


def jobs(runs: Sequence[Run], scratch: Path) -> list[Job]:
    """Return a job per scores.json of the runs, which lie unpacked."""
    found: list[Job] = []
    for run in runs:
        for pattern in ("evaluation/*/*/scores.json", "ablations/*/evaluation/*/scores.json"):
            for file in sorted(run.folder.glob(pattern)):
                name = file.relative_to(run.folder).as_posix()
                benchmark = file.parent.name
                source = run.record["examples"].get(benchmark, "")
                judgements = file.with_name("judgements.jsonl")
                again = scratch / f"{len(found)}.json"
                values = {
                    "benchmark": benchmark,
                    "examples": str(run.folder / "synthesis" / f"{benchmark}{Path(source).suffix}"),
                    "predictions": str(file.with_name("predictions.jsonl")),
                    "judgements": str(judgements) if judgements.is_file() else None,
                    "config": str(run.folder / "config.yaml"),
                    "seed": run.sidecars.get(name, {}).get("seed", run.seed),
                    "out": str(again),
                }
                found.append(Job(run.name, f"{layout.RUNS}/{run.name}/{layout.stored(name)}", file, again, values))
    return found


def score(chosen: Sequence[Job], scratch: Path) -> None:
    """Make all scores again, in some processes. Raises QwenlongError with what the scorer said when it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = []
    # A process takes a second to start.
    processes = min(PROCESSES, -(-len(chosen) // 8))
    for part in range(processes):
        listed = scratch / f"jobs-{part}.jsonl"
        write_jsonl(listed, [dict(job.values) for job in chosen[part::processes]])
        command = [sys.executable, "-m", "qwenlong", "evaluate", "rescore", str(listed)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
    try:
        for process in started:
            _, said = process.communicate()
            if process.returncode:
                raise QwenlongError(f"scoring again failed: {said.strip()[-2000:]}")
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def differences(job: Job) -> list[str]:
    """Return what differs between stored scores and those made again, naming file, cell, value and expected value."""
    stored, again = read_json(job.stored), read_json(job.again)
    if "error" in again and "metrics" not in again:
        return [f"{job.name}: its predictions cannot be scored again: {again['error']}"]
    found = [f"{job.name}: {where} = {_short(a)}, expected {_short(b)}" for where, a, b in compare(stored, again)]
    more = [f"{job.name}: {len(found) - NAMED} more values differ"] if len(found) > NAMED else []
    return [*found[:NAMED], *more]


def compare(stored: Any, expected: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the place and both values wherever two JSON values differ; list rows with an id are named by it."""
    if isinstance(stored, dict) and isinstance(expected, dict):
        for key in sorted({*stored, *expected}):
            inner = f"{where}.{key}" if where else str(key)
            yield from compare(stored.get(key, _MISSING), expected.get(key, _MISSING), inner)
    elif isinstance(stored, list) and isinstance(expected, list) and len(stored) == len(expected):
        for place, (a, b) in enumerate(zip(stored, expected, strict=True)):
            name = next((b[k] for k in ("key", "id", "name", "row") if isinstance(b, dict) and k in b), place)
            yield from compare(a, b, f"{where}[{name}]")
    elif _number(stored) and _number(expected):
        if not math.isclose(stored, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield where or "the value", stored, expected
    elif stored != expected or type(stored) is not type(expected):
        yield where or "the value", stored, expected


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, _Missing) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 120 else f"{text[:117]}…"
