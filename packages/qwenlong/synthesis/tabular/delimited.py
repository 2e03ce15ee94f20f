"""Blocks of CSV or TSV inside a text: consecutive lines with as many fields each, names above numbers."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.synthesis.tabular.grid import MAX_LINE, MAX_ROWS, Cell, Found, Line, Row, cell, grid, plausible


def fields(line: Line, separator: str) -> Row | None:
    """Return the fields of a line, quotes as in RFC 4180; None where a quote does not close on it.

    After a comma a space makes a sentence likelier than a table, hence None.
    """
    text, found, place = line.text, [], 0
    if len(text) > MAX_LINE:
        return None
    while True:
        if text.startswith('"', place):
            end = place + 1
            while True:
                end = text.find('"', end)
                if end < 0:
                    return None
                if text.startswith('""', end):
                    end += 2
                    continue
                break
            inner = text[place + 1 : end].replace('""', '"')
            spans = ((line.start + place + 1, line.start + end),) if inner else ()
            found.append(Cell(inner.strip(), spans))
            place = end + 1
            if place < len(text) and text[place] != separator:
                return None
        else:
            end = text.find(separator, place)
            end = len(text) if end < 0 else end
            if separator == "," and text[place : place + 1] == " " and found:
                return None
            found.append(cell(line, place, end))
            place = end
        if place >= len(text):
            return tuple(found)
        place += 1


def read(lines: Sequence[Line], place: int) -> Found | None:
    """Return what begins at a line; None when no separator makes a table of it."""
    for separator in ("\t", ";", ","):
        if separator not in lines[place].text:
            continue
        head = fields(lines[place], separator)
        if head is None or len(head) < 2 or not all(one.text for one in head):
            continue
        rows: list[Row] = []
        last = place + 1
        while last < len(lines) and len(rows) <= MAX_ROWS and lines[last].text.strip():
            row = fields(lines[last], separator)
            if row is None or len(row) != len(head):
                break
            rows.append(row)
            last += 1
        if plausible(head, rows):
            return Found(grid("tsv" if separator == "\t" else "csv", place, last, head, rows), last)
    return None
