"""Which names and relations are one, which are perhaps, and which triples come into the graph at all."""

from __future__ import annotations

import random
import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from town_documents import document, edge, said, towns

from qwenlong.core.config import GraphConfig
from qwenlong.core.records import Document
from qwenlong.synthesis import merged, names, relations
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.intake import REASONS, accept
from qwenlong.synthesis.resolve import resolve

CONFIG = GraphConfig()


def nodes(*pairs: tuple[str, str], kind: str = "entity") -> list[str]:
    """Return the nodes of names, each said in a document of its own: (name, document)."""
    made = [said(name, (label, "sees", f"Thing Nr{n}"), unit=name) for n, (label, name) in enumerate(pairs)]
    found = resolve([e for _, edges in made for e in edges], [d for d, _ in made], (), CONFIG)
    return [found.nodes[label, name] for label, name in pairs]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Franklin Roosevelt", "Franklin Delano Roosevelt"),
        ("University of Morby", "Morby University"),
        ("Dr. Ada Orrin", "Ada Orrin"),
        ("The Arlow Bridge", "Arlow Bridge"),
        ("Orrin Ltd", "Orrin"),
        ("Café Morby", "CAFE MORBY"),
        ("Morby’s Mill", "Morby's Mill"),
    ],
)
def test_one_name_in_two_documents_is_one_node(one: str, other: str) -> None:
    found = nodes((one, "a"), (other, "b"))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("North Korea", "South Korea"),
        ("Arlow", "Arlow Bridge"),
        ("John Smith", "Jane Smith"),
        ("Battle of Arlow", "Battle of Morby"),
        ("World War I", "World War II"),
        ("Henry VII", "Henry VIII"),
        ("Apollo 11", "Apollo 12"),
        ("First Bank of Arlow", "Second Bank of Arlow"),
        ("Korea", "North Korea"),
        ("New York", "New York City"),
        ("Ada Orrin", "Ada Orrin Hall"),
        ("Road to Morby", "Morby to Road"),
        ("Orrin", "Ada Orrin"),
        ("John", "John Smith"),
        ("the bridge", "Arlow Bridge"),
        ("Royal Society", "Royal Geographical Society"),
    ],
)
def test_another_name_is_another_node(one: str, other: str) -> None:
    found = nodes((one, "a"), (other, "b"))
    assert found[0] != found[1]


def test_numbers_and_dates_are_one_only_when_written_alike() -> None:
    first, one = said("a", ("Orr", "was born in", "1801", "value"), ("Orr", "owns", "12 Mills", "value"))
    second, two = said("b", ("Vell", "died in", "1801", "entity"), ("Vell", "owns", "13 Mills", "entity"))
    third, three = said("c", ("Quill", "died on", "3 May 1801", "entity"))
    found = resolve([*one, *two, *three], [first, second, third], (), CONFIG)
    assert found.nodes["1801", "a"] == found.nodes["1801", "b"] == "value:1801"
    assert len({found.nodes["1801", "a"], found.nodes["3 May 1801", "c"], found.nodes["12 Mills", "a"],
                found.nodes["13 Mills", "b"]}) == 4  # fmt: skip
    assert found.kinds["value:1801"] == "date" and found.kinds["value:12 Mills"] == "number"


@given(st.integers(1000, 2099), st.integers(1000, 2099), st.sampled_from(["{}", "May {}", "3 May {}", "{} km"]))
def test_different_numbers_never_merge(one: int, other: int, written: str) -> None:
    found = nodes((written.format(one), "a"), (written.format(other), "b"))
    assert (found[0] == found[1]) == (one == other)


