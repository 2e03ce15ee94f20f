"""The graph of all documents: edges of the rules and resolved edges of extractors in one, with what may be doubted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from qwenlong.core.config import GraphConfig
from qwenlong.core.records import Document
from qwenlong.synthesis import names
from qwenlong.synthesis.graph import NAMING_FIELDS, Edge, KnowledgeGraph
from qwenlong.synthesis.intake import node_name
from qwenlong.synthesis.resolve import Resolution, resolve

if TYPE_CHECKING:
    import networkx as nx
    import numpy as np

Direction = Literal["out", "in"]
#: Relations of the rules that prose cannot go on from: verses and source code.
CLOSED = frozenset({"says", "begins", "calls", "defined in"})
#: Kinds of nodes that a path may pass: what has a name of its own, in all documents the same.
PASSABLE = frozenset({"name", "date", "rule"})
#: Kinds that may end a path.
ANSWERS = PASSABLE | {"number", "value"}


@dataclass(frozen=True)
class Link:
    """One edge between nodes of the graph; `edge` is as it was read, `relation` its cluster."""

    source: str
    relation: str
    target: str
    edge: Edge
    rule: bool = False

    def other(self, direction: Direction) -> str:
        """Return the node that a step in this direction leads to."""
        return self.target if direction == "out" else self.source


@dataclass(frozen=True)
class Step:
    """One step of a path: along or against a link's direction."""

    direction: Direction
    link: Link

    @property
    def start(self) -> str:
        """Return the node that the step leaves."""
        return self.link.source if self.direction == "out" else self.link.target

    @property
    def end(self) -> str:
        """Return the node that the step reaches."""
        return self.link.other(self.direction)

    def surface(self, end: bool) -> str:
        """Return the name of the node that the step reaches (or leaves), as the document writes it."""
        source = (self.direction == "in") == end
        return node_name(self.link.edge.source if source else self.link.edge.target)


