"""A table a benchmark, of every model that has scores: for what stands in none of the paper's tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qwenlong.evaluation.compare import read_scores
from qwenlong.evaluation.scoring import SHARES
from qwenlong.evaluation.tables.build import Cell, Row, Table
from qwenlong.evaluation.tables.results import Measured
from qwenlong.evaluation.tables.values import Value

Found = dict[str, dict[str, dict[str, Any]]]


def read(results: Path, leave_out: Collection[str] = ()) -> Found:
    """Return benchmark → model → scores of all score files under `results`/evaluation."""
    found: Found = {}
    for file in sorted((results / "evaluation").glob("*/*/scores.json")):
        if file.parent.name not in leave_out:
            found.setdefault(file.parent.name, {})[file.parent.parent.name] = read_scores(file)
    return found


def _columns(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = {name for scores in models.values() for name in scores["metrics"] if not name.endswith("_scored")}
    return ["avg", *sorted(known - {"avg", *SHARES}), *SHARES]


def _text(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return ""
    low_high = "" if metric["ci95"] is None else f" [{100 * metric['ci95'][0]:.1f}, {100 * metric['ci95'][1]:.1f}]"
    return f"{100 * metric['value']:.1f}{low_high}"


def markdown(found: Found) -> str:
    """Return the tables as Markdown, in percent with 95% intervals."""
    blocks = []
    for benchmark, models in found.items():
        columns = _columns(models)
        lines = [f"## {benchmark}", "", "| model | " + " | ".join(columns) + " | scored / attempted |"]
        lines.append("|---" * (len(columns) + 2) + "|")
        for model, scores in models.items():
            cells = [_text(scores["metrics"].get(name)) for name in columns]
            lines.append(f"| {model} | {' | '.join(cells)} | {scores['n_scored']} / {scores['n_attempted']} |")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def tables(found: Found) -> list[Table]:
    """Return the same for the other formats; what was scored of what was attempted is a note."""
    return [_table(benchmark, models) for benchmark, models in found.items()]


def _table(benchmark: str, models: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = tuple(_columns(models))
    rows, notes = [], []
    for model, scores in models.items():
        cells = []
        for name in columns:
            metric = scores["metrics"].get(name)
            if metric is None or metric["value"] is None:
                cells.append(Cell(Measured(), None))
                continue
            value = Value(*(100 * x for x in (metric["value"], *(metric["ci95"] or ()))))
            cells.append(Cell(Measured(value, metric["n"], scores["n_attempted"], scores["n_scored"], 1), None))
        rows.append(Row(model, model, "", tuple(cells)))
        notes.append(f"{model}: {scores['n_scored']} scored of {scores['n_attempted']} attempted.")
    return Table(benchmark, benchmark, columns, columns, tuple(rows), tuple(notes), ())
