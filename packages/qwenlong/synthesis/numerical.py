"""corpus_numerical: question templates over the table of numbers; the executed SQL result is the answer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import partial

from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool, draws, enumeration, evidence
from qwenlong.synthesis.tables import Table

#: What a group's members differ in: the column that the question's members are values of.
AXES = ("entity", "year", "item")
OPERATIONS = ("max", "min", "count", "sum", "mean", "difference")
#: Members of a sum of parts would count twice.
_TOTALS = re.compile(r"total\b.*|note|other", re.IGNORECASE)
#: The result of an operation; the guard columns beside it say whether it is the one answer.
_SQL = {
    "max": "arg_max({axis}, value)",
    "min": "arg_min({axis}, value)",
    "count": "count(*) FILTER (WHERE value > CAST(? AS DECIMAL(28, 6)))",
    "sum": "sum(value)",
    "mean": "sum(value) / count(*)",
    "difference": "max(value) - min(value)",
}
_GUARD = "count(*), count(DISTINCT {axis}), count(DISTINCT value), min(unit), max(unit)"


@dataclass(frozen=True)
class Query:
    """One question over members of one axis; the other columns are fixed."""

    operation: str
    axis: str
    fixed: tuple[tuple[str, str], ...]
    members: tuple[str, ...]
    unit: str
    threshold: str = ""

    def answer(self, table: Table, documents: Sequence[str]) -> str | None:
        """Return the answer over some documents; None when it is not the one answer.

        It is not when a member is missing or stands there twice (in whatever unit), or when two values tie.
        """
        conditions = [
            f"document IN ({_marks(documents)})",
            f"{self.axis} IN ({_marks(self.members)})",
            *(f"{name} = ?" for name, _ in self.fixed),
        ]
        columns = f"{_GUARD}, {_SQL[self.operation]}".format(axis=self.axis)
        sql = f"SELECT {columns} FROM cells WHERE {' AND '.join(conditions)}"
        values: list[object] = [*documents, *self.members, *(value for _, value in self.fixed)]
        rows = table.query(sql, [self.threshold, *values] if self.operation == "count" else values)
        *guard, result = rows[0]
        n = len(self.members)
        if guard != [n, n, n, self.unit, self.unit]:
            return None
        return result if isinstance(result, str) else shown(Decimal(str(result)))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def shown(value: Decimal) -> str:
    """Return a number as an answer states it: at most two decimals, no trailing zeros, no exponent."""
    rounded = value.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _groups(pool: Pool, axis: str) -> list[list[parse.Cell]]:
    """Return cells that differ in `axis` only, one a member; members seen more than once in the pool are left out."""
    found: dict[tuple[str, ...], dict[str, list[parse.Cell]]] = defaultdict(lambda: defaultdict(list))
    others = [name for name in (*AXES, "field", "unit") if name != axis]
    for document in pool.documents:
        if document.n_tokens > pool.budget:
            continue
        for cell in parse.cells(document):
            if getattr(cell, axis) and not (axis == "item" and _TOTALS.fullmatch(cell.item)):
                found[tuple(getattr(cell, name) for name in others)][getattr(cell, axis)].append(cell)
    groups = []
    for key in sorted(found):
        members = [cells[0] for _, cells in sorted(found[key].items()) if len(cells) == 1]
        if len(members) >= 2:
            groups.append(members)
    return groups


def _name(cell: parse.Cell, axis: str) -> str:
    named = f"{cell.field} - {cell.item}" if cell.item and axis != "item" else cell.field
    return f"{named} in {cell.year}" if cell.year and axis != "year" else named


def _question(query: Query, cell: parse.Cell, cells: Sequence[parse.Cell]) -> tuple[str, str]:
    """Return (template name, question)."""
    axis, operation = query.axis, query.operation
    name, unit = _name(cell, axis), query.unit
    of = "" if axis == "entity" else f" of {cell.entity}"
    either, both = enumeration(query.members, "or"), enumeration(query.members, "and")
    in_unit = f", in {unit}" if unit else ""
    above = f"{query.threshold} {unit}".replace(" %", "%").strip()
    extreme = {"max": "highest", "min": "lowest"}.get(operation, "")
    high, low = (getattr(c, axis) for c in sorted(cells, key=lambda c: -c.value)[:: max(1, len(cells) - 1)])
    texts = {
        ("entity", "extreme"): f"Which has the {extreme} {name}: {either}?",
        ("year", "extreme"): f"When was the {name}{of} {extreme}: {either}?",
        ("item", "extreme"): f"Which {name}{of} is {extreme}: {either}?",
        ("entity", "count"): f"How many of {both} have a {name} above {above}?",
        ("year", "count"): f"In how many of {both} was the {name}{of} above {above}?",
        ("item", "count"): f"In {name}{of}, how many of {both} are above {above}?",
        ("entity", "sum"): f"What is the {name} of {both} together{in_unit}?",
        ("year", "sum"): f"What is the {name}{of} in {both} together{in_unit}?",
        ("item", "sum"): f"In {name}{of}, what do {both} add up to{in_unit}?",
        ("entity", "mean"): f"What is the mean {name} of {both}{in_unit}?",
        ("year", "mean"): f"What is the mean {name}{of} over {both}{in_unit}?",
        ("item", "mean"): f"In {name}{of}, what is the mean of {both}{in_unit}?",
        ("entity", "difference"): f"By how much is the {name} of {high} above that of {low}{in_unit}?",
        ("year", "difference"): f"By how much was the {name}{of} higher in {high} than in {low}{in_unit}?",
        ("item", "difference"): f"In {name}{of}, by how much is {high} above {low}{in_unit}?",
    }
    question = texts[axis, "extreme" if extreme else operation]
    if operation in ("mean", "sum", "difference"):
        question += " Round to two decimals." if operation == "mean" else ""
    return f"numerical_{axis}_{operation}@1", question


_TYPES = {"max": "statistical aggregation", "min": "statistical aggregation", "count": "statistical aggregation"}


def _threshold(cells: Sequence[parse.Cell], position: int) -> str | None:
    """Return a number strictly between the `position`-th value and the next, with no more decimals than they have."""
    values = sorted(cell.value for cell in cells)
    low, high = values[position], values[position + 1]
    for digits in range(-12, 7):
        step = Decimal(1).scaleb(-digits)
        middle = ((low + high) / 2 / step).to_integral_value(rounding=ROUND_HALF_UP) * step
        if low < middle < high:
            return shown(middle) if Decimal(shown(middle)) == middle else None
    return None


def generate(pool: Pool, axis: str, operation: str) -> Iterator[Candidate]:
    """Yield questions of one axis and operation in random order."""
    groups = pool.memo("numerical", axis, pool.budget, make=lambda: _groups(pool, axis))
    tried: set[tuple[object, ...]] = set()
    random = pool.rng("numerical", axis, operation, pool.budget)
    for _ in draws() if groups else ():
        group = groups[random.randrange(len(groups))]
        size = 2 if operation == "difference" else random.randint(2, min(4, len(group)))
        cells = random.sample(group, size)
        documents = tuple(dict.fromkeys(cell.document for cell in cells))
        unit = cells[0].unit
        # Shares of different wholes have no sum; a mean or difference in a unit that is not stated says nothing.
        if operation == "sum" and (unit.startswith("%") or "per" in unit.split() or "/" in unit):
            continue
        if not pool.fits(documents):
            continue
        threshold = _threshold(cells, random.randrange(size - 1)) if operation == "count" else ""
        if threshold is None:
            continue
        others = [name for name in (*AXES, "field") if name != axis]
        fixed = tuple((name, getattr(cells[0], name)) for name in others)
        query = Query(operation, axis, fixed, tuple(getattr(c, axis) for c in cells), unit, threshold)
        # The same members in another order are the same question.
        key = (query.fixed, frozenset(query.members), threshold)
        answer = None if key in tried else query.answer(pool.table, documents)
        tried.add(key)
        if answer is None:
            continue
        template, question = _question(query, cells[0], cells)
        yield Candidate(
            task="corpus_numerical",
            question_type="temporal" if axis == "year" else _TYPES.get(operation, "calculation"),
            template=template,
            question=question,
            answers=(answer,),
            evidence=tuple(evidence(cell) for cell in cells),
            reasoning_chain=tuple(f"{getattr(cell, axis)}: {cell.text}" for cell in cells),
            holds=partial(_holds, query, pool.table, answer),
            generator="duckdb@1",
            specifics=(*query.members, *(() if axis == "entity" else (cells[0].entity,))),
        )


def _holds(query: Query, table: Table, answer: str, documents: Sequence[Document]) -> bool:
    return query.answer(table, [document.id for document in documents]) == answer


#: Templates by name.
TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    f"numerical_{axis}_{operation}": partial(generate, axis=axis, operation=operation)
    for axis in AXES
    for operation in OPERATIONS
}
