"""From SQL to an answer with its evidence: what could be read in two ways is refused, with the reason."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from qwenlong.core.records import Evidence
from qwenlong.synthesis.nl2sql.tasks import TABLE, Task
from qwenlong.synthesis.tabular.queries import exact, rounded
from qwenlong.synthesis.tabular.sandbox import Sandbox
from qwenlong.synthesis.tabular.schema import PERIODS
from qwenlong.synthesis.tabular.statement import SqlRefused, check, nodes, statement_of

#: Functions whose result has the unit of their argument.
_SAME_UNIT = frozenset(("sum", "avg", "mean", "min", "max", "median", "round", "abs"))


@dataclass(frozen=True)
class Read:
    """An answer, the unit to state ("" for none, None where no unit is wanted), and the cells it rests on."""

    answer: str
    unit: str | None
    rounds: bool
    temporal: bool
    calculated: bool
    evidence: tuple[Evidence, ...]


def result(sandbox: Sandbox, sql: str) -> tuple[str, bool]:
    """Return the one value of a query as an answer, and whether it was rounded. Raises SqlRefused."""
    rows = sandbox.run(sql)
    if len(rows) != 1 or len(rows[0]) != 1 or rows[0][0] is None:
        shape = f"{len(rows)} rows" if len(rows) != 1 else f"{len(rows[0])} columns, or NULL"
        raise SqlRefused("not_one_value", f"the query gives {shape}, not one value")
    value = rows[0][0]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise SqlRefused("not_one_value", f"the query gives a {type(value).__name__}, not a number or a text")
    if isinstance(value, str):
        if not value.strip():
            raise SqlRefused("not_one_value", "the query gives an empty text")
        return value, False
    if isinstance(value, float):
        if value != value or abs(value) > 1e15:
            raise SqlRefused("imprecise", f"the query gives {value}")
        if value.is_integer():
            return exact(Decimal(int(value))), False
        shown = rounded(Decimal(repr(value)))
        if shown is None:
            raise SqlRefused("imprecise", f"{value} cannot be rounded to two decimals")
        return shown, True
    return exact(Decimal(value)), False


def read(task: Task, sandbox: Sandbox, sql: str) -> Read:
    """Return what a query says, with the cells that its WHERE selects as evidence. Raises SqlRefused."""
    tree = check(sql, {TABLE})
    _plain(tree)
    answer, rounds = result(sandbox, sql)
    _no_tie(tree, sandbox)
    used = _used(tree, task)
    rows = _rows(tree, sandbox)
    _certain(task, sandbox, used, rows)
    # Numbers bear an answer out, the words beside them select; where nothing but words is used, a row's number stands
    # for the row.
    numbers = [n for n, column in enumerate(task.columns) if column.kind == "number"]
    places = [place for place in used if place in numbers] or numbers[:1]
    spans = [span for row in rows for place in places for span in task.evidence(row, place)]
    if not spans or {span.document for span in spans} != {one.document for one in task.tables}:
        raise SqlRefused("no_evidence", "the query's cells do not stand in all documents that were shown")
    periods = {place for place in used if task.columns[place].kind in PERIODS}
    operators = {node["function_name"] for node in nodes(tree["select_list"]) if "function_name" in node}
    is_number = not isinstance(sandbox.run(sql)[0][0], str)
    unit = _unit(tree, task) if is_number else None
    return Read(answer, unit, rounds, bool(periods), bool(operators & {"+", "-", "*", "/"}), tuple(spans))


def _plain(tree: dict[str, Any]) -> None:
    """Refuse what has no plain set of source rows: joins, subqueries, set operations, windows."""
    plain = tree["type"] == "SELECT_NODE" and tree["from_table"]["type"] == "BASE_TABLE"
    others = any(node.get("class") in ("SUBQUERY", "WINDOW") for node in nodes(tree))
    if not plain or others or tree["cte_map"]["map"] or tree.get("qualify"):
        raise SqlRefused("no_evidence", "the query is no plain SELECT over data, so its source rows are not clear")
    # count(*) is a function of its own; a star elsewhere gives all columns.
    if any(node.get("class") == "STAR" for node in nodes(tree)):
        raise SqlRefused("not_one_value", "the query selects all columns")


def _again(tree: dict[str, Any], sandbox: Sandbox, **changes: Any) -> list[tuple[Any, ...]]:
    made = copy.deepcopy(tree) | changes
    return sandbox.query(statement_of(made))


def _modifiers(tree: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in tree["modifiers"] if one["type"] == kind]


def _no_tie(tree: dict[str, Any], sandbox: Sandbox) -> None:
    """Refuse a query whose LIMIT picks one of several equals. It is run again with the order's values shown."""
    limits, orders = _modifiers(tree, "LIMIT_MODIFIER"), _modifiers(tree, "ORDER_MODIFIER")
    if not limits:
        return
    found = [one for order in orders for one in order["orders"]]
    offset = limits[0].get("offset")
    place = _constant(offset) if offset else 0
    if len(found) != 1 or place is None or _modifiers(tree, "DISTINCT_MODIFIER"):
        raise SqlRefused("tie", "LIMIT without one ORDER BY leaves open which row is meant")
    expression = copy.deepcopy(found[0]["expression"])
    number = _constant(expression)
    if number is not None:
        expression = copy.deepcopy(tree["select_list"][number - 1])
    named = [one for one in tree["select_list"] if expression.get("column_names") == [one.get("alias")]]
    expression = copy.deepcopy(named[0]) if named and named[0].get("alias") else expression
    order = copy.deepcopy(orders[0])
    order["orders"][0]["expression"] = copy.deepcopy(expression)
    # "GROUP BY 1" counts in the list that is replaced here.
    places = [(_constant(one), one) for one in tree["group_expressions"]]
    groups = [copy.deepcopy(tree["select_list"][number - 1]) if number else one for number, one in places]
    values = [
        row[0] for row in _again(tree, sandbox, select_list=[expression], modifiers=[order], group_expressions=groups)
    ]
    near = values[max(0, place - 1) : place + 2]
    if None in values or len(set(near)) != len(near):
        raise SqlRefused("tie", "several rows are equal in what the query orders by, or have no value there")