def test_what_one_document_keeps_apart_stays_apart() -> None:
    """Two near names merge over documents; a third that uses both tells them apart."""
    first = said("a", ("John Kennedy", "sees", "Arlow"))
    second = said("b", ("John Fitzgerald Kennedy", "sees", "Morby"))
    third = said("c", ("John Kennedy", "met", "John Fitzgerald Kennedy"))
    alone = resolve([*first[1], *second[1]], [first[0], second[0]], (), CONFIG)
    assert (
        alone.nodes["John Kennedy", "a"] == alone.nodes["John Fitzgerald Kennedy", "b"] and alone.counts["merged"] == 1
    )
    made = [first, second, third]
    both = resolve([e for _, edges in made for e in edges], [d for d, _ in made], (), CONFIG)
    one, other = both.nodes["John Kennedy", "a"], both.nodes["John Fitzgerald Kennedy", "b"]
    assert one != other and both.counts["kept_apart"] == 1 and both.counts["merged"] == 0
    # They are doubted instead, below the threshold of sameness.
    assert (
        other
        in resolve(
            [*first[1], *second[1]], [first[0], second[0]], (), CONFIG.model_copy(update={"entity_similarity": 1.0})
        ).near["entity:John Kennedy"]
    )


def test_complete_linkage_a_chain_of_near_names_does_not_merge_its_ends() -> None:
    made = [said(name, (label, "sees", "Arlow")) for name, label in
            (("a", "John Kennedy"), ("b", "John Fitzgerald Kennedy"), ("c", "John Lafayette Kennedy"))]  # fmt: skip
    found = resolve([e for _, edges in made for e in edges], [d for d, _ in made], (), CONFIG)
    assert found.nodes["John Fitzgerald Kennedy", "b"] != found.nodes["John Lafayette Kennedy", "c"]
    assert found.counts["merged"] == 1 and found.counts["not_linked"] == 1


def test_common_nouns_and_bare_given_names_are_their_documents_own() -> None:
    pairs = [("the river", "a"), ("the river", "b"), ("John", "a"), ("John", "b"), ("John Keld", "c")]
    found = nodes(*[(label, f"{name}{n}") for n, (label, name) in enumerate(pairs)])
    assert len(set(found)) == 5
    # "Prime Minister" is nobody's name where the documents write of ministers.
    first, one = said("a", ("The Prime Minister", "visited", "Arlow"))
    second, two = said("b", ("The Prime Minister", "visited", "Morby"))
    third, three = said("c", ("Arlow", "has no prime", "minister"))
    kept = resolve([*one, *two, *three], [first, second, third], (), CONFIG)
    assert kept.nodes["The Prime Minister", "a"] != kept.nodes["The Prime Minister", "b"]


def test_a_document_may_say_that_two_names_are_one() -> None:
    first = said("a", ("Ada Orrin", "also known as", "Lady Vell"))
    second = said("b", ("Lady Vell", "founded", "Morby"))
    found = resolve([*first[1], *second[1]], [first[0], second[0]], (), CONFIG)
    assert found.nodes["Ada Orrin", "a"] == found.nodes["Lady Vell", "b"] and found.counts["stated"] == 1


def test_nodes_of_structured_sources_keep_their_names_and_never_merge() -> None:
    rules = [Edge("entity:France", "Capital - name", "value:Paris", "x", 0, 1),
             Edge("entity:Niger", "Capital - name", "value:Niamey", "y", 0, 1)]  # fmt: skip
    made = said(
        "a", ("FRANCE", "also known as", "Niger"), ("Orr", "died in", "Paris"), ("Orr", "left", "Bank of France")
    )
    graph = merged.merge(rules, made[1], [made[0]], CONFIG)
    known = graph.resolution.nodes
    assert known["FRANCE", "a"] == "entity:France" and known["Niger", "a"] == "entity:Niger"
    assert known["Paris", "a"] == "value:Paris" and known["Bank of France", "a"] == "entity:Bank of France"
    assert {link.source for link in graph.links if link.rule} == {"entity:France", "entity:Niger"}


