"""The knowledge graph: relations taken from documents, each edge with the document and span it was read from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

from qwenlong.core.records import Document
from qwenlong.synthesis import parse

#: Fields whose value names one thing by which a country can be asked for. The others only end a path.
NAMING_FIELDS = (
    "Capital - name",
    "Nationality - adjective",
    "Country name - conventional long form",
    "Country name - local short form",
    "Country name - former",
    "Internet country code",
    "Civil aircraft registration country code prefix",
    "Elevation - highest point",
    "Ports - key ports",
)
BORDERS = "Land boundaries - border countries"
#: Longest value that can be an answer, in words.
MAX_WORDS = 6
_CALL = re.compile(r"(?<![\w.])(?:nx\.)?([a-z_]\w{3,})\(")


@dataclass(frozen=True)
class Edge:
    """source -relation-> target, read from [start, end) of a document; `qualifier` tells edges of a relation apart."""

    source: str
    relation: str
    target: str
    document: str
    start: int
    end: int
    qualifier: str = ""


class KnowledgeGraph:
    """A networkx multigraph over typed nodes ("entity:France", "value:Paris", "function:f", "file:a.py", …)."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self.edges: list[Edge] = sorted(set(edges), key=_order)
        for edge in self.edges:
            for node in (edge.source, edge.target):
                kind, _, label = node.partition(":")
                self.graph.add_node(node, kind=kind, label=label)
            self.graph.add_edge(
                edge.source,
                edge.target,
                relation=edge.relation,
                document=edge.document,
                start=edge.start,
                end=edge.end,
                qualifier=edge.qualifier,
                edge=edge,
            )

    def out(self, node: str, relation: str | None = None, shown: Collection[str] | None = None) -> list[Edge]:
        """Return edges that leave a node, restricted to a relation and to the documents shown."""
        if node not in self.graph:
            return []
        found = [data["edge"] for _, _, data in self.graph.out_edges(node, data=True)]
        return _restricted(found, relation, shown)

    def into(self, node: str, relation: str | None = None, shown: Collection[str] | None = None) -> list[Edge]:
        """Return edges that enter a node, restricted to a relation and to the documents shown."""
        if node not in self.graph:
            return []
        found = [data["edge"] for _, _, data in self.graph.in_edges(node, data=True)]
        return _restricted(found, relation, shown)

    def follow(self, start: str, steps: Sequence[tuple[str, str, str]], shown: Collection[str]) -> list[set[str]]:
        """Return the nodes reached after each step from `start`, over the documents shown only.

        A step is (direction "out" or "in", relation, qualifier); an empty qualifier matches every edge.
        """
        reached = [{start}]
        for direction, relation, qualifier in steps:
            following: set[str] = set()
            for node in reached[-1]:
                edges = self.out(node, relation, shown) if direction == "out" else self.into(node, relation, shown)
                matching = [edge for edge in edges if qualifier in ("", edge.qualifier)]
                following |= {edge.target if direction == "out" else edge.source for edge in matching}
            reached.append(following)
        return reached


def _order(edge: Edge) -> tuple[object, ...]:
    # All of an edge, or equal beginnings would be left in the order of a set.
    return (edge.source, edge.relation, edge.target, edge.document, edge.start, edge.end, edge.qualifier)


def _restricted(edges: list[Edge], relation: str | None, shown: Collection[str] | None) -> list[Edge]:
    return [
        edge
        for edge in edges
        if (relation is None or edge.relation == relation) and (shown is None or edge.document in shown)
    ]


def build(documents: Sequence[Document]) -> KnowledgeGraph:
    """Return the graph of documents: countries and their fields and borders, plays and who speaks, code and calls."""
    definitions = {function.name for document in documents for function in parse.functions(document)}
    edges: list[Edge] = []
    for document in documents:
        edges += _country(document)
        edges += _play(document)
        edges += _code(document, definitions)
    return KnowledgeGraph(edges)


def _country(document: Document) -> Iterable[Edge]:
    for field in parse.fields(document):
        if field.year is not None:
            continue
        value = parse.answer_of(field.value, MAX_WORDS)
        if field.label == BORDERS:
            for cell in parse.cells(document):
                if cell.field == BORDERS:
                    yield Edge(
                        f"entity:{field.entity}",
                        "borders",
                        f"entity:{cell.item}",
                        document.id,
                        cell.start,
                        cell.end,
                        f"{cell.value:,f} {cell.unit}",
                    )
        elif value is not None:
            span = (document.id, field.start, field.end)
            yield Edge(f"entity:{field.entity}", field.label, f"value:{value}", *span)


def _play(document: Document) -> Iterable[Edge]:
    first: set[str] = set()
    for said in parse.speeches(document):
        # The same name in two plays is two persons.
        person = f"person:{said.speaker.title()} ({parse.entity(document)})"
        yield Edge(person, "says", f"line:{said.text}", said.document, said.start, said.end)
        if said.speaker not in first:
            first.add(said.speaker)
            yield Edge(person, "begins", f"line:{said.text}", said.document, said.start, said.end, document.title)


def _code(document: Document, definitions: set[str]) -> Iterable[Edge]:
    for function in parse.functions(document):
        path = str(document.metadata.get("path", document.title))
        span = (document.id, function.start, function.end)
        yield Edge(f"function:{function.name}", "defined in", f"file:{path}", *span)
        code = parse.code_of(function)
        if not function.body:
            continue
        offset = document.text.find(function.body)
        for call in _CALL.finditer(code):
            if call[1] in definitions and call[1] != function.name:
                start, end = offset + call.start(1), offset + call.end(1)
                yield Edge(f"function:{function.name}", "calls", f"function:{call[1]}", document.id, start, end)