def _constant(node: dict[str, Any]) -> int | None:
    literal = node.get("literal", {})
    return int(literal["text"]) if literal.get("kind") == "INTEGER" and str(literal.get("text")).isdigit() else None


def _references(value: Any) -> Iterator[str]:
    for node in nodes(value):
        if node.get("class") == "COLUMN_REF":
            yield node["column_names"][-1].casefold()


def _used(tree: dict[str, Any], task: Task) -> tuple[int, ...]:
    """Return the places of the columns that a query refers to."""
    places = {name: place for place, name in enumerate(task.names)}
    places |= {f"{name}_order": place for name, place in list(places.items())}
    aliases = {one["alias"].casefold() for one in tree["select_list"] if one.get("alias")}
    referred = set(_references(tree))
    if referred & {"row_id", "content"}:
        raise SqlRefused("no_evidence", "the query uses a column that the documents do not have")
    return tuple(sorted({places[name] for name in referred - {"document"} - (aliases - places.keys())}))


def _rows(tree: dict[str, Any], sandbox: Sandbox) -> list[int]:
    """Return the rows that the query's WHERE selects: the same query, for `row_id` in place of its results."""
    column = {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": ["row_id"]}
    changes: dict[str, Any] = {"modifiers": [], "group_expressions": [], "group_sets": [], "having": None}
    changes["aggregate_handling"] = "STANDARD_HANDLING"
    found = [int(row[0]) for row in _again(tree, sandbox, select_list=[column], **changes)]
    if not found:
        raise SqlRefused("no_evidence", "the query's WHERE selects no row")
    return sorted(found)


def _certain(task: Task, sandbox: Sandbox, used: tuple[int, ...], rows: list[int]) -> None:
    """Refuse missing values, texts spelled in two ways and repeated rows where they could matter."""
    for place in used:
        name = task.names[place]
        text = f'"{name}"' if task.columns[place].kind == "text" else "'x'"
        spelled = f"count(DISTINCT {text}) - count(DISTINCT lower(trim({text})))"
        missing, twice = sandbox.query(f'SELECT count(*) - count("{name}"), {spelled} FROM {TABLE}')[0]
        if missing:
            raise SqlRefused("nulls", f"column {name} has {missing} missing values")
        if twice:
            raise SqlRefused("spelling", f"column {name} spells a value in two ways")
    contents = [content for one in task.tables for content in one.sheet.contents]
    # A wide table's rows are told apart by their document too.
    whole = {(task.rows[row][0].document if task.relation.wide else "", contents[row]) for row in rows}
    if len(whole) != len(rows):
        raise SqlRefused("duplicates", "rows that the query selects stand there twice")


def _unit(tree: dict[str, Any], task: Task) -> str | None:
    """Return the unit of the one number: "" where the table states none, None for a count."""
    selected = tree["select_list"][0]
    functions = [node["function_name"].lower() for node in nodes(selected) if "function_name" in node]
    if functions and functions[0] in ("count", "count_star") and len(functions) == 1:
        return None
    places = {name: place for place, name in enumerate(task.names)}
    units = {task.columns[places[name]].unit for name in set(_references(selected)) if name in places}
    if units <= {""}:
        return ""
    simple = all(name in _SAME_UNIT for name in functions) and len(units) == 1
    if not simple:
        raise SqlRefused("unit_unclear", "the unit of the result does not follow from the columns' units")
    return units.pop()
