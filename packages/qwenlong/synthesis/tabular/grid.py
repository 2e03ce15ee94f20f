"""What all table readers give: a head and rows of cells, each with the characters it was read from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: A longer line is no row that anybody reads; one of megabytes must not cost more than a look at its length.
MAX_LINE = 20_000
#: Longer cells are text that happens to stand in a table.
MAX_CELL = 2_000
MAX_COLUMNS = 64
MAX_ROWS = 5_000


@dataclass(frozen=True)
class Line:
    """A line of a document without its line feed; `start` is where it begins."""

    text: str
    start: int


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and the spans [start, end) that it was read from: several where it runs over lines."""

    text: str
    spans: tuple[tuple[int, int], ...]


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """A table as it stands in a text, lines [first, last): one head, and rows of as many cells."""

    form: str
    first: int
    last: int
    head: Row
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Found:
    """What a reader makes of the lines from one on: the table, None where they look like one but are refused."""

    grid: Grid | None
    last: int


def lines_of(text: str) -> list[Line]:
    """Return the lines of a text with their places. Only a line feed ends a line, as in the corpus."""
    found, start = [], 0
    for line in text.split("\n"):
        found.append(Line(line, start))
        start += len(line) + 1
    return found


def cell(line: Line, start: int, end: int) -> Cell:
    """Return the cell of characters [start, end) of a line, without white space around it."""
    text = line.text[start:end]
    left = start + len(text) - len(text.lstrip())
    stripped = text.strip()
    if not stripped:
        return Cell("", ())
    return Cell(stripped, ((line.start + left, line.start + left + len(stripped)),))


def joined(parts: Sequence[Cell]) -> Cell:
    """Return one cell of the pieces that it has on several lines."""
    shown = [part for part in parts if part.text]
    return Cell(" ".join(part.text for part in shown), tuple(span for part in shown for span in part.spans))


def grid(form: str, first: int, last: int, head: Row, rows: Sequence[Row]) -> Grid | None:
    """Return a table; None unless all rows are as wide as the head, there is one, and all is of bearable size."""
    if not rows or len(rows) > MAX_ROWS or not 2 <= len(head) <= MAX_COLUMNS:
        return None
    if any(len(row) != len(head) for row in rows):
        return None
    if any(len(one.text) > MAX_CELL for row in (head, *rows) for one in row):
        return None
    return Grid(form, first, last, head, tuple(rows))


_DIGITS = re.compile(r"[(\-+−$€£]*\d[\d,.]*(?:[eE][-+]?\d+)?[)%*]*")


def numeric(text: str) -> bool:
    """Tell whether a cell looks like a number, whatever it means."""
    return _DIGITS.fullmatch(text) is not None


def plausible(head: Row, rows: Sequence[Row]) -> bool:
    """Tell whether lines without any frame are a table: names above, and at least one column of numbers."""
    if len(rows) < 2 or any(not one.text or numeric(one.text) or len(one.text.split()) > 6 for one in head):
        return False
    return any(all(numeric(row[place].text) for row in rows) for place in range(len(head)))
