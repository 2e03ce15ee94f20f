"""Prose about towns that do not exist, with the triples that a perfect extractor would read out of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product

from qwenlong.core.records import Document
from qwenlong.synthesis.graph import Edge

#: (document's name, sentence, subject, relation, object, kind of object); {0}, {1}, … are names of one town's world.
FACTS = (
    ("bridge", "The {0} Bridge was designed by {1} {2}.", "{0} Bridge", "designed by", "{1} {2}", "entity"),
    ("bridge", "The {0} Bridge crosses River {3}.", "The {0} Bridge", "crosses", "River {3}", "entity"),
    ("life", "{1} {2} was born in {4}.", "{1} {2}", "born in", "{4}", "entity"),
    ("life", "{1} {2} studied at the University of {5}.", "{1} {2}", "studied at", "University of {5}", "entity"),
    ("town", "{4} was founded in {y}.", "{4}", "founded in", "{y}", "value"),
    ("town", "The mayor of {4} is {6} {7}.", "{4}", "mayor", "{6} {7}", "entity"),
    ("school", "{5} University was endowed by Count {8}.", "{5} University", "endowed by", "Count {8}", "entity"),
    ("school", "Count {8} died in {z}.", "Count {8}", "died in", "{z}", "value"),
    ("storm", "The flood of {4} was caused by Storm {9}.", "flood of {4}", "caused by", "Storm {9}", "entity"),
    ("quay", "Storm {9} led to the closing of Quay {0}.", "Storm {9}", "led to", "closing of Quay {0}", "entity"),
)


def names() -> Iterator[str]:
    """Yield names, none of them a word; 23 initials take turns, so that ten names a town differ in theirs."""
    firsts = re.findall(
        "[A-Z][a-z]+", "Ab Bor Cal Dum Er Fal Gor Hul Il Jud Kiv Lom Mab Nar Ov Pel Rum Sil Tal Uv Wem Yar Zol"
    )
    lasts = ("ster", "wick", "mora", "lund", "pex", "quy", "zeth", "rino", "fard", "gast", "dell", "havn")
    yield from (f"{first}{middle}{last}" for middle, last, first in product(("ak", "ol", "un", "ev"), lasts, firsts))


def document(name: str, text: str, unit: str = "") -> Document:
    return Document(
        id=name, source="towns", category="general", title=name, text=text, n_tokens=0, licence="CC0",
        metadata={"entity": unit or name},
    )  # fmt: skip


def edge(document: Document, subject: str, relation: str, target: str, kind: str = "entity") -> Edge:
    """Return the triple with the first sentence that names both ends as its quote."""
    start = 0
    for sentence in document.text.split(" | "):
        if subject in sentence and target in sentence:
            return Edge(f"entity:{subject}", relation, f"{kind}:{target}", document.id, start, start + len(sentence))
        start += len(sentence) + 3
    raise AssertionError(f"{document.text!r} does not name {subject!r} and {target!r} in one sentence")


def said(name: str, *facts: Sequence[str], unit: str = "") -> tuple[Document, list[Edge]]:
    """Return a document that says facts (subject, relation, object[, kind]) in the words "subject relation object."."""
    made = document(name, " | ".join(f"{fact[0]} {fact[1]} {fact[2]}." for fact in facts), unit)
    return made, [edge(made, *fact) for fact in facts]


def towns(number: int) -> tuple[list[Document], list[Edge]]:
    """Return five to six documents and ten triples for each of some towns; the towns have nothing in common."""
    source = names()
    documents: list[Document] = []
    edges: list[Edge] = []
    for town in range(number):
        own = [next(source) for _ in range(10)]
        years = {"y": str(1100 + 10 * town), "z": str(1600 + 10 * town)}
        texts: dict[str, list[str]] = {}
        for home, sentence, *_ in FACTS:
            texts.setdefault(home, []).append(sentence.format(*own, **years))
        made = {home: document(f"{home}-{town}", " | ".join(texts[home]), f"unit {town}") for home in texts}
        documents += made.values()
        for home, _, subject, relation, target, kind in FACTS:
            filled = [part.format(*own, **years) for part in (subject, relation, target)]
            edges.append(edge(made[home], *filled, kind))
    return documents, edges
