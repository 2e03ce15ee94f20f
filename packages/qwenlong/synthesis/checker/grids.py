"""Tables of a text, read for the checker alone: heads and rows of texts, by other means than the generator's."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwenlong.core.records import Document


@dataclass(frozen=True)
class Table:
    """Head and rows of one table of a document, with the lines right above and below it."""

    document: Document
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    around: str

    @property
    def periods(self) -> bool:
        """Tell whether all columns but the first are points in time."""
        return len(self.head) > 2 and all(is_period(name) for name in self.head[1:])


_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?[ -](?:\d{4}|\d\d)"
_PERIOD = re.compile(
    rf"(?:1[5-9]|20)\d\d(?:-\d\d){{0,2}}|(?:19|20)\d\d[ -]?q[1-4]|q[1-4][ -]?(?:19|20)\d\d|{_MONTH}", re.IGNORECASE
)


def is_period(text: str) -> bool:
    """Tell whether a text is a year, quarter, month or day."""
    return _PERIOD.fullmatch(text) is not None


def tables(document: Document) -> Iterator[Table]:
    """Yield the tables of a document: pipes, reStructuredText, separated values, aligned columns."""
    lines = document.text.split("\n")
    place = 0
    while place < len(lines):
        for reader in (_pipes, _grid, _simple, _separated, _aligned):
            found = reader(lines, place)
            if found is None:
                continue
            rows, end = found
            rows = [tuple(" ".join(cell.split()) for cell in row) for row in rows]
            if len(rows) > 1 and all(len(row) == len(rows[0]) > 1 for row in rows):
                above = [line for line in lines[max(0, place - 2) : place] if line.strip()]
                below = [line for line in lines[end : end + 2] if line.strip()]
                yield Table(document, rows[0], tuple(rows[1:]), "\n".join(above[-1:] + below[:1]))
            place = end
            break
        else:
            place += 1


Read = tuple[list[tuple[str, ...]], int]


def _pipes(lines: Sequence[str], place: int) -> Read | None:
    if place + 2 >= len(lines) or "|" not in lines[place] or "-" not in lines[place + 1]:
        return None
    if not re.fullmatch(r"[\s|:-]+", lines[place + 1]) or "|" not in lines[place + 1]:
        return None
    rows, end = [], place
    while end < len(lines) and "|" in lines[end]:
        if end != place + 1:
            # An escaped pipe is set aside while the line is split.
            line = lines[end].replace("\\|", "\x00").strip()
            line = line.removeprefix("|").removesuffix("|")
            rows.append(tuple(cell.replace("\x00", "|") for cell in line.split("|")))
        end += 1
    return rows, end


def _grid(lines: Sequence[str], place: int) -> Read | None:
    border = lines[place].strip()
    if not re.fullmatch(r"\+(?:-+\+)+", border):
        return None
    rows: list[tuple[str, ...]] = []
    pieces: list[list[str]] = []
    end = place
    while end < len(lines) and lines[end].strip()[:1] in ("+", "|"):
        line = lines[end].strip()
        if line.startswith("+"):
            if pieces:
                rows.append(tuple(" ".join(parts) for parts in zip(*pieces, strict=True)))
            pieces = []
        else:
            widths = [len(part) for part in border.strip("+").split("+")]
            cells, start = [], 1
            for width in widths:
                cells.append(line[start : start + width].strip())
                start += width + 1
            pieces.append(cells)
        end += 1
    return rows, end


def _simple(lines: Sequence[str], place: int) -> Read | None:
    border = lines[place].rstrip()
    if not re.fullmatch(r"\s*=+(?: +=+)+", border):
        return None
    ends = [n for n in range(place + 1, len(lines)) if lines[n].rstrip() == border][:2]
    if len(ends) < 2:
        return None
    starts = [match.start() for match in re.finditer("=+", border)]
    rows: list[list[str]] = []
    for n in range(place + 1, ends[1]):
        if n == ends[0] or not lines[n].strip():
            continue
        cells = [lines[n][a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if rows and (n < ends[0] or not cells[0]):
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    return [tuple(row) for row in rows], ends[1] + 1


def _separated(lines: Sequence[str], place: int) -> Read | None:
    end = place
    while end < len(lines) and lines[end].strip():
        end += 1
    for sign in ("\t", ";", ","):
        if sign not in lines[place]:
            continue
        rows: list[tuple[str, ...]] = []
        for line in lines[place:end]:
            row = tuple(next(csv.reader([line], delimiter=sign)))
            if rows and len(row) != len(rows[0]):
                break
            rows.append(row)
        if len(rows) > 2 and len(rows[0]) > 1 and not any(re.match(r"-?\d", cell) for cell in rows[0]):
            return rows, place + len(rows)
    return None


def _aligned(lines: Sequence[str], place: int) -> Read | None:
    rows: list[tuple[str, ...]] = []
    end = place
    while end < len(lines) and re.search(r"\S {2,}\S", lines[end]):
        if not re.fullmatch(r"[\s=-]+", lines[end]):
            rows.append(tuple(re.split(r" {2,}", lines[end].strip())))
        end += 1
    if len(rows) < 3 or any(len(row) != len(rows[0]) for row in rows):
        return None
    return rows, end
