"""Questions in words. Names stand in quotation marks, and every number says its unit or that there is none."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.synthesis.pool import enumeration
from qwenlong.synthesis.tabular.queries import ROUNDED, Query
from qwenlong.synthesis.tabular.schema import Column
from qwenlong.synthesis.tabular.scope import Scope

RANKS = {"2": "second", "3": "third", "4": "fourth"}
NUMBERS = {"2": "two", "3": "three", "4": "four"}


def quoted(names: Sequence[str]) -> str:
    """Return names in quotation marks, joined by commas and "and"."""
    return enumeration([f'"{name}"' for name in names], "and")


def question(query: Query, scope: Scope, columns: Sequence[Column]) -> str:
    """Return the question that a query answers."""
    unit = columns[query.value].unit
    stated = f" (in {unit})" if unit else " (no unit is stated)"
    value = scope.row or columns[query.value].name
    rows = _rows(query, scope, columns)
    of = "" if rows == "all rows" or scope.row else f" among {rows}"
    one, two = (*query.members, "", "")[:2]
    label = "" if query.label is None or query.label < 0 else columns[query.label].name
    start, which = (f'"{one}"', "period") if scope.row else (f'"{label}" "{one}"', f'"{label}"')
    over = "" if scope.row else f" over {rows}"
    among = "" if scope.row else f" among {rows}"
    pair = f'where "{label}" is "{one}"'
    texts = {
        "sum": f'what is the total of "{value}"{over}{stated}?',
        "mean": f'what is the mean of "{value}"{over}{stated}?',
        "median": f'what is the median of "{value}"{over}{stated}?',
        "maximum": f'what is the largest "{value}"{among}{stated}?',
        "minimum": f'what is the smallest "{value}"{among}{stated}?',
        "count": f'how many of {rows} have a "{value}" above {query.number}{stated}?',
        "highest": f'which "{label}" has the highest "{value}"{among}?',
        "lowest": f'which "{label}" has the lowest "{value}"{among}?',
        "rank": f'which "{label}" has the {RANKS.get(query.number)} highest "{value}"{among}?',
        "top": f'what do the {NUMBERS.get(query.number)} highest "{value}"{among} add up to{stated}?',
        "group_sum": f'which "{_group(query, columns)}" has the largest total of "{value}"{over}?',
        "group_mean": f'which "{_group(query, columns)}" has the largest mean of "{value}"{over}?',
        "difference": f'by how much is "{value}" higher {pair} than where it is "{two}"{of}{stated}?',
        "ratio": f'how many times as large is "{value}" {pair} as where it is "{two}"{of}?',
        "share": f'what share of the total of "{value}"{over} is that {pair}, in %?',
        "change": f'by how many percent did "{value}" change from {start} to "{two}"{of}?',
        "first": f'in which {which} was "{value}" above {query.number}{stated} for the first time{of}?',
        "between_sum": f'what is the total of "{value}" from {start} to "{two}", both included{of}{stated}?',
        "between_mean": f'what is the mean of "{value}" from {start} to "{two}", both included{of}{stated}?',
    }
    if scope.row and query.label == -1:
        texts |= {
            "highest": f'which document has the highest "{value}" in "{scope.periods[0]}"? Answer with its title.',
            "lowest": f'which document has the lowest "{value}" in "{scope.periods[0]}"? Answer with its title.',
            "sum": f'what is the total of "{value}" in "{scope.periods[0]}"{stated}?',
            "mean": f'what is the mean of "{value}" in "{scope.periods[0]}"{stated}?',
        }
    rounding = " Round to two decimals." if query.operation in ROUNDED else ""
    return f"{_place(scope)}, {texts[query.operation]}{rounding}"


def _place(scope: Scope) -> str:
    if scope.title:
        return f'In the table of "{scope.title}"'
    if scope.row:
        return (
            f'Over the tables of all documents that have the row "{scope.row}" and the column {quoted(scope.periods)}'
        )
    return f"Over the tables of all documents that have the columns {quoted(scope.columns)}"


def _group(query: Query, columns: Sequence[Column]) -> str:
    return "" if query.group is None else columns[query.group].name


def _rows(query: Query, scope: Scope, columns: Sequence[Column]) -> str:
    parts = []
    for one in query.where:
        name = columns[one.place].name
        unit = columns[one.place].unit
        after = f" (in {unit})" if unit else ""
        parts.append(
            f'whose "{name}" is "{one.text}"'
            if one.comparison == "is"
            else f'whose "{name}" is {one.comparison} {one.text}{after}'
        )
    return f"the rows {' and '.join(parts)}" if parts else "all rows"
