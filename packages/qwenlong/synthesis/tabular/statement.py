"""What SQL of unknown origin may be: one SELECT over named tables with harmless functions, as DuckDB's parser sees it.

Everything is refused that is not listed here: a new kind of node in a later DuckDB is no hole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from qwenlong.core.errors import QwenlongError

#: Longer statements are refused before they are parsed.
MAX_CHARACTERS = 4_000
#: Brackets inside brackets, of the text and of the parsed statement: a parser's stack is finite.
MAX_DEPTH = 60
#: Columns of a result, and expressions in one list.
MAX_LIST = 64
_CLASSES = frozenset(
    ("CONSTANT", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "FUNCTION", "OPERATOR", "CASE", "CAST", "STAR")
    + ("SUBQUERY", "BETWEEN", "WINDOW", "TYPE")
)
_NODES = frozenset(("SELECT_NODE", "SET_OPERATION_NODE"))
_TABLES = frozenset(("BASE_TABLE", "EMPTY", "JOIN", "SUBQUERY"))
_OTHERS = frozenset(
    ("ORDER_MODIFIER", "LIMIT_MODIFIER", "DISTINCT_MODIFIER", "ASCENDING", "DESCENDING", "ORDER_DEFAULT", "ORDER")
)
AGGREGATES = frozenset(("count", "count_star", "sum", "avg", "mean", "min", "max", "median"))
_ARITHMETIC = ("+", "-", "*", "/", "//", "%", "abs", "round", "floor", "ceil", "ceiling", "sqrt", "ln", "log10")
_TEXTS = ("||", "~~", "!~~", "~~*", "!~~*", "lower", "upper", "trim", "length", "contains", "starts_with")
_CHOICES = ("greatest", "least", "nullif", "coalesce")
_WINDOWS = ("row_number", "rank", "dense_rank", "lag", "lead", "first_value", "last_value")
_FUNCTIONS = AGGREGATES.union(_ARITHMETIC, _TEXTS, _CHOICES, _WINDOWS)


class SqlRefused(QwenlongError):
    """SQL that is not run; `kind` is counted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@cache
def _parser() -> Any:
    import duckdb

    options: dict[str, Any] = {"enable_external_access": False, "threads": 1, "memory_limit": "64MB"}
    connection = duckdb.connect(":memory:", config=options)
    connection.execute("SET lock_configuration = true")
    return connection


def parsed(sql: str) -> dict[str, Any]:
    """Return the syntax tree of one SELECT. Raises SqlRefused for anything else, in DuckDB's own reading."""
    import duckdb

    if len(sql) > MAX_CHARACTERS:
        raise SqlRefused("too_long", f"SQL has {len(sql)} characters, above {MAX_CHARACTERS}; write a shorter query")
    if "\0" in sql or not sql.isprintable() and any(not (c.isprintable() or c in "\n\t\r") for c in sql):
        raise SqlRefused("syntax", "SQL holds control characters; leave them out")
    depth = deepest = 0
    for sign in sql:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise SqlRefused("too_deep", f"SQL has {deepest} brackets inside each other, above {MAX_DEPTH}; flatten it")
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1:
            raise SqlRefused("not_one_statement", f"SQL has {len(statements)} statements; write one SELECT")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise SqlRefused("not_select", f"SQL is a {statements[0].type.name} statement; write one SELECT")
        text = _parser().execute("SELECT json_serialize_sql(?)", [sql]).fetchone()[0]
        tree = json.loads(text)
    except duckdb.Error as error:
        raise SqlRefused("syntax", f"DuckDB cannot parse the SQL: {str(error)[:200]}; mend it") from error
    except (UnicodeError, RecursionError, RuntimeError) as error:
        raise SqlRefused("syntax", f"DuckDB cannot parse the SQL ({type(error).__name__}); mend it") from error
    if tree["error"] or len(tree["statements"]) != 1:
        raise SqlRefused("not_select", "SQL is no plain SELECT; write one SELECT")
    node: dict[str, Any] = tree["statements"][0]["node"]
    return node


def statement_of(node: Mapping[str, Any]) -> str:
    """Return the SQL of a syntax tree. Raises SqlRefused when DuckDB makes none of it."""
    import duckdb

    tree = json.dumps({"error": False, "statements": [{"node": node, "named_param_map": []}]})
    try:
        sql: str = _parser().execute("SELECT json_deserialize_sql(CAST(? AS JSON))", [tree]).fetchone()[0]
    except duckdb.Error as error:
        raise SqlRefused("no_evidence", f"the query cannot be turned into one for its rows: {error}") from error
    return sql


def check(sql: str, tables: Collection[str]) -> dict[str, Any]:
    """Return the syntax tree of a SELECT that reads `tables` and nothing else. Raises SqlRefused naming the reason."""
    node = parsed(sql)
    try:
        _walk(node, frozenset(tables) | frozenset(_ctes(node)), 0)
    except RecursionError as error:
        raise SqlRefused("too_deep", "SQL is nested too deeply; flatten it") from error
    return node


def _ctes(value: Any) -> Iterator[str]:
    for inner in nodes(value):
        for entry in (inner.get("cte_map") or {}).get("map", ()):
            yield entry["key"]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a syntax tree."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            yield one
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def _walk(value: Any, tables: frozenset[str], depth: int) -> None:
    if depth > 12 * MAX_DEPTH:
        raise SqlRefused("too_deep", "SQL is nested too deeply; flatten it")
    if isinstance(value, list):
        if len(value) > MAX_LIST:
            raise SqlRefused("too_long", f"SQL lists {len(value)} things, above {MAX_LIST}; write a shorter query")
        for one in value:
            _walk(one, tables, depth + 1)
    elif isinstance(value, dict):
        _object(value, tables)
        for name, one in value.items():
            if name != "literal":
                _walk(one, tables, depth + 1)


def _object(node: Mapping[str, Any], tables: frozenset[str]) -> None:
    kind = node.get("type")
    if "class" in node:
        if node["class"] not in _CLASSES or (node["class"] == "STAR" and (node.get("columns") or node.get("expr"))):
            raise SqlRefused("not_allowed", f"SQL uses {node['class']} {kind}, which is not allowed here")
    elif isinstance(kind, str) and kind not in _NODES | _TABLES | _OTHERS:
        raise SqlRefused("not_allowed", f"SQL uses {kind}, which is not allowed here; read the tables named")
    if "function_name" in node:
        name = str(node["function_name"]).lower()
        if name not in _FUNCTIONS or node.get("schema") or node.get("catalog"):
            raise SqlRefused("function", f"SQL calls {name[:60]!r}, which is not allowed here")
    if kind == "BASE_TABLE":
        name = node["table_name"]
        if name not in tables or node.get("schema_name") or node.get("catalog_name") or node.get("at_clause"):
            known = ", ".join(sorted(tables)[:8])
            raise SqlRefused("table", f"SQL reads {str(name)[:60]!r}; the tables are {known}")
    if node.get("sample"):
        raise SqlRefused("not_allowed", "SQL samples rows at random; the answer would not be one")
