"""Parsing, tables, graph, split, decontamination."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.records import Document
from qwenlong.synthesis import graph, numerical, parse
from qwenlong.synthesis.decontaminate import Seen
from qwenlong.synthesis.splits import split
from qwenlong.synthesis.tables import MAX_ROWS, Table


def document(text: str, kind: str, name: str = "d", **metadata: object) -> Document:
    return Document(
        id=name, source="s", category="general", title=name, text=text, n_tokens=0, licence="MIT",
        metadata={"kind": kind, "entity": name, **metadata},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("643,801 sq km", "643801", "sq km"),
        ("52.5% (2023 est.)", "52.5", "%"),
        ("-$13.749 billion (2024 est.)", "-13.749", "billion US dollars"),
        ("12.47 births/1,000 population (2025 est.)", "12.47", "births/1,000 population"),
        ("$54,300 (2024 est.)", "54300", "US dollars"),
        ("60 (2025 est.)", "60", ""),
    ],
)
def test_quantities(text: str, value: str, unit: str) -> None:
    assert parse.quantity(text) == parse.Quantity(Decimal(value), unit)


@pytest.mark.parametrize("text", ["643,801 sq km ; 551,500 sq km", "UTC+4", "Mont Blanc 4,810", "2.3-4.5 m", "NA"])
def test_what_is_no_single_quantity(text: str) -> None:
    assert parse.quantity(text) is None


def test_fields_and_cells_keep_their_spans() -> None:
    text = (
        "## Economy\nExports - Exports 2024: $56.1 billion (2024 est.)\n"
        "Exports - Exports 2023: $51.2 billion (2023 est.)\n"
        "Exports - note: in current dollars\nLand boundaries - border countries: Andorra 55 km; Spain 646 km"
    )
    found = list(parse.cells(document(text, "factbook")))
    assert [(c.field, c.item, c.year, c.value) for c in found] == [
        ("Exports", "", "2024", Decimal("56.1")),
        ("Exports", "", "2023", Decimal("51.2")),
        ("Land boundaries - border countries", "Andorra", "", Decimal(55)),
        ("Land boundaries - border countries", "Spain", "", Decimal(646)),
    ]
    assert [text[c.start : c.end] for c in found][2:] == ["Andorra 55 km", "Spain 646 km"]


TABLE = """## Balance sheet
| Item | Mar-21 | Mar-22 |
| --- | --- | --- |
| Total Assets | 1,200.5 | -3 |
| Debt | 0 | n/a |"""


def test_table_cells_leave_out_what_was_not_reported() -> None:
    found = list(parse.cells(document(TABLE, "finance")))
    assert [(c.field, c.year, c.value) for c in found] == [
        ("Total Assets", "Mar-21", Decimal("1200.5")),
        ("Total Assets", "Mar-22", Decimal(-3)),
    ]


def test_speeches_know_names_from_verses() -> None:
    verses = "Out, damned spot!\nThen let me see thy cloak."
    text = f"That starts before anyone.\n\nLady Macbeth.\n{verses}\n\n[Exit]\n\nDOCTOR.\nHark!"
    found = parse.speeches(document(text, "play"))
    assert [(said.speaker, said.text) for said in found] == [
        ("Lady Macbeth", "Out, damned spot!"),
        ("Lady Macbeth", "Then let me see thy cloak."),
        ("DOCTOR", "Hark!"),
    ]
    assert all(text[said.start : said.end].strip() == said.text for said in found)


CODE = '''def f(G, k=3):
    """Do.

    Parameters
    ----------
    G : graph
        The graph
        Note : of any kind
    k : int, optional

    Returns
    -------
    r : float
    """
    return g(G)

X = 1
'''


def test_functions_and_documented_parameters() -> None:
    source = document(CODE, "code", path="a.py")
    function = parse.functions(source)[0]
    assert function.name == "f" and "X = 1" not in function.body
    assert [(p.speaker, p.text) for p in parse.parameters(source, function)] == [("G", "graph"), ("k", "int, optional")]


def cell(entity: str, value: str, unit: str = "km", name: str = "a") -> parse.Cell:
    return parse.Cell(name, entity, "Coast", "", "", Decimal(value), unit, 0, 1, value)


def query(operation: str, *members: str, unit: str = "km", threshold: str = "") -> numerical.Query:
    return numerical.Query(
        operation, "entity", (("year", ""), ("item", ""), ("field", "Coast")), members, unit, threshold
    )


def test_operations() -> None:
    with Table([cell("A", "10"), cell("B", "30.5"), cell("C", "5")]) as table:
        results = {
            name: query(name, "A", "B", "C", threshold="9").answer(table, ["a"]) for name in numerical.OPERATIONS
        }
    assert results == {"max": "B", "min": "C", "count": "2", "sum": "45.5", "mean": "15.17", "difference": "25.5"}


@pytest.mark.parametrize(
    "second", [cell("B", "10"), cell("B", "11", "miles"), cell("A", "11"), cell("C", "11")],
    ids=["tie", "other unit", "value twice", "member missing"],
)  # fmt: skip
def test_what_has_no_single_answer_has_none(second: parse.Cell) -> None:
    with Table([cell("A", "10"), second]) as table:
        assert query("max", "A", "B").answer(table, ["a"]) is None


def test_a_second_value_in_another_document_counts_only_when_shown() -> None:
    with Table([cell("A", "10"), cell("B", "11"), cell("B", "12", name="b")]) as table:
        assert query("max", "A", "B").answer(table, ["a"]) == "B"
        assert query("max", "A", "B").answer(table, ["a", "b"]) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY cells TO '/tmp/out.csv'",
        "INSERT INTO cells SELECT * FROM cells",
        "DROP TABLE cells",
        "SET enable_external_access = true",
        "SET threads = 8",
        "ATTACH '/tmp/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
    ],
)
def test_the_table_is_locked(sql: str) -> None:
    with Table([cell("A", "1")]) as table:
        with pytest.raises(QwenlongError, match="query failed"):
            table.query(sql)
        assert table.query("SELECT count(*) FROM cells") == [(1,)]


def test_row_limit_and_hostile_values() -> None:
    hostile = cell("x'); DROP TABLE cells; --", "1")
    with Table([hostile, cell("B", "2")]) as table:
        assert query("max", hostile.entity, "B").answer(table, ["a"]) == "B"
        with pytest.raises(QwenlongError, match=f"more than {MAX_ROWS}"):
            table.query("SELECT * FROM range(2000)")


def test_graph_follows_unique_steps_over_shown_documents_only() -> None:
    one = document(
        "Capital - name: Paris\nLand boundaries - border countries: Spain 646 km; Italy 476 km", "factbook", "France"
    )
    two = document("Capital - name: Madrid (city)\nInternet country code: .es", "factbook", "Spain")
    made = graph.build([one, two])
    steps = (("in", "Capital - name", ""), ("out", "borders", "646 km"), ("out", "Internet country code", ""))
    assert made.follow("value:Paris", steps, {"France", "Spain"})[-1] == {"value:.es"}
    assert made.follow("value:Paris", steps, {"France"})[-1] == set()
    assert made.follow("value:Paris", (steps[0], ("out", "borders", "")), {"France"})[-1] == {
        "entity:Spain",
        "entity:Italy",
    }


@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0.05, 0.95))
def test_split_keeps_entities_together(seed: int, n: int, share: float) -> None:
    documents = [
        document("x", "factbook", f"e{i % n}").model_copy(update={"id": f"e{i % n}#{i}"}) for i in range(2 * n)
    ]
    train, heldout = split(documents, share, seed)
    sides = [{parse.entity(d) for d in side} for side in (train, heldout)]
    assert len(train) + len(heldout) == 2 * n and not sides[0] & sides[1]
    assert 1 <= len(sides[1]) <= n - 1
    assert split(documents[::-1], share, seed) == (train, heldout)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_split_does_not_depend_on_the_rest_of_the_corpus(share: float) -> None:
    documents = [document("x", "factbook", f"e{i}") for i in range(2000)]
    heldout = {d.id for d in split(documents, share, 17)[1]}
    # Five standard deviations of a binomial around the share.
    assert abs(len(heldout) - share * 2000) < 5 * (2000 * share * (1 - share)) ** 0.5
    half = documents[::2]
    assert {d.id for d in split(half, share, 17)[1]} == heldout & {d.id for d in half}
    assert {d.id for d in split(documents, share, 18)[1]} != heldout


def test_split_of_nothing() -> None:
    with pytest.raises(DataError, match="0 documents"):
        split([], 0.3, 1)


def test_decontamination() -> None:
    seen = Seen()
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    seen.add(f"What about {words}?")
    assert seen.repeats(f"what about {words.upper()}") and seen.overlaps(f"So {words} then")
    assert not seen.repeats(f"So {words} then") and not seen.overlaps("one two three")
    # A run that is the template's own wording is no leak; one that holds the name is.
    assert not seen.overlaps(f"So {words} of Peru", specifics=("Peru",))
    assert seen.overlaps(f"So {words} of Peru", specifics=("six seven",))
