"""From a grid to typed columns: kinds, units, keys. A column that cannot be read in exactly one way is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from qwenlong.synthesis.tabular import units, values
from qwenlong.synthesis.tabular.grid import Cell, Grid, Line, numeric

#: Kinds whose values have an order in time.
PERIODS = ("year", "quarter", "month", "date")
#: Longest name of a column, in characters; it is quoted in questions.
MAX_NAME = 60
#: Longest text that a question or an answer quotes.
MAX_TEXT = 80
_ROW_TOTAL = re.compile(r"(?:grand |sub)?-?totals?\b.*|all\b.*|sum|overall|.*\btotal", re.IGNORECASE)
_YEAR_NAME = re.compile(r"\b(?:year|yr|jahr|date|period|season|time)s?\b|year$", re.IGNORECASE)
_CODE = re.compile(r"(?:^|[\W_])(?:id|code|index|idx|no|nr|zip|key|rownames?)$|[a-z]id$|[a-z](?:ID|Id)$", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column: its head as the table states it, its kind ("text", "number" or a period) and its unit."""

    name: str
    kind: str
    unit: str = ""

    @property
    def is_code(self) -> bool:
        """Tell whether the numbers only name things: their sum would mean nothing."""
        return _CODE.search(self.name.strip()) is not None


@dataclass(frozen=True)
class Value:
    """A cell as a column of its kind reads it. `order` is the place in time of a period."""

    text: str
    spans: tuple[tuple[int, int], ...]
    number: Decimal | None = None
    order: int | None = None


Record = tuple[Value | None, ...]


@dataclass(frozen=True)
class Sheet:
    """A table whose columns are understood. None is a missing value.

    `wide`: its heads were periods, and each row became one a period, with columns (key, "period", "value"). `key`
    names the columns that tell rows apart, none when no one or two do. `totals`: a row sums up others.
    """

    columns: tuple[Column, ...]
    records: tuple[Record, ...]
    contents: tuple[str, ...]
    key: tuple[int, ...]
    wide: bool
    totals: bool
    first_line: int

    @property
    def schema(self) -> tuple[object, ...]:
        """What tables must have in common to be one: names, kinds, units, key, form."""
        columns = tuple((one.name.casefold(), one.kind, one.unit.casefold()) for one in self.columns)
        return self.wide, columns, self.key


def sheets(grid: Grid, lines: Sequence[Line], zero_is_missing: bool = False) -> list[Sheet]:
    """Return the table with what is sure about it; none when fewer than two columns are.

    `zero_is_missing`: the source writes "0" where it has no value.
    """
    caption = units.of_caption(_around(grid, lines))
    names = [" ".join(one.text.split()) for one in grid.head]
    if _wide(names):
        return _melted(grid, names, caption, zero_is_missing)
    columns: list[Column] = []
    read: list[Sequence[Value | None]] = []
    for place, name in enumerate(names):
        # A number is no name: the head of a matrix of measurements, or a first row of data.
        if (
            not name
            or numeric(name)
            or len(name) > MAX_NAME
            or '"' in name
            or [n.casefold() for n in names].count(name.casefold()) > 1
        ):
            continue
        made = _column(name, [row[place] for row in grid.rows], caption, zero_is_missing)
        if made is not None:
            columns.append(made[0])
            read.append(made[1])
    if len(columns) < 2:
        return []
    records = tuple(zip(*read, strict=True))
    key = _key(columns, records)
    totals = _totals(columns, records)
    return [Sheet(tuple(columns), records, tuple(map(_content, grid.rows)), key, False, totals, grid.first)]


def _around(grid: Grid, lines: Sequence[Line]) -> list[str]:
    """Return the nearest line above the table, within two, and the line right below it."""
    above = [line.text for line in lines[max(0, grid.first - 2) : grid.first] if line.text.strip()]
    below = [line.text for line in lines[grid.last : grid.last + 2] if line.text.strip()]
    return [text[:500] for text in above[-1:] + below[:1]]


def _content(row: Sequence[Cell]) -> str:
    return "\x1f".join(" ".join(one.text.split()) for one in row)


def _wide(names: Sequence[str]) -> bool:
    periods = [values.period(name) for name in names[1:]]
    kinds = {found[0] for found in periods if found is not None}
    return len(periods) >= 2 and None not in periods and len(kinds) == 1 and len(set(names[1:])) == len(periods)


