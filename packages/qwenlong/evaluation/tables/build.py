"""A table of the paper, filled: our numbers, the published ones, their differences, and what is to be said of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from qwenlong.core.published import Published
from qwenlong.core.published import Table as PublishedTable
from qwenlong.evaluation.tables import faults, values
from qwenlong.evaluation.tables.layout import LAYOUTS, Layout, Measure, Model, left_out, rows_and_columns
from qwenlong.evaluation.tables.results import Measured, Results
from qwenlong.evaluation.tables.titles import title
from qwenlong.evaluation.tables.values import Value


@dataclass(frozen=True)
class Cell:
    """Our number, the paper's, and ours minus the paper's; each may be none."""

    ours: Measured | None
    """None: a model that is not ours."""
    paper: Value | None
    doubtful: bool = False
    """Whether the published number cannot be right, and is no target."""

    @property
    def difference(self) -> Value | None:
        """Ours minus the paper's."""
        if self.ours is None or self.ours.value is None or self.paper is None or self.doubtful:
            return None
        return values.difference(self.ours.value, self.paper)


@dataclass(frozen=True)
class Row:
    """A row. `model` is our name of it; "" where the row is of another model, or of a benchmark (Table 8)."""

    name: str
    title: str
    model: str
    cells: tuple[Cell, ...]

    @property
    def ours(self) -> bool:
        """Whether the row has cells that we can fill."""
        return any(cell.ours is not None for cell in self.cells)

    @property
    def published(self) -> bool:
        """Whether the paper has a number in the row."""
        return any(cell.paper is not None for cell in self.cells)

    @property
    def seeds(self) -> str:
        """How often the numbers were seen; "" where there are none."""
        counts = sorted({c.ours.seeds for c in self.cells if c.ours is not None and c.ours.value is not None})
        if not counts:
            return ""
        if counts == [1]:
            return "seen once"
        return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


@dataclass(frozen=True)
class Table:
    """A table that the renderers write."""

    name: str
    title: str
    columns: tuple[str, ...]
    column_titles: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    """What was not run, and the command that makes it."""

    @property
    def number(self) -> str:
        """The table's number in the paper."""
        return self.name.removeprefix("table")


@dataclass(frozen=True)
class Commands:
    """How missing scores are made: the workflow on a configuration whose results are `configured`."""

    config: str
    configured: str | None = None

    def make(self, results: str, files: Sequence[str]) -> str:
        """Return the command that makes score files under a results folder."""
        words = ["snakemake", "--cores", "all", "--configfile", self.config]
        if results != self.configured:
            plain = re.fullmatch(r"[\w./-]+", results) is not None
            words += ["--config", f"run={{results: {results if plain else json.dumps(results)}}}"]
        return shlex.join([*words, "--", *(f"{results}/{file}" for file in files)])


def build(name: str, results: Results, published: Published, commands: Commands) -> Table:
    """Return a table of the paper by name ("table7"). Raises DataError as `Results` does."""
    layout, source = LAYOUTS[name], published.tables[name]
    names, columns = rows_and_columns(layout, published)
    bad = faults.doubtful(source, layout)
    rows = []
    for row in names:
        cells = []
        for column in columns:
            paper = _published(source, layout, row, column)
            model, measure = _cell(layout, row, column)
            out = model is None or any(left_out(model, part.benchmark) for part in measure.parts)
            ours = None if model is None or out else results.measured(model, measure)
            cells.append(Cell(ours, paper, (row, column) in bad))
        ours_of = None if layout.turned else layout.models.get(row, layout.own.get(row))
        rows.append(Row(row, title(row), "" if ours_of is None else ours_of.name, tuple(cells)))
    head = [title(column) + (f" ({layout.models[column].name})" if layout.turned else "") for column in columns]
    return Table(
        name,
        source.title,
        columns,
        tuple(head),
        tuple(rows),
        tuple([*faults.notes(published, layout), *_measured_notes(rows)]),
        tuple(_missing(layout, rows, columns, commands, str(results.folders[0]))),
    )


def _cell(layout: Layout, row: str, column: str) -> tuple[Model | None, Measure]:
    of, by = (column, row) if layout.turned else (row, column)
    return layout.models.get(of, layout.own.get(of)), layout.measures[by]


def _published(source: PublishedTable, layout: Layout, row: str, column: str) -> Value | None:
    number = source.cell(row, column)
    if number is None:
        return None
    _, measure = _cell(layout, row, column)
    if measure.items is not None:
        return values.wilson(number, measure.items)
    # An average: of independent benchmarks, as wide as its cells make it.
    cells = [_published(source, layout, row, other) for other in layout.averaged_over]
    known = [cell for cell in cells if cell is not None]
    spread = values.mean(known).halves if len(known) == len(cells) else None
    return Value(number) if spread is None else Value(number, number - spread[0], number + spread[1])


def _measured_notes(rows: Sequence[Row]) -> list[str]:
    cells = chain.from_iterable(row.cells for row in rows)
    return list(dict.fromkeys(note for cell in cells if cell.ours is not None for note in cell.ours.notes))


def _missing(
    layout: Layout, rows: Sequence[Row], columns: Sequence[str], commands: Commands, results: str
) -> list[tuple[str, str]]:
    files: dict[str, dict[str, None]] = {}
    for row in rows:
        for column, cell in zip(columns, row.cells, strict=True):
            label = layout.models[column].name if layout.turned else row.model
            for file in cell.ours.missing if cell.ours is not None else ():
                files.setdefault(label, {})[file] = None
    return [(label, commands.make(results, list(found))) for label, found in files.items()]
