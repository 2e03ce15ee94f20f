"""Markdown pipe tables, as GitHub has them: a head, a line of dashes, rows; an escaped pipe stands in a cell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.synthesis.tabular.grid import MAX_LINE, Cell, Found, Line, Row, cell, grid

_PIPE = re.compile(r"\|")
_DASHES = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")


def row(line: Line) -> Row:
    """Return the cells of a line between its unescaped pipes.

    A pipe inside a code span parts cells too, as the flavour says; such a row mostly has one cell too many, and the
    table is refused.
    """
    text = line.text
    cuts = [match.start() for match in _PIPE.finditer(text)]
    if "\\" in text:
        cuts = [cut for cut in cuts if (cut - len(text[:cut].rstrip("\\"))) % 2 == 0]
    first, last = 0, len(text)
    if cuts and not text[: cuts[0]].strip():
        first = cuts.pop(0) + 1
    if cuts and not text[cuts[-1] + 1 :].strip():
        last = cuts.pop()
    borders = [first - 1, *cuts, last]
    cells = [cell(line, start + 1, end) for start, end in zip(borders, borders[1:], strict=False)]
    return tuple(Cell(one.text.replace("\\|", "|"), one.spans) for one in cells)


def read(lines: Sequence[Line], place: int) -> Found | None:
    """Return what begins at a line; None when it is no pipe table."""
    if place + 2 >= len(lines):
        return None
    head, dashes = lines[place].text, lines[place + 1].text
    if "|" not in head or "|" not in dashes or max(len(head), len(dashes)) > MAX_LINE:
        return None
    if not _DASHES.fullmatch(dashes):
        return None
    last = place + 2
    rows: list[Row] = []
    usable = len(row(lines[place + 1])) == len(row(lines[place]))
    while last < len(lines) and "|" in lines[last].text:
        usable = usable and len(lines[last].text) <= MAX_LINE
        if usable:
            rows.append(row(lines[last]))
        last += 1
    return Found(grid("markdown", place, last, row(lines[place]), rows) if usable else None, last)
