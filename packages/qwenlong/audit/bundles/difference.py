"""Naming where two files that should be the same differ: the cell, the value found, the value expected."""

from __future__ import annotations

import csv
import io
import json
import re

from qwenlong.audit.bundles.rescoring import compare

#: Characters shown of either side.
SHOWN = 60
_KEY = re.compile(r'data-key="([^"]*)"|<tr id="([^"]*)"|<h[1-3] id="([^"]*)"')


def describe(name: str, found: str, expected: str) -> str:
    """Return one line: file, place, value found, value expected. The texts differ."""
    place = _json if name.endswith(".json") else _csv if name.endswith(".csv") else _text
    try:
        where, a, b = place(found, expected)
    except (ValueError, StopIteration):
        where, a, b = _text(found, expected)
    return f"{name}: {where}: {a}, expected {b}"


def _json(found: str, expected: str) -> tuple[str, str, str]:
    where, a, b = next(compare(json.loads(found), json.loads(expected)))
    return where, _short(str(a)), _short(str(b))


def _csv(found: str, expected: str) -> tuple[str, str, str]:
    rows, known = (list(csv.reader(io.StringIO(text))) for text in (found, expected))
    head = known[0] if known else []
    for number, (row, other) in enumerate(zip(rows, known, strict=False), 1):
        for place, (a, b) in enumerate(zip(row, other, strict=False)):
            if a != b:
                column = head[place] if place < len(head) else str(place + 1)
                named = " ".join(cell for cell in other[:3] if cell)
                return f"line {number} ({named}), {column}", _short(a), _short(b)
        if len(row) != len(other):
            return f"line {number}", f"{len(row)} cells", str(len(other))
    if len(rows) != len(known):
        return "the end", f"{len(rows)} lines", str(len(known))
    raise ValueError("the same cells")


def _text(found: str, expected: str) -> tuple[str, str, str]:
    end = min(len(found), len(expected))
    at = next((place for place in range(end) if found[place] != expected[place]), end)
    line = expected.count("\n", 0, at) + 1
    start = max(expected.rfind("\n", 0, at) + 1, at - SHOWN // 2)
    keys = [next(filter(None, match)) for match in _KEY.findall(expected[:at])]
    where = f"line {line}" + (f", at or after {keys[-1]}" if keys else "")
    return where, _cut(found, start), _cut(expected, start)


def _cut(text: str, start: int) -> str:
    line = text[start:].split("\n", 1)[0]
    return repr(line[:SHOWN])


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
