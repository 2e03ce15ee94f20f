"""Table 10 and the ablation tables, from our own scores, with the published numbers beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit.merges import described
from qwenlong.audit.results import Cell, Scores, read_scores
from qwenlong.core.config import MERGED_MODELS, MODELS, AblationRow, Config
from qwenlong.core.published import Published
from qwenlong.core.records import TASKS

#: Our models by the names of Table 10's rows.
TABLE10_ROWS = {
    "base": "base",
    "naive_grpo": "naive_grpo",
    "rl_1": "full_context_rl_stage_1",
    "rl_2": "full_context_rl_stage_2",
    "rl_3": "full_context_rl_stage_3",
    "memory_rl": "memory_rl",
    "sce_merge": "sce_merge",
    "rl_4": "full_context_rl_stage_4",
}
AGENT_COLUMN = "memory_agent_mrcr_512k_1m"
#: Our column that stands in for a published one in claims; the others have no counterpart on held-out samples.
COUNTERPARTS = {"avg": "avg", "mrcr": "dialogue_memory", AGENT_COLUMN: "memory_agent"}
#: Benchmarks of our own samples.
HELDOUT, HELDOUT_LONG = "heldout", "heldout_long"
ABLATION_TABLES = ("table2", "table4", "table5", "extra")


@dataclass(frozen=True)
class Row:
    """A row: our cells by column, and the paper's numbers for the columns that have a counterpart."""

    name: str
    model: str
    cells: Mapping[str, Cell]
    paper: Mapping[str, float | None]
    note: str = ""
    """What the row is, where its name does not say it."""

    def as_json(self) -> dict[str, Any]:
        """Return the row for tables.json."""
        cells = {column: cell.as_json() for column, cell in self.cells.items()}
        value = {"row": self.name, "model": self.model, "cells": cells, "paper": dict(self.paper)}
        return value | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class ResultTable:
    """A table in the shape of a published one."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the table for tables.json."""
        rows = [row.as_json() for row in self.rows]
        return {"name": self.name, "title": self.title, "columns": list(self.columns), "rows": rows}


class Evaluations:
    """The scores of a results folder, read once each, with the command that makes a missing one."""

    def __init__(self, results: Path, config: Config, config_file: str) -> None:
        self.results = results
        self._command = f"snakemake --cores all --configfile {config_file}"
        # The audit's columns are tasks of our own samples; the paper's benchmarks have `qwenlong evaluate tables`.
        self._full = HELDOUT if HELDOUT in config.evaluation.benchmarks else None
        self._agent = HELDOUT_LONG if HELDOUT_LONG in config.evaluation.agent_benchmarks else None
        self._cache: dict[Path, Scores | None] = {}
        self._merges = {row.name for row in config.ablations.merges}
        self._shown = config.run.results

    def _read(self, parts: tuple[str, ...]) -> Scores | None:
        file = self.results.joinpath(*parts, "scores.json")
        if file not in self._cache:
            self._cache[file] = read_scores(file)
        return self._cache[file]

    def _parts(self, model: str, ablation: bool, agent: bool) -> tuple[str, ...] | None:
        benchmark = self._agent if agent else self._full
        # The recipe runs naive GRPO's model and the trained ablations without the memory agent.
        alone = model == "naive_grpo" or (ablation and model not in self._merges)
        if benchmark is None or (agent and alone):
            return None
        return ("ablations", model, "evaluation", benchmark) if ablation else ("evaluation", model, benchmark)

    def scores(self, model: str, *, ablation: bool = False, agent: bool = False) -> Scores | None:
        """Return a model's scores, none when they are not there."""
        parts = self._parts(model, ablation, agent)
        return None if parts is None else self._read(parts)

    def cell(self, model: str, column: str, *, ablation: bool = False) -> Cell:
        """Return a cell; an empty one carries the command that fills it, or none when the recipe leaves it out."""
        agent = column == "memory_agent"
        parts = self._parts(model, ablation, agent)
        if parts is None:
            return Cell()
        scores = self._read(parts)
        if scores is not None:
            return scores.cell("avg" if agent else column)
        return Cell(command=f"{self._command} {self._shown}/{'/'.join(parts)}/scores.json")