@dataclass(frozen=True)
class Merged:
    """Links of rules and extractors over the same nodes, and what resolution said of them."""

    links: Sequence[Link]
    resolution: Resolution
    config: GraphConfig
    _ends: dict[tuple[str, Direction], dict[str, list[Link]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for link in self.links:
            for node, direction in ((link.source, "out"), (link.target, "in")):
                by_relation = self._ends.setdefault((node, direction), {})  # type: ignore[arg-type]
                by_relation.setdefault(link.relation, []).append(link)

    def kind(self, node: str) -> str:
        """Return what a node is: "name", "date", "number", "value", "noun", "ambiguous", or "rule"."""
        return self.resolution.kinds.get(node, "rule")

    def names(self, node: str) -> tuple[str, ...]:
        """Return all names of a node."""
        return self.resolution.aliases.get(node, ()) or (node_name(node),)

    def following(self, step: Step, shown: Collection[str] | None = None, start: str | None = None) -> set[str]:
        """Return the nodes to which a step like this one leads, over the documents shown.

        Names and relations that are perhaps the same count as the same here, and so does the passive of a relation
        that runs the other way: one answer under every reading is one answer.
        """
        start = step.start if start is None else start
        reached: set[str] = set()
        back: Direction = "in" if step.direction == "out" else "out"
        relation = step.link.relation
        inverses = self._inverses.get(relation, frozenset())
        for node in (start, *self.resolution.near.get(start, ())):
            for way, wanted in ((step.direction, self._alike(step.link)), (back, inverses)):
                by_relation = self._ends.get((node, way), {})
                for one in wanted & by_relation.keys():
                    for link in by_relation[one]:
                        if step.link.rule and link.edge.qualifier != step.link.edge.qualifier:
                            continue
                        if shown is None or link.edge.document in shown:
                            reached.add(link.other(way))
        return reached

    def _alike(self, link: Link) -> frozenset[str]:
        near = frozenset() if link.rule else self.resolution.near_relations.get(link.relation, frozenset())
        return near | {link.relation}

    @cached_property
    def _inverses(self) -> Mapping[str, frozenset[str]]:
        both: dict[str, set[str]] = defaultdict(set)
        for passive, active in self.resolution.inverse.items():
            both[passive].add(active)
            both[active].add(passive)
        return {one: frozenset(others) for one, others in both.items()}

    @cached_property
    def steps(self) -> Mapping[str, Sequence[Step]]:
        """The steps from each node that lead to one node only, over all documents."""
        found: dict[str, list[Step]] = defaultdict(list)
        single: dict[tuple[str, str, str, str], bool] = {}
        for link in self.links:
            for step in (Step("out", link), Step("in", link)):
                against = step.direction == "in"
                if link.rule and against and link.relation not in NAMING_FIELDS:
                    continue
                # Neither a number nor a common noun leads on: "3" of one document has nothing to do with another's.
                if self.kind(step.start) not in PASSABLE or self.kind(step.end) not in ANSWERS:
                    continue
                if self.kind(step.start) == "rule" and step.start.startswith("value:") and not against:
                    continue
                # Once per relation of a node, not once per link: a hub has thousands of links.
                key = (step.start, step.direction, link.relation, f"{link.rule} {link.edge.qualifier}")
                if key not in single:
                    single[key] = len(self.following(step)) == 1
                if single[key]:
                    found[step.start].append(step)
        return dict(sorted(found.items()))

    @cached_property
    def passed(self) -> nx.Graph[str]:
        """The nodes that steps leave or reach, without edges."""
        import networkx as nx

        return nx.empty_graph(sorted({*self.steps, *(step.end for steps in self.steps.values() for step in steps)}))

    @cached_property
    def relevant(self) -> Mapping[str, frozenset[str]]:
        """For each relation those that meet it at a node."""
        meeting: dict[str, set[str]] = defaultdict(set)
        nodes: dict[str, set[str]] = defaultdict(set)
        for node, steps in self.steps.items():
            nodes[node] |= {step.link.relation for step in steps}
            for step in steps:
                nodes[step.end].add(step.link.relation)
        for together in nodes.values():
            few = sorted(together)[:MEETING]
            for one in few:
                meeting[one] |= set(few)
        return {one: frozenset(others - {one}) for one, others in sorted(meeting.items())}

    @cached_property
    def _rows(self) -> tuple[dict[str, int], np.ndarray]:
        from qwenlong.core.embeddings import embed

        order = sorted(self.relevant)
        return {relation: number for number, relation in enumerate(order)}, embed(order)

    def by_similarity(self, relation: str, others: Collection[str], most: int) -> list[str]:
        """Return the relations that are most similar to one, the nearest first."""
        places, rows = self._rows
        ordered = sorted(others)
        scores = rows[[places[other] for other in ordered]] @ rows[places[relation]]
        return [other for _, other in sorted(zip((-scores.round(6)).tolist(), ordered, strict=True))[:most]]

    def described(self, node: str) -> set[str]:
        """Return all nodes that a vague description of a node fits: dates of its decade, names with its initials."""
        return {other for key in self._marks(node) for other in self._by_mark.get(key, ())}

    def _marks(self, node: str) -> set[str]:
        marks = set()
        for name in self.names(node):
            year = names.year_of(name)
            mark = names.initials(name) if year is None else f"{year // 10}"
            marks |= {mark} if mark else set()
        return marks

    @cached_property
    def _by_mark(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for node in {node for node, _ in self._ends}:
            for mark in self._marks(node):
                found[mark].add(node)
        return found

    def linked(self, one: str, other: str) -> bool:
        """Tell whether an edge joins two nodes, either way."""
        return any(
            link.other(direction) == other
            for direction in ("out", "in")
            for links in self._ends.get((one, direction), {}).values()
            for link in links
        )

    def knowledge(self) -> KnowledgeGraph:
        """Return the links as a plain knowledge graph, for export."""
        return KnowledgeGraph(
            Edge(
                link.source,
                link.relation,
                link.target,
                link.edge.document,
                link.edge.start,
                link.edge.end,
                link.edge.qualifier,
            )
            for link in self.links
        )


#: Relations at one node that are taken as meeting each other: a hub of thousands would pair all with all.
MEETING = 50


def anchors(rules: Sequence[Edge]) -> set[str]:
    """Return the nodes of structured sources that prose may speak of: countries, and what names one."""
    open_edges = [edge for edge in rules if edge.relation not in CLOSED and edge.source.startswith("entity:")]
    found = {edge.source for edge in open_edges}
    found |= {edge.target for edge in open_edges if edge.relation in NAMING_FIELDS or edge.target.startswith("entity:")}
    return found


def merge(
    rules: Sequence[Edge],
    extracted: Sequence[Edge],
    documents: Sequence[Document],
    config: GraphConfig,
    every: bool = False,
) -> Merged:
    """Return the graph of both kinds of edges; nodes of the rules keep their names.

    Without `every` the rules' verses and source code, which prose cannot go on from, stay out.
    """
    made = resolve(extracted, documents, anchors(rules), config)
    kept = [edge for edge in rules if every or (edge.relation not in CLOSED and edge.source.startswith("entity:"))]
    links = {Link(edge.source, edge.relation, edge.target, edge, rule=True) for edge in kept}
    for edge in extracted:
        source, target = made.node(edge.source, edge.document), made.node(edge.target, edge.document)
        if source != target:
            links.add(Link(source, made.relations[edge.relation], target, edge))
    return Merged(
        sorted(
            links,
            key=lambda k: (
                k.source,
                k.relation,
                k.target,
                k.edge.document,
                k.edge.start,
                k.edge.end,
                k.edge.relation,
                k.edge.source,
                k.edge.target,
                k.edge.qualifier,
                k.rule,
            ),
        ),
        made,
        config,
    )
