"""doc_multi_hop over extracted triples: random walks and breadth-first paths whose every step has one answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, pairwise
from random import Random

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import names, wording
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.intake import node_name
from qwenlong.synthesis.merged import Merged, Step
from qwenlong.synthesis.pool import Pool, whole_line

#: Nodes that one breadth-first search visits.
MAX_VISITED = 500
#: Ends of one search that are tried.
MAX_ENDS = 8
#: Starts in a row that give no question after which a template counts as exhausted.
MAX_MISSES = 2000
#: Longest answer, in words.
MAX_WORDS = 8
#: Shorter names stand in any text by accident.
MIN_NAME = 4


@dataclass(frozen=True)
class Walk:
    """Steps from one node to another. `vague` describes the first node without naming it, "" when it is named."""

    steps: tuple[Step, ...]
    vague: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the nodes from start to end."""
        return (self.steps[0].start, *(step.end for step in self.steps))

    @property
    def documents(self) -> tuple[str, ...]:
        """Return the documents of the steps, in order."""
        return tuple(dict.fromkeys(step.link.edge.document for step in self.steps))

    @cached_property
    def edges(self) -> tuple[tuple[str, int, int], ...]:
        """Return document and span of each step."""
        return tuple((s.link.edge.document, s.link.edge.start, s.link.edge.end) for s in self.steps)

    def answers(self, graph: Merged, shown: Collection[str] | None) -> list[set[str]]:
        """Return the nodes that each step leads to over the documents shown, from all that the start may mean."""
        first = self.steps[0]
        starts = graph.described(first.start) | {first.start} if self.vague else {first.start}
        reached = [set().union(*(graph.following(first, shown, start) for start in sorted(starts)))]
        return reached + [graph.following(step, shown) for step in self.steps[1:]]

    def unique(self, graph: Merged, shown: Collection[str] | None = None) -> bool:
        """Tell whether each step leads to exactly the node that it should."""
        return self.answers(graph, shown) == [{step.end} for step in self.steps]


def spread(walk: Walk, graph: Merged) -> bool:
    """Tell whether a walk needs several documents: no single one of them holds all its steps, nor any a short cut."""
    ends = walk.nodes
    if len(walk.documents) < 2 or len(set(ends)) != len(ends) or graph.linked(ends[0], ends[-1]):
        return False
    return not any(all(graph.following(step, {name}) for step in walk.steps) for name in walk.documents)


def joined(walk: Walk) -> bool:
    """Tell whether a reader can see that consecutive steps meet: their documents name the node alike.

    Names that only a third document calls one would need that document too.
    """
    return all(
        names.doubtful(names.form(one.surface(end=True)), names.form(two.surface(end=False)))
        for one, two in pairwise(walk.steps)
    )


def candidate(pool: Pool, walk: Walk, template: str) -> Candidate | None:
    """Return the question of a walk; None when it is not spread, not unique, too long, or gives itself away."""
    graph = pool.merged
    assert graph is not None
    answer = re.sub(r"^(?:the|an?) ", "", walk.steps[-1].surface(end=True), flags=re.IGNORECASE)
    if all(step.link.rule for step in walk.steps) or not pool.fits(walk.documents):
        return None
    if len(answer.split()) > MAX_WORDS or not joined(walk) or not spread(walk, graph) or not walk.unique(graph):
        return None
    quotes = [pool.by_id[name].text[start:end] for name, start, end in walk.edges]
    texts = [pool.by_id[name].text for name in walk.documents]
    for step, quote in zip(walk.steps, quotes, strict=True):
        if any(wording.told_twice(step, quote, graph.names(step.start), text) for text in texts):
            return None
    named = walk.vague or wording.with_article(walk.steps[0].surface(end=False), quotes[0])
    question = wording.question(walk.steps, quotes, named)
    asked = _words(question)
    hidden = [name for node in walk.nodes[1:] for name in (*graph.names(node), node_name(node))]
    hidden += graph.names(walk.nodes[0]) if walk.vague else ()
    if any(_words(name) <= asked for name in hidden if _words(name)):
        return None
    return Candidate(
        task="doc_multi_hop",
        question_type=wording.paradigm(graph, walk.steps),
        template=template,
        question=question,
        answers=(answer,),
        evidence=tuple(Evidence(document=name, start=start, end=end) for name, start, end in walk.edges),
        reasoning_chain=tuple(_reason(pool.by_id[step.link.edge.document], step) for step in walk.steps),
        holds=partial(holds, walk, graph, _mentions(walk, graph)),
        n_hops=len(walk.steps),
        generator="walks@1",
        specifics=(walk.vague or walk.steps[0].surface(end=False),),
        checks=(("obfuscation", int(bool(walk.vague))),),
    )


def holds(walk: Walk, graph: Merged, mentions: Sequence[str], documents: Sequence[Document]) -> bool:
    """Tell whether the walk still has its one answer among documents shown.

    No extractor finds all that a text says, so a document beside the evidence must not even name a node of the path.
    """
    shown = {document.id for document in documents}
    home = set(walk.documents)
    if not home <= shown or not walk.unique(graph, shown):
        return False
    return not any(name in document.text for document in documents if document.id not in home for name in mentions)


def _mentions(walk: Walk, graph: Merged) -> list[str]:
    named = {name for node in walk.nodes[:-1] for name in (*graph.names(node), node_name(node))}
    return sorted(name for name in named if len(name) >= MIN_NAME and any(c.isalpha() for c in name))


def _words(text: str) -> set[str]:
    return set(names.form(text)) - names.ARTICLES


