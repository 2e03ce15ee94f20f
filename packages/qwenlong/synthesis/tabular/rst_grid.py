"""reStructuredText grid tables. Cells that span columns or rows leave the table out: whose they are is unclear."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.synthesis.tabular.grid import MAX_LINE, Cell, Found, Grid, Line, Row, cell, grid, joined

_BORDER = re.compile(r"\s*\+(?:-+\+)+")


def read(lines: Sequence[Line], place: int) -> Found | None:
    """Return what begins at a line; None when it is no grid table."""
    top = lines[place].text.rstrip()
    if not top.lstrip().startswith("+-") or len(top) > MAX_LINE or not _BORDER.fullmatch(top):
        return None
    indent = len(top) - len(top.lstrip())
    last = place
    while (
        last < len(lines) and len(lines[last].text) <= MAX_LINE and lines[last].text[indent : indent + 1] in ("+", "|")
    ):
        last += 1
    return Found(_grid(lines, place, last), last)


def _grid(lines: Sequence[Line], first: int, last: int) -> Grid | None:
    top = lines[first].text.rstrip()
    cuts = [place for place, sign in enumerate(top) if sign == "+"]
    rows: list[Row] = []
    heads: list[int] = []
    open_row: list[list[Cell]] = [[] for _ in cuts[1:]]
    for line in lines[first:last]:
        text = line.text.rstrip()
        if len(text) != len(top):
            return None
        marks = {text[cut] for cut in cuts}
        pieces = list(zip(cuts, cuts[1:], strict=False))
        if marks == {"|"}:
            for column, (left, right) in enumerate(pieces):
                open_row[column].append(cell(line, left + 1, right))
            continue
        inner = {text[left + 1 : right].strip(sign) for left, right in pieces for sign in text[left + 1]}
        if marks != {"+"} or inner != {""} or {text[left + 1] for left, _ in pieces} not in ({"-"}, {"="}):
            return None
        if any(open_row):
            rows.append(tuple(joined(parts) for parts in open_row))
            open_row = [[] for _ in pieces]
        if "=" in text:
            heads.append(len(rows))
    # One line of "=" below the first row makes it the head; anything else has no head that can be trusted.
    if heads != [1] or any(open_row):
        return None
    return grid("rst grid", first, last, rows[0], rows[1:])
