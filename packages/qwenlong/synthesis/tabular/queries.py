"""One question as SQL over a relation: the result is the answer, and guard columns say whether it is the only one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from qwenlong.synthesis.tabular.store import Relation, Store

#: Operations whose result is a quotient, rounded to two decimals; all other numbers are exact.
ROUNDED = frozenset(("mean", "ratio", "share", "change", "between_mean"))
#: Operations on two rows.
_PAIRS = frozenset(("difference", "ratio", "change"))
#: A quotient must not lie so near the border between two roundings that its last digit could go either way.
MARGIN = Decimal("0.0001")
#: The label of rows that are told apart by their document.
TITLE = -1


@dataclass(frozen=True)
class Condition:
    """A column `is` a text, or is `above` or `below` a number."""

    place: int
    comparison: str
    text: str


@dataclass(frozen=True)
class Query:
    """An operation on column `value` of the rows of some sheets for which all conditions hold.

    `label` is the column that names rows, `group` the one that they are grouped by; `members` are labels (or periods,
    the earlier first), `number` is a threshold or a rank.
    """

    operation: str
    relation: str
    value: int
    where: tuple[Condition, ...] = ()
    label: int | None = None
    group: int | None = None
    members: tuple[str, ...] = ()
    number: str = ""

    def answer(self, store: Store, sheets: Sequence[int]) -> str | None:
        """Return the answer over sheets, None when it is not the only one or not a plain one.

        It is not when a row is there twice, a value that matters is missing, a text is spelled in two ways, labels or
        values tie, or a member is missing.
        """
        relation = store.by_name[self.relation]
        with_, parameters = self._rows(sheets)
        label = self._column(self.label) if self.label is not None else "row_id"
        whole = "title || content" if self.label == TITLE else "content"
        sql = f"{with_} SELECT count(*), count(v), count(DISTINCT {whole}), count(DISTINCT {label}), {self._doubts()}"
        found = store.sandbox.query(f"{sql} FROM picked", [*parameters, *self._texts()])[0]
        n, values, different, labels, doubts = found
        if n < 2 or values != n or different != n or labels != n or doubts:
            return None
        sql, more = _RESULTS[self.operation](self, relation)
        rows = store.sandbox.query(f"{with_} {sql}", [*parameters, *more])
        if len(rows) != 1 or rows[0][0] is None or not all(rows[0][1:]):
            return None
        result = rows[0][0]
        if isinstance(result, str):
            return result
        return rounded(Decimal(str(result))) if self.operation in ROUNDED else exact(Decimal(str(result)))

    def _column(self, place: int) -> str:
        return "title" if place == TITLE else f"c{place}"

    def _rows(self, sheets: Sequence[int]) -> tuple[str, list[object]]:
        """Return the rows in scope (the sheets) and those picked of them (all conditions hold), with parameters."""
        marks = ", ".join("?" * len(sheets))
        signs = {"is": "= ?", "above": "> CAST(? AS DECIMAL(38, 8))", "below": "< CAST(? AS DECIMAL(38, 8))"}
        tests = " AND ".join(f"c{one.place} {signs[one.comparison]}" for one in self.where) or "true"
        if self.operation in _PAIRS:
            tests += f" AND c{self.label} IN (?, ?)"
        picked = f"SELECT *, c{self.value} AS v FROM scope WHERE {tests}"
        sql = f"WITH scope AS (SELECT * FROM {self.relation} WHERE sheet IN ({marks})), picked AS ({picked})"
        return sql, [*sheets, *(one.text for one in self.where), *(self.members if self.operation in _PAIRS else ())]

    def _doubts(self) -> str:
        """Return an expression that counts rows which may or may not meet a condition."""
        parts = ["0"]
        for one in self.where:
            parts.append(f"(SELECT count(*) FROM scope WHERE c{one.place} IS NULL)")
            if one.comparison == "is":
                same = f"lower(trim(c{one.place})) = lower(trim(?)) AND c{one.place} <> ?"
                parts.append(f"(SELECT count(*) FROM scope WHERE {same})")
        if self.operation in _PAIRS:
            same = f"lower(trim(c{self.label})) IN (lower(?), lower(?)) AND c{self.label} NOT IN (?, ?)"
            parts.append(f"(SELECT count(*) FROM scope WHERE {same})")
        return " + ".join(parts)

    def _texts(self) -> list[object]:
        texts: list[object] = [text for one in self.where if one.comparison == "is" for text in (one.text, one.text)]
        return texts + [*self.members, *self.members] if self.operation in _PAIRS else texts


def exact(value: Decimal) -> str:
    """Return a number without trailing zeros or exponent."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def rounded(value: Decimal) -> str | None:
    """Return a number with two decimals at most; None when it is too small for them, or on the border of two."""
    scaled = abs(value) * 100
    if scaled < 10 or abs(scaled % 1 - Decimal("0.5")) < MARGIN:
        return None
    return exact(value.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))


Made = tuple[str, list[object]]


