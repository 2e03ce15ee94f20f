"""doc_multi_hop: paths over several documents of the knowledge graph, one answer over the documents shown."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import hypothetical, parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.graph import NAMING_FIELDS, Edge, KnowledgeGraph
from qwenlong.synthesis.pool import Pool, whole_line

Step = tuple[str, str, str]
#: Times that each edge may start a path, with other ends.
PASSES = 8
#: A comment, or a string, which may hold the sign of one.
_COMMENT = re.compile(r"""(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|#[^\n]*""")
_ANY_CALL = re.compile(r"(?<![\w.])(?:nx\.)?(\w+)\(")


@dataclass(frozen=True)
class Path:
    """A start node and the steps from it; the last node is the answer."""

    start: str
    steps: tuple[Step, ...]

    def answer(self, graph: KnowledgeGraph, documents: Sequence[str]) -> str | None:
        """Return the one node at the end over the documents shown; None when any step is not unique."""
        reached = graph.follow(self.start, self.steps, set(documents))
        if any(len(nodes) != 1 for nodes in reached):
            return None
        return label(next(iter(reached[-1])))


def label(node: str) -> str:
    """Return a node's name without its kind (and a person's without the play)."""
    kind, _, text = node.partition(":")
    return re.sub(r" \([^()]*\)$", "", text) if kind == "person" else text


def _holds(path: Path, graph: KnowledgeGraph, answer: str, documents: Sequence[Document]) -> bool:
    return path.answer(graph, [document.id for document in documents]) == answer


def _candidate(
    pool: Pool, path: Path, edges: Sequence[Edge], template: str, question: str, question_type: str = "multi-fact"
) -> Candidate | None:
    """Return the question of a path; None when its documents are fewer than two, too long, or leave it ambiguous."""
    documents = list(dict.fromkeys(edge.document for edge in edges))
    if len(documents) < 2 or not pool.fits(documents):
        return None
    answer = path.answer(pool.graph, documents)
    if answer is None or parse_words(answer) & parse_words(question) == parse_words(answer):
        return None
    return Candidate(
        task="doc_multi_hop",
        question_type=question_type,
        template=template,
        question=question,
        answers=(answer,),
        evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
        reasoning_chain=tuple(reason(pool.by_id[e.document], e) for e in edges),
        holds=partial(_holds, path, pool.graph, answer),
        n_hops=len(path.steps),
        generator="graph@1",
        # Every path starts at one, and a neighbour is told by the length of the border.
        specifics=(label(path.start), *(step[2] for step in path.steps if step[2])),
    )


def parse_words(text: str) -> set[str]:
    """Return the words of a text, for telling whether a question gives its answer away."""
    return set(re.findall(r"\w+", text.casefold()))


def reason(document: Document, edge: Edge) -> str:
    """Return an edge as a step of the reasoning chain."""
    head, relation, tail = label(edge.source), edge.relation, label(edge.target)
    if relation == "borders":
        return f"{head} borders {tail}, {edge.qualifier}."
    if relation in ("says", "begins"):
        return f'{head} says "{tail}"'
    if relation in ("calls", "defined in"):
        verb = "calls" if relation == "calls" else "is defined in"
        return f"{head} {verb} {tail}."
    return f"{head}: {whole_line(document, edge.start, edge.end)}"


def _random_edges(pool: Pool, name: str, keep: Callable[[Edge], bool]) -> Iterator[tuple[int, Edge]]:
    """Yield edges that a path may start with, each a few times with another number, in random order."""
    edges = [e for e in pool.graph.edges if keep(e) and pool.fits([e.document])]
    for turn in range(PASSES):
        for number, edge in enumerate(pool.shuffled(edges, "multi_hop", name, pool.budget, turn)):
            yield turn * len(edges) + number, edge


def _ends(pool: Pool, node: str, name: str, draw: int, avoid: set[str]) -> list[Edge]:
    """Return field edges that may end a path at an entity, in random order."""
    found = [
        e
        for e in pool.graph.out(node)
        if e.target.startswith("value:") and e.relation not in avoid and len(e.target) < 60
    ]
    return pool.shuffled(found, "multi_hop", name, draw)[:8]


def country_field(pool: Pool) -> Iterator[Candidate]:
    """The country by one field, then another of its fields, in two documents."""
    for draw, first in _random_edges(pool, "country_field", lambda e: e.relation in NAMING_FIELDS):
        for last in _ends(pool, first.source, "country_field", draw, {first.relation}):
            path = Path(first.target, (("in", first.relation, ""), ("out", last.relation, "")))
            question = f"What is the {last.relation} of the country whose {first.relation} is {label(first.target)}?"
            candidate = _candidate(pool, path, [first, last], "country_field@1", question)
            if candidate is not None and label(first.source) not in label(last.target):
                yield candidate
                break


def border_field(pool: Pool) -> Iterator[Candidate]:
    """The neighbour by the length of the border, then one of its fields."""
    for draw, first in _random_edges(pool, "border_field", lambda e: e.relation == "borders"):
        for last in _ends(pool, first.target, "border_field", draw, set()):
            steps: tuple[Step, ...] = (("out", "borders", first.qualifier), ("out", last.relation, ""))
            question = (
                f"What is the {last.relation} of the country that has a {first.qualifier} border "
                f"with {label(first.source)}?"
            )
            candidate = _candidate(pool, Path(first.source, steps), [first, last], "border_field@1", question)
            if candidate is not None:
                yield candidate
                break


def country_border_field(pool: Pool) -> Iterator[Candidate]:
    """Three hops: a country by one field, its neighbour by the border's length, one of the neighbour's fields."""
    if pool.max_hops < 3:
        return
    for draw, first in _random_edges(pool, "country_border_field", lambda e: e.relation in NAMING_FIELDS):
        for border in pool.shuffled(pool.graph.out(first.source, "borders"), "multi_hop", "border", draw)[:4]:
            for last in _ends(pool, border.target, "country_border_field", draw, set())[:4]:
                steps: tuple[Step, ...] = (
                    ("in", first.relation, ""),
                    ("out", "borders", border.qualifier),
                    ("out", last.relation, ""),
                )
                question = (
                    f"What is the {last.relation} of the country that has a {border.qualifier} border with "
                    f"the country whose {first.relation} is {label(first.target)}?"
                )
                edges = [first, border, last]
                candidate = _candidate(pool, Path(first.target, steps), edges, "country_border_field@1", question)
                if candidate is not None:
                    yield candidate
                    break


def speaker_line(pool: Pool) -> Iterator[Candidate]:
    """Who says a line, then how that person begins in another scene of the play."""
    for draw, first in _random_edges(
        pool, "speaker_line", lambda e: e.relation == "says" and len(e.target.split()) >= 5
    ):
        begins = [e for e in pool.graph.out(first.source, "begins") if e.document != first.document]
        for last in pool.shuffled(begins, "multi_hop", "speaker_line", draw)[:6]:
            if not 3 <= len(label(last.target).split()) <= 10:
                continue
            steps: tuple[Step, ...] = (("in", "says", ""), ("out", "begins", last.qualifier))
            question = f'Whoever says "{label(first.target)}": what is their first line in "{last.qualifier}"?'
            candidate = _candidate(pool, Path(first.target, steps), [first, last], "speaker_line@1", question)
            if candidate is not None:
                yield candidate
                break


def called_function(pool: Pool) -> Iterator[Candidate]:
    """The function that another one calls, then the file that defines it."""
    for draw, first in _random_edges(pool, "called_function", lambda e: e.relation == "calls"):
        homes = pool.graph.out(first.target, "defined in")
        for last in pool.shuffled(homes, "multi_hop", "called_function", draw)[:4]:
            # Over the two documents shown it must be the only call to a function that is defined there.
            steps: tuple[Step, ...] = (("out", "calls", ""), ("out", "defined in", ""))
            question = f"Which file defines a function that {label(first.source)} calls?"
            candidate = _candidate(pool, Path(first.source, steps), [first, last], "called_function@1", question)
            if candidate is not None:
                yield replace(candidate, holds=partial(_one_file, label(first.source), candidate))
                break


def _one_file(function: str, candidate: Candidate, documents: Sequence[Document]) -> bool:
    """Tell whether a function calls one function only that is defined here, and the file that defines it is the answer.

    Private and short names count too, which the graph leaves out; what a comment names is not called. Two calls into
    one file would leave no evidence that the answer needs.
    """
    homes: dict[str, set[str]] = defaultdict(set)
    called: set[str] = set()
    for document in documents:
        for name in parse.defined(document):
            homes[name].add(str(document.metadata.get("path", document.title)))
        for found in parse.functions(document):
            if found.name == function:
                code = _COMMENT.sub(lambda match: match["text"] or "", parse.code_of(found))
                called |= set(_ANY_CALL.findall(code)) - {function}
    defined = [homes[name] for name in called if name in homes]
    return candidate.holds(documents) and defined == [{*candidate.answers}]


@dataclass(frozen=True)
class _Earlier:
    """Which of two countries has the earlier year in a field."""

    relation: str
    members: tuple[str, str]

    def answer(self, graph: KnowledgeGraph, documents: Sequence[str]) -> str | None:
        years = {}
        for member in self.members:
            edges = graph.out(f"entity:{member}", self.relation, set(documents))
            found = {year for edge in edges if (year := year_of(label(edge.target))) is not None}
            if len(edges) != 1 or len(found) != 1:
                return None
            years[member] = found.pop()
        first, second = sorted(years, key=lambda member: years[member])
        return None if years[first] == years[second] else first


def year_of(text: str) -> int | None:
    """Return the one year that a text names, None for several or none."""
    found = set(re.findall(r"\b(1[5-9]\d\d|20\d\d)\b", text))
    return int(found.pop()) if len(found) == 1 else None


def earlier(pool: Pool) -> Iterator[Candidate]:
    """Temporal: which of two countries' dates in a field is earlier."""
    fields = ("Independence", "Constitution - history", "National holiday", "Dependency status")

    def dated(edge: Edge) -> bool:
        return edge.relation in fields and year_of(label(edge.target)) is not None

    dates = [e for e in pool.graph.edges if dated(e)]
    random = pool.rng("multi_hop", "earlier_second", pool.budget)
    for _, first in _random_edges(pool, "earlier", dated):
        others = [e for e in dates if e.relation == first.relation and e.source != first.source]
        if not others:
            continue
        second = others[random.randrange(len(others))]
        documents = [first.document, second.document]
        comparison = _Earlier(first.relation, (label(first.source), label(second.source)))
        answer = comparison.answer(pool.graph, documents) if pool.fits(documents) else None
        if answer is None:
            continue
        one, two = comparison.members

        def holds(shown: Sequence[Document], comparison: _Earlier = comparison, answer: str = answer) -> bool:
            return comparison.answer(pool.graph, [d.id for d in shown]) == answer

        edges = (first, second)
        yield Candidate(
            task="doc_multi_hop",
            question_type="temporal",
            template="earlier@1",
            question=f"Which has the earlier {first.relation}: {one} or {two}?",
            answers=(answer,),
            evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
            reasoning_chain=tuple(reason(pool.by_id[e.document], e) for e in edges),
            holds=holds,
            n_hops=2,
            generator="graph@1",
            specifics=comparison.members,
        )


def common_neighbour(pool: Pool) -> Iterator[Candidate]:
    """The country that borders two others, by the lengths of both borders, which stand in two documents."""
    into: dict[str, list[Edge]] = defaultdict(list)
    for edge in pool.graph.edges:
        if edge.relation == "borders":
            into[edge.target].append(edge)
    for draw, first in _random_edges(pool, "common_neighbour", lambda e: e.relation == "borders"):
        others = [e for e in into[first.target] if e.source != first.source and e.document != first.document]
        for second in pool.shuffled(others, "multi_hop", "common_neighbour", draw)[:1]:
            edges = [first, second]
            documents = [first.document, second.document]
            asked = _Common(tuple((e.source, e.qualifier) for e in edges))
            if not pool.fits(documents) or asked.answer(pool.graph, documents) != first.target:
                continue
            ends = [f"a {e.qualifier} border with {label(e.source)}" for e in edges]
            yield Candidate(
                task="doc_multi_hop",
                question_type="multi-fact",
                template="common_neighbour@1",
                question=f"Which country has {ends[0]} and {ends[1]}?",
                answers=(label(first.target),),
                evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
                reasoning_chain=tuple(reason(pool.by_id[e.document], e) for e in edges),
                holds=partial(_common_holds, asked, pool.graph, first.target),
                n_hops=2,
                generator="graph@1",
                specifics=tuple(label(e.source) for e in edges),
            )


@dataclass(frozen=True)
class _Common:
    """Who borders all of (country, length of the border)."""

    borders: tuple[tuple[str, str], ...]

    def answer(self, graph: KnowledgeGraph, documents: Sequence[str]) -> str | None:
        """Return the one node over the documents shown."""
        shown = set(documents)
        reached = [
            {edge.target for edge in graph.out(country, "borders", shown) if edge.qualifier == length}
            for country, length in self.borders
        ]
        both = set.intersection(*reached)
        return both.pop() if len(both) == 1 else None


def _common_holds(asked: _Common, graph: KnowledgeGraph, answer: str, documents: Sequence[Document]) -> bool:
    return asked.answer(graph, [document.id for document in documents]) == answer


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "country_field": country_field,
    "border_field": border_field,
    "country_border_field": country_border_field,
    "speaker_line": speaker_line,
    "called_function": called_function,
    "earlier": earlier,
    "common_neighbour": common_neighbour,
    "changed_number": hypothetical.changed_number,
}
