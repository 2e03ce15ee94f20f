"""Reading what the stages wrote: scores, training metrics, sidecars. Nothing is computed by a model here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json
from qwenlong.core.records import TASKS

_SAMPLE = re.compile(r"@\d+$")


@dataclass(frozen=True)
class Cell:
    """A measured number in percent with its 95% interval; empty (value none) with the command that makes it."""

    value: float | None = None
    ci95: tuple[float, float] | None = None
    n: int = 0
    command: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the cell for tables.json."""
        return {"value": self.value, "ci95": self.ci95, "n": self.n, "command": self.command}


@dataclass(frozen=True)
class Scores:
    """A scores.json. `items` maps task → item → score in [0, 1], responses averaged, items without a score left out.

    `attempted` is the same with a response that failed counting 0, as in the metrics.
    """

    benchmark: str
    n_attempted: int
    n_scored: int
    metrics: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Mapping[str, float]]
    attempted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def cell(self, name: str) -> Cell:
        """Return a metric in percent."""
        metric = self.metrics.get(name)
        if metric is None or metric["value"] is None:
            return Cell()
        interval = metric["ci95"]
        ci95 = None if interval is None else (round(100 * interval[0], 4), round(100 * interval[1], 4))
        return Cell(round(100 * metric["value"], 4), ci95, metric["n"])


@dataclass(frozen=True)
class Similarity:
    """ROUGE-L of right against wrong rollouts of one prompt, in [0, 1]: mean of `pairs` of the `pairs_there`."""

    task: str
    rouge_l: float
    prompt_tokens: float
    pairs: int
    pairs_there: int
    prompts: int


def read_scores(file: Path) -> Scores | None:
    """Read a scores.json; none when it is not there. Raises DataError when it is something else."""
    if not file.is_file():
        return None
    value = read_json(file)
    try:
        items: dict[str, dict[str, list[float]]] = {}
        for row in value["items"]:
            for task in set(row["values"]) & set(TASKS) if row["error"] is None else ():
                items.setdefault(task, {}).setdefault(_SAMPLE.sub("", row["id"]), []).append(row["values"][task])
        means = {task: {k: sum(v) / len(v) for k, v in sorted(rows.items())} for task, rows in sorted(items.items())}
        attempted = _attempted(value) if "groups" in value else means
        return Scores(value["benchmark"], value["n_attempted"], value["n_scored"], value["metrics"], means, attempted)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is no scores.json of `qwenlong evaluate` ({error!r}); make it anew") from error


def _attempted(value: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    responses: dict[str, list[Mapping[str, Any]]] = {}
    # An item's own id may look like that of one response of several.
    ids = {item for members in value["groups"].values() for item in members}
    for row in value["items"]:
        responses.setdefault(row["id"] if row["id"] in ids else _SAMPLE.sub("", row["id"]), []).append(row)
    return {
        group: {item: _mean(responses[item], group) for item in sorted(members)}
        for group, members in sorted(value["groups"].items())
    }


def _mean(rows: list[Mapping[str, Any]], group: str) -> float:
    return sum(row["values"][group] for row in rows if row["error"] is None) / len(rows)


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Read a stage's metrics.jsonl, one object a step, in order of steps; empty when it is not there.

    Values that are no finite numbers are left out. Raises DataError naming the line that is not JSON.
    """
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            kept = {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and math.isfinite(v)}
            rows.append({**kept, "step": float(row["step"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}, line {number}: no metrics of a step; run its stage again") from error
    return sorted(rows, key=lambda row: row["step"])


def read_similarity(file: Path) -> list[Similarity]:
    """Read a stage's similarity.json, tasks in order, all of them last; empty when it is not there or holds none.

    Raises DataError when it is something else.
    """
    if not file.is_file():
        return []
    value = read_json(file)
    try:
        entries = [*sorted(value["tasks"].items()), *([("all", value["all"])] if value["all"] else [])]
        return [
            Similarity(task, float(e["rouge_l"]), float(e["prompt_tokens"]), e["pairs"], e["pairs_there"], e["prompts"])
            for task, e in entries
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} holds no similarities of rollouts ({error!r}); run its stage again") from error


def sidecars(results: Path) -> dict[Path, dict[str, Any]]:
    """Return every sidecar under `results` by the output it belongs to (which may be gone), in order of paths."""
    found = {}
    for file in sorted(results.rglob("*provenance.json")):
        parts = file.relative_to(results).parts
        # State is for resuming, the audit's own output comes after everything else.
        if parts[0] in ("state", "audit") or any(part.startswith(".") for part in parts):
            continue
        name = file.name.removesuffix(".provenance.json")
        output = file.parent if file.name == "provenance.json" else file.with_name(name)
        found[output] = read_json(file)
    return found
