"""reStructuredText simple tables: columns below borders of "=". Spans ("----" below cells) leave the table out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.synthesis.tabular.grid import MAX_LINE, MAX_ROWS, Cell, Found, Grid, Line, Row, cell, grid, joined

_BORDER = re.compile(r"\s*=+(?: +=+)+\s*")


def read(lines: Sequence[Line], place: int) -> Found | None:
    """Return what begins at a line; None when it is no simple table."""
    top = lines[place].text.rstrip()
    if not top.lstrip().startswith("==") or len(top) > MAX_LINE or not _BORDER.fullmatch(top):
        return None
    borders = [place]
    last = place + 1
    while last < len(lines) and last - place <= 4 * MAX_ROWS:
        text = lines[last].text.rstrip()
        if len(text) > MAX_LINE:
            break
        if text == top:
            borders.append(last)
            if len(borders) == 3 or last + 1 == len(lines) or not lines[last + 1].text.strip():
                break
        last += 1
    if len(borders) != 3:
        # Without a head (two borders), or without an end.
        return Found(None, borders[-1] + 1)
    return Found(_grid(lines, borders), borders[-1] + 1)


def _grid(lines: Sequence[Line], borders: Sequence[int]) -> Grid | None:
    first, middle, last = borders
    starts = [match.span() for match in re.finditer("=+", lines[first].text)]
    head = _rows(lines[first + 1 : middle], starts, one=True)
    rows = _rows(lines[middle + 1 : last], starts)
    return None if head is None or rows is None or not head else grid("rst simple", first, last + 1, head[0], rows)


def _rows(lines: Sequence[Line], columns: Sequence[tuple[int, int]], one: bool = False) -> list[Row] | None:
    """Return the rows of lines, None for text between columns. A line without a first cell goes on with the row."""
    found: list[list[list[Cell]]] = []
    for line in lines:
        text = line.text.rstrip()
        if not text:
            continue
        if set(text) <= {"-", " "} or text[: columns[0][0]].strip():
            return None
        ends = [left for left, _ in columns[1:]]
        cells = []
        for (left, right), following in zip(columns, [*ends, len(text) + 1], strict=True):
            # Only the last column may be wider than its border.
            if following <= len(text) and text[right:following].strip():
                return None
            cells.append(cell(line, left, max(right, following - 1)))
        if found and (one or not cells[0].text):
            for parts, piece in zip(found[-1], cells, strict=True):
                parts.append(piece)
        else:
            found.append([[piece] for piece in cells])
    return [tuple(joined(parts) for parts in row) for row in found]
