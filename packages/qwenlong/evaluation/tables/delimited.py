"""Tables as CSV, a line a cell, for machines."""

from __future__ import annotations

import csv
import io

from qwenlong.evaluation.tables.build import Cell, Table
from qwenlong.evaluation.tables.values import Value

FIELDS = (
    *("table", "row", "column", "model", "ours", "ours_low", "ours_high", "n", "attempted", "scored", "seeds"),
    *("paper", "paper_low", "paper_high", "doubtful", "difference", "difference_low", "difference_high", "missing"),
)


def render(tables: list[Table]) -> str:
    """Return all cells, numbers in percent with four decimals; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                writer.writerow([table.name, row.name, column, row.model, *_cell(cell)])
    return out.getvalue()


def _cell(cell: Cell) -> list[object]:
    ours = cell.ours
    counts: list[object] = ["", "", "", ""]
    if ours is not None and ours.value is not None:
        counts = [ours.n, ours.attempted, ours.scored, ours.seeds]
    return [
        *_value(None if ours is None else ours.value),
        *counts,
        *_value(cell.paper),
        int(cell.doubtful),
        *_value(cell.difference),
        "" if ours is None else " ".join(ours.missing),
    ]


def _value(value: Value | None) -> list[str]:
    numbers = (None, None, None) if value is None else (value.value, value.low, value.high)
    return ["" if x is None else f"{x:.4f}" for x in numbers]