def _reason(document: Document, step: Step) -> str:
    edge = step.link.edge
    quote = whole_line(document, edge.start, edge.end) if step.link.rule else document.text[edge.start : edge.end]
    return f'{node_name(edge.source)} — {edge.relation} — {node_name(edge.target)}: "{" ".join(quote.split())}"'


def _turns(pool: Pool, name: str, turns: int) -> Iterator[tuple[str, int, Random]]:
    """Yield (start, number of hops, randomness): all lengths take turns, so that each difficulty gets its share."""
    graph = pool.merged
    if graph is None:
        return
    lengths = pool.max_hops - 1
    for turn in range(turns * lengths):
        for place, start in enumerate(pool.shuffled(graph.steps, "walks", name, pool.budget, turn)):
            yield start, 2 + (place + turn) % lengths, pool.rng("walks", name, pool.budget, turn, start)


def _allowed(graph: Merged, start: str, hops: int, random: Random) -> tuple[str, frozenset[str]]:
    """Return a relation that leaves the start, and those of its subgraph: that one and those relevant to it.

    Each hop adds its share of `relevant_relations`: among relations that meet one of the subgraph at a node, those most
    similar to the first.
    """
    first = random.choice(sorted({step.link.relation for step in graph.steps[start]}))
    found, share = {first}, -(-graph.config.relevant_relations // (hops - 1))
    for _ in range(hops - 1):
        meeting = {other for one in found for other in graph.relevant.get(one, ())} - found
        found |= set(graph.by_similarity(first, meeting, share)) if meeting else set()
    return first, frozenset(found)


def _vaguer(walk: Walk, graph: Merged, random: Random) -> Walk:
    """Return the walk with a vague start, for the configured share and where that leaves it unique."""
    text = wording.vague(walk.steps[0].surface(end=False))
    if random.random() >= graph.config.obfuscate_share or text is None:
        return walk
    made = Walk(walk.steps, text)
    return made if made.unique(graph) else walk


def _chosen(pool: Pool, walks: Iterator[Walk], template: str, random: Random) -> Candidate | None:
    """Return the question of the first walk that has one, with its start made vague where that can be."""
    graph = pool.merged
    assert graph is not None
    for walk in walks:
        for one in dict.fromkeys((_vaguer(walk, graph, random), walk)):
            made = candidate(pool, one, template)
            if made is not None:
                return made
    return None


def _patient(made: Iterator[Candidate | None]) -> Iterator[Candidate]:
    misses = 0
    for one in made:
        misses = misses + 1 if one is None else 0
        if one is not None:
            yield one
        if misses >= MAX_MISSES:
            return


def walk_random(pool: Pool) -> Iterator[Candidate]:
    """Random walks that visit no node twice, within the relations of one subgraph."""
    return _patient(_random(pool))


def _random(pool: Pool) -> Iterator[Candidate | None]:
    for start, hops, random in _turns(pool, "random", pool.merged.config.walks if pool.merged else 0):
        graph = pool.merged
        assert graph is not None
        walk = _one_walk(graph, start, hops, *_allowed(graph, start, hops, random), random)
        yield None if walk is None else _chosen(pool, iter([walk]), "walk_random@1", random)


def _one_walk(
    graph: Merged, start: str, hops: int, first: str, allowed: Collection[str], random: Random
) -> Walk | None:
    steps: list[Step] = []
    visited, node = {start}, start
    while len(steps) < hops:
        inside = allowed if steps else {first}
        going = [s for s in graph.steps.get(node, ()) if s.link.relation in inside and s.end not in visited]
        seen = {step.link.edge.document for step in steps}
        if len(steps) == hops - 1 and len(seen) == 1:
            # The last chance to leave the first document.
            going = [step for step in going if step.link.edge.document not in seen]
        if not going:
            return None
        steps.append(random.choice(going))
        node = steps[-1].end
        visited.add(node)
    return Walk(tuple(steps))


def walk_bfs(pool: Pool) -> Iterator[Candidate]:
    """Shortest paths of breadth-first searches, within the relations of one subgraph."""
    return _patient(_bfs(pool))


def _bfs(pool: Pool) -> Iterator[Candidate | None]:
    graph = pool.merged
    if graph is None:
        return
    for start, hops, random in _turns(pool, "bfs", 2):
        _, allowed = _allowed(graph, start, hops, random)
        parent: dict[str, str] = {}
        depth = {start: 0}
        for one, other in islice(_search(graph, start, hops, allowed), MAX_VISITED):
            parent[other], depth[other] = one, depth[one] + 1
        ends = sorted(node for node, level in depth.items() if level == hops)
        random.shuffle(ends)
        walks = (_back(graph, parent, start, end, allowed, random) for end in ends[:MAX_ENDS])
        yield _chosen(pool, walks, "walk_bfs@1", random)


def _search(graph: Merged, start: str, hops: int, allowed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the edges of a breadth-first tree over the steps of some relations."""
    import networkx as nx

    def neighbours(node: str) -> Iterator[str]:
        return iter(dict.fromkeys(s.end for s in graph.steps.get(node, ()) if s.link.relation in allowed))

    # Only its number of nodes is used: the steps are the edges.
    return nx.generic_bfs_edges(graph.passed, start, neighbours, hops)


def _back(
    graph: Merged, parent: Mapping[str, str], start: str, end: str, allowed: Collection[str], random: Random
) -> Walk:
    """Return the path of a search from its start to one of the nodes that it found."""
    steps: list[Step] = []
    while end != start:
        before = parent[end]
        steps.append(random.choice([s for s in graph.steps[before] if s.end == end and s.link.relation in allowed]))
        end = before
    return Walk(tuple(reversed(steps)))


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {"walk_bfs": walk_bfs, "walk_random": walk_random}
