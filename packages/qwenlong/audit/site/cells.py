"""Tables of several seeds: each cell with its interval, its seeds, and the files that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenlong.audit import tables
from qwenlong.audit.results import Scores
from qwenlong.audit.site.runs import Run
from qwenlong.audit.site.statistics import Estimate, Items, estimate
from qwenlong.core.config import MODELS, AblationRow
from qwenlong.core.published import Published
from qwenlong.core.records import TASKS

#: Digits that are kept of numbers in files: more than is shown, fewer than machines differ in.
DIGITS = 6


@dataclass(frozen=True)
class Source:
    """One seed's part of a number: the run, and the scores file under its results."""

    run: str
    seed: int
    file: str

    def as_json(self) -> dict[str, Any]:
        """Return the source for tables.json."""
        return {"run": self.run, "seed": self.seed, "file": self.file}


@dataclass(frozen=True)
class SeededCell:
    """A number in percent. Empty (no estimate): `commands` make it, one a seed; none where the recipe leaves it out."""

    key: str
    estimate: Estimate | None
    sources: tuple[Source, ...]
    commands: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the cell for tables.json."""
        return {
            "key": self.key,
            **estimate_json(self.estimate),
            "sources": [source.as_json() for source in self.sources],
            "commands": list(self.commands),
        }


@dataclass(frozen=True)
class SeededTable:
    """A table at one scale, in the shape of a published one; `rows` holds name, note, cells and the paper's numbers."""

    name: str
    scale: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, Mapping[str, SeededCell], Mapping[str, float | None]], ...]

    def cells(self) -> list[SeededCell]:
        """Return all cells, row by row."""
        return [cells[column] for _, _, cells, _ in self.rows for column in self.columns]

    def as_json(self) -> dict[str, Any]:
        """Return the table for tables.json."""
        rows = [
            {"row": name, "note": note, "cells": {c: cell.as_json() for c, cell in cells.items()}, "paper": dict(paper)}
            for name, note, cells, paper in self.rows
        ]
        value = {"name": self.name, "scale": self.scale, "title": self.title}
        return value | {"columns": list(self.columns), "rows": rows}


def estimate_json(value: Estimate | None) -> dict[str, Any]:
    """Return an estimate for JSON; an empty one has a value of none."""

    def kept(number: float | None) -> float | None:
        return None if number is None else round(number, DIGITS) + 0.0

    if value is None:
        return {"value": None, "low": None, "high": None, "p": None, "n": 0, "seeds": 0}
    return {
        "value": kept(value.value),
        "low": kept(value.low),
        "high": kept(value.high),
        "p": kept(value.p),
        "n": value.n,
        "seeds": value.seeds,
    }


def found(runs: Sequence[Run], read: Callable[[Run], Scores | None]) -> list[tuple[Run, Scores]]:
    """Return the scores of each seed once: of the first run that has them."""
    chosen: dict[int, tuple[Run, Scores]] = {}
    for run in runs:
        if run.seed not in chosen and (scores := read(run)) is not None:
            chosen[run.seed] = (run, scores)
    return [chosen[seed] for seed in sorted(chosen)]


def items_of(scores: Scores, column: str) -> Items:
    """Return task → item → score in [0, 1] of a column: a task's own, or all tasks'."""
    if column in ("avg", "memory_agent"):
        return scores.attempted
    return {column: scores.attempted[column]} if column in scores.attempted else {}


def file_of(model: str, ablation: bool, benchmark: str) -> str:
    """Return where the scores of a model stand under its results."""
    start = f"ablations/{model}/evaluation" if ablation else f"evaluation/{model}"
    return f"{start}/{benchmark}/scores.json"


def cell(runs: Sequence[Run], key: str, model: str, column: str, *, ablation: bool = False) -> SeededCell:
    """Return a model's number over the seeds of a scale."""
    agent = column == "memory_agent"
    having = found(runs, lambda run: run.evaluations.scores(model, ablation=ablation, agent=agent))
    values = [items_of(scores, column) for _, scores in having]
    number = None
    if values:
        try:
            number = estimate(values).scaled(100.0, (0.0, 100.0))
        except ValueError:
            having = []
    else:
        having = []
    done = {run.seed for run, _ in having}
    waiting: dict[int, str] = {}
    for run in runs:
        empty = run.evaluations.cell(model, column, ablation=ablation)
        if run.seed not in done and empty.command is not None:
            waiting.setdefault(run.seed, empty.command)
    benchmark = tables.HELDOUT_LONG if agent else tables.HELDOUT
    sources = tuple(Source(run.name, run.seed, file_of(model, ablation, benchmark)) for run, _ in having)
    return SeededCell(key, number, sources, tuple(waiting[seed] for seed in sorted(waiting)))


def all_tables(runs: Sequence[Run], scale: str, published: Published) -> list[SeededTable]:
    """Return Table 10 and the ablation tables of a scale, rows as its configurations have them."""
    wide = ("avg", *TASKS, "memory_agent")
    stages = [(tables.TABLE10_ROWS[model], model, "", False) for model in MODELS]
    made = [_table("table10", scale, "After each post-training stage", wide, stages, runs, published)]
    named: dict[str, AblationRow] = {}
    for run in runs:
        for row in run.rows:
            named.setdefault(row.name, row)
    for table in tables.ABLATION_TABLES:
        members = [row.name for row in named.values() if table in row.tables]
        if members:
            rows = [("base", "base", "", False), *((name, name, "", True) for name in members)]
            title = published.tables[table].title if table in published.tables else "Rows of ours"
            made.append(_table(table, scale, title.split(",")[0], ("avg", *TASKS), rows, runs, published))
    merges: dict[str, str] = {}
    for run in runs:
        for merge in run.config.ablations.merges:
            merges.setdefault(merge.name, tables.described(merge))
    if merges:
        rows = [*((name, name, "", False) for name in (*tables.MERGED_MODELS, "sce_merge"))]
        rows += [(name, name, note, True) for name, note in merges.items()]
        title = "Merges of the last full-context stage and memory RL"
        made.append(_table("merges", scale, title, wide, rows, runs, published))
    return made


def _table(
    name: str,
    scale: str,
    title: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, str, str, bool]],
    runs: Sequence[Run],
    published: Published,
) -> SeededTable:
    made = []
    for shown, model, note, ablation in rows:
        cells = {
            column: cell(runs, f"{scale}.{name}.{shown}.{column}", model, column, ablation=ablation)
            for column in columns
        }
        made.append((shown, note, cells, tables.paper_of(published, name, shown)))
    return SeededTable(name, scale, title, columns, tuple(made))
