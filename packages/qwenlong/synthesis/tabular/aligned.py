"""Columns that only white space parts: at least two blanks in every line at the same place, and no empty cell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.synthesis.tabular.grid import MAX_LINE, MAX_ROWS, Found, Line, cell, grid, plausible

_GUTTER = re.compile(r"\S {2,}\S")


def read(lines: Sequence[Line], place: int) -> Found | None:
    """Return what begins at a line; None when the lines down to the next gap do not line up."""
    last = place
    while last < len(lines) and last - place <= MAX_ROWS and len(lines[last].text) <= MAX_LINE:
        text = lines[last].text
        ruled = last > place and set(text.strip()) <= {"-", "=", " "} and text.strip()
        if not (ruled or _GUTTER.search(text)):
            break
        last += 1
    if last - place < 3:
        return None
    block = list(lines[place:last])
    if set(block[1].text.strip()) <= {"-", "=", " "}:
        del block[1]
    if len(block) < 3 or any(set(line.text.strip()) <= {"-", "=", " "} for line in block):
        return None
    width = max(len(line.text) for line in block)
    used = bytearray(width)
    for line in block:
        for match in re.finditer(r"\S+(?: \S+)*", line.text):
            used[match.start() : match.end()] = b"\x01" * (match.end() - match.start())
    columns = [match.span() for match in re.finditer(rb"\x01+(?:\x00\x01+)*", bytes(used))]
    rows = [tuple(cell(line, left, right) for left, right in columns) for line in block]
    if len(columns) < 2 or any(not one.text or "  " in one.text for row in rows for one in row):
        return None
    if not plausible(rows[0], rows[1:]):
        return None
    return Found(grid("aligned", place, last, rows[0], rows[1:]), last)
