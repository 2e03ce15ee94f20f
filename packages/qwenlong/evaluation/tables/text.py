"""Cells as text, the same in every format; what a format needs in its own way it replaces after."""

from __future__ import annotations

from collections.abc import Iterator

from qwenlong.evaluation.tables.build import Cell, Row, Table
from qwenlong.evaluation.tables.values import Value

MINUS, PLUS_MINUS, NONE, DAGGER = "−", "±", "–", "†"


def interval(value: Value) -> str:
    """Return "[69.9, 73.7]", empty where there is no interval."""
    return "" if value.low is None or value.high is None else f"[{value.low:.1f}, {value.high:.1f}]"


def number(value: Value) -> str:
    """Return "71.82"."""
    return f"{value.value:.2f}"


def signed(value: float) -> str:
    """Return "+1.20" or "−0.35", with a minus as long as the plus is wide; "0.00" has no sign."""
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", MINUS)


def ours(cell: Cell) -> str:
    """Return "71.80 [69.9, 73.7] n=4152"; blank where nothing was run."""
    if cell.ours is None:
        return NONE
    if cell.ours.value is None:
        return ""
    return " ".join(word for word in (number(cell.ours.value), interval(cell.ours.value), f"n={cell.ours.n}") if word)


def paper(cell: Cell) -> str:
    """Return "71.82 [70.5, 73.1]", with a dagger where the number cannot be right."""
    if cell.paper is None:
        return NONE
    return f"{number(cell.paper)}{DAGGER if cell.doubtful else ''} {interval(cell.paper)}".rstrip()


def difference(cell: Cell) -> str:
    """Return "−0.02 [-2.1, 2.0]"; blank where a side is missing or no target."""
    found = cell.difference
    if found is None:
        return ""
    return f"{signed(found.value)} {interval(found).replace('-', MINUS)}".rstrip()


def lines(row: Row) -> Iterator[tuple[str, list[str], str]]:
    """Yield the lines of a row: label, cells, and which numbers they are ("ours", "paper", "difference").

    A row of another model has the paper's line alone.
    """
    if not row.ours:
        yield f"{row.title} (paper)", [paper(cell) for cell in row.cells], "paper"
        return
    name = f"{row.title} ({row.model})" if row.model else row.title
    label = ", ".join([name, "ours", *([row.seeds] if row.seeds else [])])
    yield label, [ours(cell) for cell in row.cells], "ours"
    if row.published:
        yield "paper", [paper(cell) for cell in row.cells], "paper"
        if any(cell.difference is not None for cell in row.cells):
            yield "difference", [difference(cell) for cell in row.cells], "difference"


def heading(table: Table) -> str:
    """Return "Table 7. Main results", or the name of a benchmark of ours."""
    return f"Table {table.number}. {table.title}" if table.number != table.name else table.title