def paper_of(published: Published, table: str, row: str) -> dict[str, float | None]:
    """Return the paper's numbers of a row by our columns that have a counterpart."""
    found = published.tables.get(table)
    if found is None:
        return {}
    # Only averages and the agent: the paper's six benchmarks are not our five tasks.
    names = {"avg": "avg", "memory_agent": AGENT_COLUMN}
    return {ours: found.cell(row, theirs) for ours, theirs in names.items() if theirs in found.columns}


def table10(evaluations: Evaluations, published: Published) -> ResultTable:
    """Return Table 10's shape: every model of the recipe, average, five tasks, memory agent."""
    columns = ("avg", *TASKS, "memory_agent")
    rows = tuple(
        Row(
            TABLE10_ROWS[model],
            model,
            {column: evaluations.cell(model, column) for column in columns},
            paper_of(published, "table10", TABLE10_ROWS[model]),
        )
        for model in MODELS
    )
    return ResultTable("table10", "After each post-training stage", columns, rows)


def ablations(evaluations: Evaluations, config: Config, published: Published) -> list[ResultTable]:
    """Return Tables 2, 4 and 5 (and rows of ours), as far as the configuration has rows for them."""
    columns = ("avg", *TASKS)
    named = [row for row in config.ablations.rows if isinstance(row, AblationRow)]
    made = []
    for table in ABLATION_TABLES:
        members = [row.name for row in named if table in row.tables]
        if not members:
            continue
        names = ["base", *members]
        rows = tuple(
            Row(
                name,
                name,
                {column: evaluations.cell(name, column, ablation=name != "base") for column in columns},
                paper_of(published, table, name),
            )
            for name in names
        )
        title = published.tables[table].title if table in published.tables else "Rows of ours"
        made.append(ResultTable(table, title.split(",")[0], columns, rows))
    if config.ablations.merges:
        made.append(_merges(evaluations, config, published))
    return made


def _merges(evaluations: Evaluations, config: Config, published: Published) -> ResultTable:
    """Return Table 10's merge beside its inputs and other merges of them."""
    columns = ("avg", *TASKS, "memory_agent")
    notes = {"sce_merge": described(config.merge)} | {row.name: described(row) for row in config.ablations.merges}
    rows = tuple(
        Row(
            name,
            name,
            {column: evaluations.cell(name, column, ablation=name not in MODELS) for column in columns},
            paper_of(published, "table10", TABLE10_ROWS[name]) if name in TABLE10_ROWS else {},
            notes.get(name, ""),
        )
        for name in (*MERGED_MODELS, *notes)
    )
    return ResultTable("merges", "Merges of the last full-context stage and memory RL", columns, rows)


def markdown(table: ResultTable) -> str:
    """Return a table as Markdown: percent, 95% interval, n; the paper's number in parentheses where there is one."""
    lines = [f"| row | {' | '.join(table.columns)} |", "|---" * (len(table.columns) + 1) + "|"]
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell, paper = row.cells[column], row.paper.get(column)
            text = "" if cell.value is None else f"{cell.value:.1f}"
            if cell.ci95 is not None:
                text += f" [{cell.ci95[0]:.1f}, {cell.ci95[1]:.1f}] n={cell.n}"
            cells.append(text + ("" if paper is None else f" (paper {paper:.2f})"))
        name = f"{row.name} ({row.note})" if row.note else row.name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    missing = sorted({c.command for row in table.rows for c in row.cells.values() if c.command is not None})
    if missing:
        lines += ["", "Empty cells are made by:", "", *(f"    {command}" for command in missing)]
    return "\n".join(lines) + "\n"