def test_relations_that_are_one_and_those_that_only_look_alike() -> None:
    said_ = ["was born in", "born in", "is the capital of", "capital of", "founded", "was founded", "founded by"]
    said_ += ["died in", "worked at", "worked for", "married to", "was married to"]
    home, near = relations.cluster({relations.form(r): frozenset() for r in said_}, 0.85, 0.5)
    cluster = {r: home[relations.form(r)] for r in said_}
    assert cluster["was born in"] == cluster["born in"] and cluster["capital of"] == cluster["is the capital of"]
    assert cluster["married to"] == cluster["was married to"]
    assert len({cluster[r] for r in ("founded", "was founded", "founded by", "born in", "died in")}) == 5
    assert cluster["worked at"] != cluster["worked for"]
    # … but whoever asks where somebody worked is told of both.
    assert relations.form("worked for") in near[relations.form("worked at")]
    assert relations.inverse(relations.form("was founded by")) == relations.form("founded")


def test_relations_that_link_the_same_pairs_are_one_at_less_similarity() -> None:
    one, other = relations.form("founded"), relations.form("established")
    pairs = frozenset({("a", "b"), ("c", "d")})
    apart, _ = relations.cluster({one: pairs, other: frozenset({("a", "b")})}, 0.85, 0.5)
    together, _ = relations.cluster({one: pairs, other: pairs}, 0.85, 0.5)
    assert apart[one] != apart[other] and together[one] == together[other]


@settings(deadline=None, max_examples=15)
@given(st.randoms(use_true_random=False))
def test_the_order_of_edges_and_documents_does_not_matter(order: random.Random) -> None:
    documents, edges = towns(4)
    first = resolve(edges, documents, (), CONFIG)
    order.shuffle(documents)
    order.shuffle(edges)
    assert resolve(edges, documents, (), CONFIG) == first


@given(st.text(string.ascii_letters + " .'é1", max_size=30), st.text(string.ascii_letters + " .'é1", max_size=30))
def test_compatible_is_symmetric_and_never_joins_other_numerals(one: str, other: str) -> None:
    left, right = names.form(one), names.form(other)
    assert names.compatible(left, right) == names.compatible(right, left)
    if names.compatible(left, right):
        assert names.numerals(left) == names.numerals(right)


TEXT = "Orr built the Arlow Bridge in New York City. Orr never saw Morby. By 1801 Orr owned it."


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, ""),
        ({"document": "z"}, "no_document"),
        ({"start": -1}, "out_of_bounds"),
        ({"end": 4000}, "out_of_bounds"),
        ({"start": 44}, "out_of_bounds"),
        ({"source": "person:Orr"}, "not_a_node"),
        ({"source": "Orr"}, "not_a_node"),
        ({"relation": "…"}, "not_a_node"),
        ({"target": "entity:orr"}, "not_a_node"),
        ({"target": "entity:"}, "not_a_node"),
        ({"target": "entity:Arlow Brid"}, "not_in_quote"),
        ({"target": "entity:Morby"}, "not_in_quote"),
        ({"target": "entity:New York"}, "cut_name"),
        ({"target": "entity:York City"}, "cut_name"),
        ({"target": "entity:Morby", "start": 45, "end": 65}, "not_asserted"),
        ({"target": "value:1801", "start": 66, "end": 87}, ""),
    ],
)
def test_only_what_the_documents_bear_out_is_accepted(values: dict[str, object], reason: str) -> None:
    good = Edge("entity:Orr", "built", "entity:Arlow Bridge", "a", 0, 44)
    kept, counts = accept([replace(good, **values)], [document("a", TEXT)], [])  # type: ignore[arg-type]
    assert {name: counts[name] for name in REASONS if counts[name]} == ({reason: 1} if reason else {})
    assert len(kept) == counts["kept"] == (not reason) and counts["read"] == 1


def test_edges_of_the_rules_and_repeated_ones_are_counted(corpus: list[Document]) -> None:
    from qwenlong.synthesis.graph import build

    rules = build(corpus).edges
    made = document("a", "Orr built Arlow.")
    own = edge(made, "Orr", "built", "Arlow")
    kept, counts = accept([*rules, own, own], [*corpus, made], rules)
    assert kept == [own] and counts["by_rules"] == len(rules) and counts["repeated"] == 1
