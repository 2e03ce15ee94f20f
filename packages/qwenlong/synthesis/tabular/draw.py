"""Draw questions over tables at random: which table, column and rows. Whether it is a question, queries.py decides."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from qwenlong.synthesis.tabular.queries import TITLE, Condition, Query, exact
from qwenlong.synthesis.tabular.schema import PERIODS, Record
from qwenlong.synthesis.tabular.scope import Scope
from qwenlong.synthesis.tabular.store import Placed, Relation

#: Rows that a question is over, at least and at most: each is a piece of evidence.
LEAST, MOST = 3, 60
#: Sums of these mean nothing.
_NOT_ADDITIVE = re.compile(
    r"%|/|\bper\b|percent|\bpct\b|rate|ratio|mean|average|\bavg|median|index|score|share|prop|log|std|dev|temp|age\b|year",
    re.IGNORECASE,
)
_ADDITIVE = frozenset(("sum", "top", "share", "group_sum", "between_sum"))
_SERIES = frozenset(("change", "first", "between_sum", "between_mean"))
_LABELLED = frozenset(("highest", "lowest", "rank", "difference", "ratio", "share"))


@dataclass(frozen=True)
class Drawn:
    """A query with its scope, its tables, and the rows that it is thought to pick."""

    query: Query
    scope: Scope
    tables: tuple[Placed, ...]
    rows: tuple[tuple[Placed, Record], ...]


def draw(operation: str, relation: Relation, tables: Sequence[Placed], dice: random.Random) -> Drawn | None:
    """Return a question over one table, or over all of several documents; None when this draw gives none."""
    rows = [(one, record) for one in tables for record in one.sheet.records]
    # Tables of one schema may differ in capitals; a question names columns as all of its tables do.
    columns = tables[0].sheet.columns
    if any(one.sheet.columns != columns for one in tables):
        return None
    numbers = [n for n, one in enumerate(columns) if _usable(operation, n, relation, rows)]
    if not numbers:
        return None
    value = dice.choice(numbers)
    label, group = None, None
    where: list[Condition] = []
    if operation in _SERIES | _LABELLED:
        wanted = [n for n in relation.key if operation not in _SERIES or columns[n].kind in PERIODS]
        # A period's place in time is all that it has in common with a name.
        if not wanted:
            return None
        label = dice.choice(wanted)
        for place in relation.key:
            if place != label:
                where.append(Condition(place, "is", _some(place, rows, dice)))
    elif operation.startswith("group"):
        groups = [n for n, one in enumerate(columns) if one.kind == "text" and n != value and _repeats(n, rows)]
        if not groups:
            return None
        group = dice.choice(groups)
    if operation not in _SERIES and not where and (operation == "count" or dice.random() < 0.7):
        where += _filter(value, {label, group}, relation, rows, dice)
    picked = [pair for pair in rows if _meets(pair[1], where)]
    made = _settle(operation, value, label, group, picked, dice)
    if made is None or not LEAST - 1 <= len(picked) <= MOST:
        return None
    members, number = made
    query = Query(operation, relation.name, value, tuple(where), label, group, members, number)
    used = [place for place in (group, label, value, *(one.place for one in where)) if place is not None]
    names = tuple(dict.fromkeys(columns[place].name for place in used))
    scope = Scope(relation.name, names, tables[0].title if len(tables) == 1 else "")
    return Drawn(query, scope, tuple(tables), tuple(_evident(query, picked)))


def draw_wide(operation: str, relation: Relation, table: Placed, dice: random.Random) -> Drawn | None:
    """Return a question over one row of a table whose columns are periods."""
    name = _some(0, [(table, record) for record in table.sheet.records], dice)
    if operation in _ADDITIVE and _NOT_ADDITIVE.search(f"{name} {relation.columns[2].unit}"):
        return None
    picked = [(table, record) for record in table.sheet.records if record[0] is not None and record[0].text == name]
    made = _settle(operation, 2, 1, None, picked, dice)
    if made is None or len(picked) < LEAST:
        return None
    query = Query(operation, relation.name, 2, (Condition(0, "is", name),), 1, None, *made)
    periods = made[0] or tuple(record[1].text for _, record in picked if record[1] is not None)
    scope = Scope(relation.name, (), table.title, name, periods)
    return Drawn(query, scope, (table,), tuple(_evident(query, picked)))


def draw_across(operation: str, relation: Relation, tables: Sequence[Placed], name: str, period: str) -> Drawn | None:
    """Return a question over one row and period of the tables of several documents."""
    if operation in _ADDITIVE and _NOT_ADDITIVE.search(f"{name} {relation.columns[2].unit}"):
        return None
    where = (Condition(0, "is", name), Condition(1, "is", period))
    rows = [(one, record) for one in tables for record in one.sheet.records if _meets(record, where)]
    if len(rows) != len(tables) or any(record[2] is None for _, record in rows):
        return None
    query = Query(operation, relation.name, 2, where, TITLE)
    return Drawn(query, Scope(relation.name, (), "", name, (period,)), tuple(tables), tuple(rows))


def _usable(operation: str, place: int, relation: Relation, rows: Sequence[tuple[Placed, Record]]) -> bool:
    column = relation.columns[place]
    if column.kind != "number" or column.is_code:
        return False
    if operation in _ADDITIVE and _NOT_ADDITIVE.search(f"{column.name} {column.unit}"):
        return False
    # Sums of parts and wholes count twice; two values only are a code for yes and no.
    if any(one.sheet.totals for one, _ in rows) and operation in _ADDITIVE | {"mean", "median", "group_mean"}:
        return False
    return len({value.number for _, record in rows if (value := record[place]) is not None}) >= 3


def _some(place: int, rows: Sequence[tuple[Placed, Record]], dice: random.Random) -> str:
    texts = sorted({value.text for _, record in rows if (value := record[place]) is not None})
    return dice.choice(texts)


def _repeats(place: int, rows: Sequence[tuple[Placed, Record]]) -> bool:
    texts = [value.text for _, record in rows if (value := record[place]) is not None]
    return 2 <= len(set(texts)) <= len(texts) // 2


def _filter(
    value: int, taken: set[int | None], relation: Relation, rows: Sequence[tuple[Placed, Record]], dice: random.Random
) -> list[Condition]:
    """Return a condition on a column of repeated texts or another one of numbers; none without either."""
    texts = [
        n
        for n, one in enumerate(relation.columns)
        if one.kind in ("text", "year") and n not in taken and _repeats(n, rows)
    ]
    numbers = [
        n
        for n, one in enumerate(relation.columns)
        if one.kind == "number" and n not in taken | {value} and not one.is_code
    ]
    place = dice.choice([*texts, *texts, *numbers]) if texts or numbers else None
    if place is None:
        return []
    if place in texts:
        return [Condition(place, "is", _some(place, rows, dice))]
    found = _threshold([v.number for _, r in rows if (v := r[place]) is not None and v.number is not None], dice)
    return [Condition(place, dice.choice(("above", "below")), found)] if found else []


def _threshold(numbers: Sequence[Decimal], dice: random.Random, least: int = 1) -> str | None:
    """Return a short number strictly between two neighbouring values, at least `least` values from either end."""
    values = sorted(set(numbers))
    if len(values) < 2 * least:
        return None
    place = dice.randint(least - 1, len(values) - least - 1) if len(values) > 2 * least - 1 else 0
    low, high = values[place], values[place + 1]
    for digits in range(-12, 8):
        step = Decimal(1).scaleb(-digits)
        middle = ((low + high) / 2 / step).to_integral_value(rounding=ROUND_HALF_UP) * step
        if low < middle < high:
            return exact(middle)
    return None


def _meets(record: Record, where: Sequence[Condition]) -> bool:
    return all(_meets_one(record, one) for one in where)


def _meets_one(record: Record, one: Condition) -> bool:
    value = record[one.place]
    if value is None:
        return False
    if one.comparison == "is":
        return value.text == one.text
    bound = Decimal(one.text)
    return value.number is not None and (value.number > bound if one.comparison == "above" else value.number < bound)


def _settle(
    operation: str,
    value: int,
    label: int | None,
    group: int | None,
    picked: Sequence[tuple[Placed, Record]],
    dice: random.Random,
) -> tuple[tuple[str, ...], str] | None:
    """Return (members, number) of an operation over the rows picked; None when they do not bear it."""
    records = [record for _, record in picked if record[value] is not None]
    known = [found.number for record in records if (found := record[value]) and found.number is not None]
    if len(known) < 2 or (len(known) < len(picked) and operation not in ("difference", "ratio")):
        return None
    if operation in ("rank", "top"):
        number = dice.choice([k for k in (2, 3, 4) if k < len(known)] or [0])
        return ((), str(number)) if number and (operation == "rank" or len(known) > number) else None
    if operation in ("count", "first"):
        bound = _threshold(known, dice)
        return None if bound is None else ((), bound)
    if label is None:
        return (), ""
    if operation in ("difference", "ratio", "share"):
        labels = [
            (name.text, found.number)
            for record in records
            if (name := record[label]) and (found := record[value]) and found.number is not None
        ]
        if len(labels) < 2:
            return None
        two = dice.sample(labels, 2)
        if operation == "share":
            return (two[0][0],), ""
        return tuple(name for name, _ in sorted(two, key=lambda pair: (-pair[1], pair[0]))), ""
    if operation in ("change", "between_sum", "between_mean"):
        periods = sorted({(when.order or 0, when.text) for record in records if (when := record[label])})
        if len(periods) < (2 if operation == "change" else 3):
            return None
        first, last = sorted(dice.sample(range(len(periods)), 2))
        return (periods[first][1], periods[last][1]), ""
    return (), ""


def _evident(query: Query, picked: Sequence[tuple[Placed, Record]]) -> list[tuple[Placed, Record]]:
    """Return the rows whose values the answer is made of."""
    if query.label is None or query.label == TITLE or not query.members or query.operation == "share":
        return list(picked)
    place = query.label
    if query.operation.startswith("between"):
        orders = {when.text: when.order or 0 for _, record in picked if (when := record[place])}
        low, high = (orders[name] for name in query.members)
        return [pair for pair in picked if (when := pair[1][place]) and low <= (when.order or 0) <= high]
    return [pair for pair in picked if (name := pair[1][place]) and name.text in query.members]