def _column(
    name: str, cells: Sequence[Cell], caption: str | None, zero_is_missing: bool
) -> tuple[Column, list[Value | None]] | None:
    """Return a column with its values; None for numbers among words, mixed marks, or a unit that is not sure."""
    texts = [" ".join(one.text.split()) for one in cells]
    shown = [text for text in texts if not values.null(text)]
    if not shown:
        return None
    kinds = {found[0] if found else "" for found in map(values.period, dict.fromkeys(shown))}
    if len(kinds) == 1 and "" not in kinds and ("year" not in kinds or _YEAR_NAME.search(name)):
        kind = kinds.pop()
        read = [
            None if values.null(text) else Value(text, one.spans, order=_period(text)[1])
            for text, one in zip(texts, cells, strict=True)
        ]
        return Column(name, kind), read
    different = list(dict.fromkeys(shown))
    numbers = [values.number(text) for text in different]
    if None not in numbers:
        return _numbers(name, texts, cells, caption, zero_is_missing)
    # A word that nearly is a number ("1,23", "12 a") makes the column unclear; names of things hold few of them.
    if any(found is not None for found in numbers) or any(
        re.match(r"[-(+$€£]*\d[\d.,]*\W*$", text) for text in different
    ):
        return None
    if any('"' in text or len(text) > MAX_TEXT for text in different):
        return None
    return Column(name, "text"), [
        None if values.null(text) else Value(text, one.spans) for text, one in zip(texts, cells, strict=True)
    ]


def _numbers(
    name: str, texts: Sequence[str], cells: Sequence[Cell], caption: str | None, zero_is_missing: bool
) -> tuple[Column, list[Value | None]] | None:
    read: list[Value | None] = []
    marks, brackets, minus = set(), False, False
    for text, one in zip(texts, cells, strict=True):
        found = None if values.null(text) else values.number(text)
        if found is None or (zero_is_missing and found.value == 0):
            read.append(None)
            continue
        marks.add(found.mark)
        brackets |= found.brackets
        minus |= found.value < 0 and not found.brackets
        read.append(Value(text, one.spans, number=found.value))
    unit = _unit(units.of_head(name), marks, caption)
    # Brackets are a minus in accounts only: elsewhere they hold standard errors, counts, ranks.
    if unit is None or (brackets and (minus or not unit or unit == "%")):
        return None
    return Column(name, "number", unit), read


def _unit(head: str, marks: set[str], caption: str | None) -> str | None:
    """Return the one unit of a column of numbers, "" where the table states none; None when it is unclear."""
    if len(marks) > 1:
        return None
    mark = next(iter(marks), "")
    if mark == "%":
        return "%" if head in ("", "%") else None
    if mark:
        if head:
            return None if head == "%" else f"{mark}, {head}"
        return None if caption is None else f"{mark}, in {caption}" if caption else mark
    return head or caption


def _melted(grid: Grid, names: Sequence[str], caption: str | None, zero_is_missing: bool) -> list[Sheet]:
    """Return a table whose heads are periods with one row a period, a sheet per unit; none unless its rows have names.

    A row's unit stands in its name ("Margin (%)"); a row that is not all numbers is left out.
    """
    if not names[0] or len(names[0]) > MAX_NAME or '"' in names[0]:
        return []
    rows = [(" ".join(row[0].text.split()), row) for row in grid.rows]
    if any(values.null(name) or '"' in name or len(name) > MAX_TEXT for name, _ in rows):
        return []
    if len({name.casefold() for name, _ in rows}) != len(rows):
        return []
    kind = _period(names[1])[0]
    records: dict[str, list[Record]] = {}
    contents: dict[str, list[str]] = {}
    for name, row in rows:
        texts = [" ".join(one.text.split()) for one in row[1:]]
        if not all(values.null(text) or values.number(text) for text in texts):
            continue
        made = _numbers(name, texts, row[1:], caption, zero_is_missing)
        if made is None:
            continue
        unit = made[0].unit
        for place, (period, value) in enumerate(zip(names[1:], made[1], strict=True), 1):
            when = Value(period, grid.head[place].spans, order=_period(period)[1])
            records.setdefault(unit, []).append((Value(name, row[0].spans), when, value))
            contents.setdefault(unit, []).append(f"{name}\x1f{period}")
    return [
        Sheet(
            (Column(names[0], "text"), Column("period", kind), Column("value", "number", unit)),
            tuple(records[unit]),
            tuple(contents[unit]),
            (0, 1),
            True,
            True,
            grid.first,
        )
        for unit in sorted(records)
    ]


def _period(text: str) -> tuple[str, int]:
    found = values.period(text)
    assert found is not None
    return found


def _key(columns: Sequence[Column], records: Sequence[Record]) -> tuple[int, ...]:
    """Return the leftmost column, else the leftmost pair, whose values tell all rows apart: texts and periods."""
    places = [n for n, one in enumerate(columns) if one.kind != "number"]
    pairs = [(one, two) for n, one in enumerate(places) for two in places[n + 1 :]]
    for wanted in [(place,) for place in places] + pairs[:20]:
        seen = set()
        for record in records:
            parts = [record[place] for place in wanted]
            if None in parts:
                break
            seen.add(tuple(part.text.casefold() for part in parts if part is not None))
        else:
            if len(seen) == len(records):
                return tuple(wanted)
    return ()


def _totals(columns: Sequence[Column], records: Sequence[Record]) -> bool:
    places = [n for n, one in enumerate(columns) if one.kind == "text"]
    return any(
        value is not None and _ROW_TOTAL.fullmatch(value.text)
        for record in records
        for value in (record[place] for place in places)
    )
