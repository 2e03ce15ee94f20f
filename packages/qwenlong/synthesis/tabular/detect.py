"""Find every table of a text. Lines belong to one table at most; the stricter form reads them first."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.synthesis.tabular import aligned, delimited, markdown, rst_grid, rst_simple
from qwenlong.synthesis.tabular.grid import MAX_LINE, Grid, Line, lines_of

_FRAMED = (markdown.read, rst_grid.read, rst_simple.read)
_BARE = (delimited.read, aligned.read)
#: Signs without which a line begins no table at all.
_SIGNS = ("|", "+-", "==", "\t", ";", ",", "  ")

#: A table without a frame begins within so many lines of a paragraph: each start reads on to the paragraph's end.
NEAR = 4


def grids(text: str, bare: bool = True) -> tuple[list[Line], list[Grid]]:
    """Return the lines of a text and its tables in order.

    `bare`: also tables without a frame (CSV, TSV, aligned columns); source code has lists of numbers that look so.
    Markdown's fenced blocks hold examples of markup, so that framed tables in them are none.
    """
    lines = lines_of(text)
    found: list[Grid] = []
    place, fence, since = 0, "", 0
    while place < len(lines):
        line = lines[place].text
        stripped = line.lstrip()
        if stripped.startswith(("```", "~~~")):
            fence = "" if fence and stripped.startswith(fence) else fence or stripped[:3]
            place, since = place + 1, 0
            continue
        step = place + 1
        since = since + 1 if stripped else 0
        if len(line) <= MAX_LINE and any(sign in line for sign in _SIGNS):
            step = _at(lines, place, fence, bare and since <= NEAR, found)
        if step > place + 1:
            since = 0
        place = step
    return lines, found


def _at(lines: Sequence[Line], place: int, fence: str, bare: bool, found: list[Grid]) -> int:
    for reader in () if fence else _FRAMED:
        made = reader(lines, place)
        if made is not None:
            if made.grid is not None:
                found.append(made.grid)
            return made.last
    for reader in _BARE if bare else ():
        made = reader(lines, place)
        if made is not None and made.grid is not None:
            found.append(made.grid)
            return made.last
    return place + 1
