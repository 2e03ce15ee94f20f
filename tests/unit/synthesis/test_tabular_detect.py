"""Made tables rendered to every format and read back equal; what is unclear is left out, what is hostile is neutral."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.records import Document
from qwenlong.synthesis.tabular import detect, units, values
from qwenlong.synthesis.tabular.documents import sheets

WORD = st.text("abcdefghijklmnopqrstuvwxyzäöü", min_size=2, max_size=8).filter(lambda w: not values.null(w))
NAME = st.lists(WORD, min_size=1, max_size=2).map(" ".join)
NUMBER = st.decimals(-10_000, 10_000, places=2, allow_nan=False).map(str)


@st.composite
def tables(draw: Any) -> tuple[list[str], list[list[str]]]:
    """A head of different names and rows: a column of names, the rest numbers."""
    width = draw(st.integers(2, 4))
    head = draw(st.lists(NAME, min_size=width, max_size=width, unique_by=str.casefold))
    rows = draw(st.lists(st.tuples(NAME, *[NUMBER] * (width - 1)), min_size=3, max_size=6))
    return head, [list(row) for row in rows]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def bare_markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [" | ".join(row) for row in (head, *rows)]
    return "\n".join([lines[0], " | ".join([":-:"] * len(head)), *lines[1:]])


def widths(head: list[str], rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(head, *rows, strict=True)]


def rst_grid(head: list[str], rows: list[list[str]]) -> str:
    sizes = widths(head, rows)
    rule = {sign: "+" + "+".join(sign * (size + 2) for size in sizes) + "+" for sign in "-="}
    lines = ["|" + "|".join(f" {c:<{s}} " for c, s in zip(row, sizes, strict=True)) + "|" for row in (head, *rows)]
    made = [rule["-"], lines[0], rule["="]]
    for line in lines[1:]:
        made += [line, rule["-"]]
    return "\n".join(made)


def rst_simple(head: list[str], rows: list[list[str]]) -> str:
    sizes = widths(head, rows)
    rule = "  ".join("=" * size for size in sizes)
    lines = ["  ".join(f"{c:<{s}}" for c, s in zip(row, sizes, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def separated(sign: str, quotes: bool = False) -> Any:
    def render(head: list[str], rows: list[list[str]]) -> str:
        mark = '"' if quotes else ""
        return "\n".join(sign.join(f"{mark}{cell}{mark}" for cell in row) for row in (head, *rows))

    return render


def aligned(head: list[str], rows: list[list[str]]) -> str:
    sizes = widths(head, rows)
    return "\n".join("   ".join(f"{c:<{s}}" for c, s in zip(row, sizes, strict=True)).rstrip() for row in (head, *rows))


FORMATS = {
    "markdown": markdown,
    "bare markdown": bare_markdown,
    "rst grid": rst_grid,
    "rst simple": rst_simple,
    "csv": separated(","),
    "quoted csv": separated(",", quotes=True),
    "semicolons": separated(";"),
    "tsv": separated("\t"),
    "aligned": aligned,
}


@pytest.mark.parametrize("form", FORMATS)
@given(table=tables(), around=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_table_is_read_back_with_the_span_of_every_cell(
    form: str, table: tuple[list[str], list[list[str]]], around: bool
) -> None:
    head, rows = table
    text = FORMATS[form](head, rows)
    if around:
        text = f"Some prose stands before it.\n\n{text}\n\nAnd after it."
    (found,) = detect.grids(text)[1]
    assert [cell.text for cell in found.head] == head
    assert [[cell.text for cell in row] for row in found.rows] == rows
    for row in (found.head, *found.rows):
        for cell in row:
            assert " ".join(text[a:b] for a, b in cell.spans) == cell.text


def test_cells_over_several_lines_keep_the_span_of_each_piece() -> None:
    text = "+-----+-----+\n| a b | n   |\n+=====+=====+\n| x   | 1   |\n| y   |     |\n+-----+-----+"
    (found,) = detect.grids(text)[1]
    assert [cell.text for cell in found.rows[0]] == ["x y", "1"]
    assert [text[a:b] for a, b in found.rows[0][0].spans] == ["x", "y"]
    simple = "====  ===\nname  n\n====  ===\nx     1\ny     2\n      3\n====  ==="
    assert [[c.text for c in row] for row in detect.grids(simple)[1][0].rows] == [["x", "1"], ["y", "2 3"]]


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n|---|---|\n| x | 1 | 2 |",  # a cell too many
        "| a | b |\n|---|---|---|\n| x | 1 |",  # dashes for another head
        "| a | b |\n|---|---|\n| `x|y` | 1 |",  # a pipe inside code parts cells, as the flavour says
        "```\n| a | b |\n|---|---|\n| x | 1 |\n```",  # an example of markup
        "+---+---+\n| a | b |\n+===+===+\n| x     |\n+---+---+",  # a span
        "+---+---+\n| a | b |\n+---+---+\n| x | 1 |\n+---+---+",  # no head
        "===  ===\nx    1\n===  ===",  # no head
        "===  ===\na    b\n---------\n===  ===\nx    1\n===  ===",  # a span
        "He came, saw\nShe went, sat\nThey left, ran",  # prose with commas
        "x = [\n1,2,3\n4,5,6\n7,8,9\n]",  # numbers without a head
        "name  n\nx  1",  # two lines
        "a,b\n1,2",
    ],
)
def test_what_is_no_clear_table_is_left_out(text: str) -> None:
    assert detect.grids(text)[1] == []


def test_an_escaped_pipe_stands_in_a_cell() -> None:
    (found,) = detect.grids("| a | b |\n|---|---|\n| x \\| y | 1 |")[1]
    assert found.rows[0][0].text == "x | y"


def doc(text: str, kind: str = "markdown") -> Document:
    return Document(
        id="d", source="s", category="general", title="T", text=text, n_tokens=0, licence="CC0", metadata={"kind": kind}
    )


def columns(cells: dict[str, list[str]], above: str = "") -> dict[str, tuple[str, str]]:
    rows = [list(row) for row in zip(*cells.values(), strict=True)]
    found = sheets(doc(f"{above}\n{markdown(list(cells), rows)}"))
    return {column.name: (column.kind, column.unit) for one in found for column in one.columns}


NAMES = {"Town": ["Arlow", "Bexley", "Corven"]}


@pytest.mark.parametrize(
    ("head", "cells", "read"),
    [
        ("Revenue (USD millions)", ["1,234.5", "(12.0)", "n/a"], ("number", "USD millions")),
        ("Weight, kg", ["1", "2.5", "—"], ("number", "kg")),
        ("Growth", ["1%", "2.5 %", ".."], ("number", "%")),
        ("Growth (%)", ["1", "-2.5", "3*"], ("number", "%")),
        ("Price", ["$1", "$2.50", "-$3"], ("number", "$")),
        ("Year", ["1990", "1991", "1992"], ("year", "")),
        ("Born", ["1990", "1991", "1992"], ("number", "")),
        ("When", ["Mar-21", "Jun-21", "Sep-21"], ("month", "")),
        ("Day", ["2021-03-01", "2021-03-02", "2021-03-09"], ("date", "")),
        ("Kind", ["big", "small", "big"], ("text", "")),
        ("Score", ["1†", "2 [a]", "3"], ("number", "")),
    ],
)
def test_kinds_and_units(head: str, cells: list[str], read: tuple[str, str]) -> None:
    assert columns(NAMES | {head: cells})[head] == read


@pytest.mark.parametrize(
    "cells",
    [
        ["1", "2", "about 3"],
        ["1", "two", "3"],
        ["1,23", "2", "3"],  # which comma is it?
        ["1.234,5", "2", "3"],
        ["1%", "2", "3"],  # mixed marks
        ["$1", "€2", "$3"],
        ["(0.5)", "1.2", "2"],  # brackets without accounts: a standard error?
        ["10²", "2", "3"],  # a power, or a note?
        ["007", "008", "009"],
        ["1-2", "3-4", "5"],
    ],
)
def test_a_column_that_could_be_read_in_two_ways_is_left_out(cells: list[str]) -> None:
    assert "X" not in columns(NAMES | {"X": cells, "Y": ["1", "2", "3"]})


def test_captions_state_the_unit_unless_they_make_exceptions() -> None:
    sales = NAMES | {"Sales": ["1", "2", "3"]}
    assert columns(sales, "Table 1. Amounts in thousands of US dollars")["Sales"] == (
        "number",
        "thousands of US dollars",
    )
    assert columns(NAMES | {"Sales": ["$1", "$2", "$3"]}, "(in millions)")["Sales"] == ("number", "$, in millions")
    assert "Sales" not in columns(sales | {"Z": ["a", "b", "c"]}, "In millions, except per-share data")
    assert units.of_head("Score (max)") == "" and units.of_head("Speed (km/h)") == "km/h"


def test_two_columns_of_one_name_are_left_out() -> None:
    table = "| Town | N | n | M |\n|---|---|---|---|\n| a | 1 | 2 | 3 |\n| b | 1 | 2 | 3 |"
    (one,) = sheets(doc(table))
    assert [column.name for column in one.columns] == ["Town", "M"]


def test_columns_that_are_periods_become_rows() -> None:
    (one,) = sheets(doc("| Item | 2019 | 2020 |\n|---|---|---|\n| Sales | 1 | 2 |\n| Costs | - | 4 |"))
    assert one.wide and [column.kind for column in one.columns] == ["text", "year", "number"]
    shown = [(r[0].text, r[1].text, r[2] and r[2].number) for r in one.records if r[0] and r[1]]
    assert shown == [("Sales", "2019", 1), ("Sales", "2020", 2), ("Costs", "2019", None), ("Costs", "2020", 4)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,234", 1234), ("-5.50", Decimal("-5.5")), ("−3", -3), ("(7)", -7), ("1e3", 1000), ("12", 12), ("0.25%", 0.25)],
)
def test_numbers(text: str, value: Any) -> None:
    found = values.number(text)
    assert found is not None and found.value == Decimal(str(value))


@pytest.mark.parametrize("text", ["", "1,2", "1 000", "1.2.3", "(1", "1)", "--1", "$1%", "1e400", "٣", "1_000", "0x1"])
def test_no_numbers(text: str) -> None:
    assert values.number(text) is None


def test_hostile_documents_cost_little_and_give_no_wrong_table() -> None:
    began = time.process_time()
    huge = "x" * 1_000_000
    assert sheets(doc(f"| a | b |\n|---|---|\n| {huge} | 1 |")) == ()
    assert sheets(doc("|" * 1_000_000)) == ()
    assert sheets(doc("|-" * 500_000)) == ()
    assert sheets(doc("a  1\n" * 200_000)) == ()
    assert sheets(doc("a,b\n" * 200_000)) == ()
    assert sheets(doc('"' * 300_000 + ",\n" + '"a,' * 10_000)) == ()
    assert sheets(doc("+-" * 9_000 + "\n" + "== " * 6_000)) == ()
    assert time.process_time() - began < 10
    sql = "| Town | N |\n|---|---|\n| '; DROP TABLE r0; -- | 1 |\n| <script>x</script> | 2 |\n| {fence} | 3 |"
    (one,) = sheets(doc(sql))
    assert [r[0].text for r in one.records if r[0]] == ["'; DROP TABLE r0; --", "<script>x</script>", "{fence}"]