def _plain(expression: str) -> Callable[[Query, Relation], Made]:
    return lambda query, relation: (f"SELECT {expression} FROM picked", [])


def _extreme(query: Query, relation: Relation) -> Made:
    best = "max" if query.operation == "highest" else "min"
    label = query._column(query.label)  # type: ignore[arg-type]
    tie = f"count(*) FILTER (WHERE v = (SELECT {best}(v) FROM picked)) = 1"
    return f"SELECT arg_{best}({label}, v), {tie} FROM picked", []


def _rank(query: Query, relation: Relation) -> Made:
    label = query._column(query.label)  # type: ignore[arg-type]
    inner = f"SELECT {label} AS l, row_number() OVER (ORDER BY v DESC) AS r, count(*) OVER (PARTITION BY v) AS t"
    return f"SELECT l, t = 1 FROM ({inner} FROM picked) WHERE r = CAST(? AS BIGINT)", [query.number]


def _top(query: Query, relation: Relation) -> Made:
    inner = "SELECT v FROM picked ORDER BY v DESC LIMIT CAST(? AS BIGINT)"
    return f"SELECT sum(v), count(*) = CAST(? AS BIGINT) FROM ({inner})", [query.number, query.number]


def _count(query: Query, relation: Relation) -> Made:
    return "SELECT count(*) FILTER (WHERE v > CAST(? AS DECIMAL(38, 8))) FROM picked", [query.number]


def _group(query: Query, relation: Relation) -> Made:
    g = f"c{query.group}"
    total = "sum(v)" if query.operation == "group_sum" else "sum(v) / count(*)"
    sure = f"(SELECT count(*) = count({g}) AND count(DISTINCT {g}) = count(DISTINCT lower(trim({g}))) FROM picked)"
    # The best group must be ahead by more than a rounding of the quotient.
    best = "(SELECT max(a) FROM groups)"
    ahead = f"(SELECT count(*) FROM groups WHERE a >= {best} - 1e-9 * abs({best}))"
    sql = f"SELECT arg_max(g, a), count(*) >= 2, {sure}, {ahead} = 1 FROM groups"
    return f", groups AS (SELECT {g} AS g, {total} AS a FROM picked GROUP BY 1) {sql}", []


def _pair(query: Query, relation: Relation) -> Made:
    """Two rows by their labels: difference, ratio, change in percent."""
    one, two = (f"(SELECT min(v) FROM picked WHERE c{query.label} = ?)" for _ in range(2))
    first, second = query.members
    if query.operation == "difference":
        return f"SELECT {one} - {two}, {one} > {two}", [first, second, first, second]
    if query.operation == "ratio":
        sure = f"{one} > {two}, {two} > 0"
        return f"SELECT {one} / {two}, {sure}", [first, second, first, second, second]
    sql = f"SELECT ({two} - {one}) * 100 / {one}, {one} > 0, {two} > 0, {one} <> {two}"
    return sql, [second, first, first, first, second, first, second]


def _share(query: Query, relation: Relation) -> Made:
    one = f"(SELECT min(v) FROM picked WHERE c{query.label} = ?)"
    return f"SELECT {one} * 100 / sum(v), min(v) >= 0, sum(v) > 0 FROM picked", list(query.members)


def _first(query: Query, relation: Relation) -> Made:
    p, above = f"c{query.label}", "v > CAST(? AS DECIMAL(38, 8))"
    # The first period of the table would be the answer of who only looks at its beginning.
    sure = f"count(DISTINCT {p}_at) = count(*), min({p}_at) FILTER (WHERE {above}) > min({p}_at)"
    sql = f"SELECT arg_min({p}, {p}_at) FILTER (WHERE {above}), {sure} FROM picked"
    return sql, [query.number, query.number]


def _between(query: Query, relation: Relation) -> Made:
    p = f"c{query.label}"
    place = f"(SELECT min({p}_at) FROM picked WHERE {p} = ?)"
    bounds = f"{p}_at BETWEEN {place} AND {place}"
    result = "sum(v)" if query.operation == "between_sum" else "sum(v) / count(*)"
    sure = f"count(*) >= 2, (SELECT count(DISTINCT {p}_at) = count(*) FROM picked)"
    return f"SELECT {result}, {sure} FROM picked WHERE {bounds}", list(query.members)


#: SQL of each operation: the result first, then what must all be true.
_RESULTS: dict[str, Callable[[Query, Relation], Made]] = {
    "sum": _plain("sum(v)"),
    "mean": _plain("sum(v) / count(*)"),
    "median": _plain("median(v)"),
    "maximum": _plain("max(v)"),
    "minimum": _plain("min(v)"),
    "count": _count,
    "highest": _extreme,
    "lowest": _extreme,
    "rank": _rank,
    "top": _top,
    "group_sum": _group,
    "group_mean": _group,
    "difference": _pair,
    "ratio": _pair,
    "share": _share,
    "change": _pair,
    "first": _first,
    "between_sum": _between,
    "between_mean": _between,
}
