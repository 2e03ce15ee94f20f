"""doc_multi_hop, causal: which function another one's failure reaches along calls, or can be the cause of a failure.

A function that raises an error whenever it is called can make every function fail that calls it, directly or through
others. Paths run over the graph's edges, every name on them has one definition on the side, and the answer is the only
one in its file over all calls of the side that a reader could see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import calls as calls_of
from qwenlong.synthesis.calls import Sections
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.multi_hop import label, reason
from qwenlong.synthesis.pool import Pool

#: Longest chain of calls.
MAX_CALLS = 4


@dataclass(frozen=True)
class Failing:
    """Which function of a file fails with `cause`; with `through`, by way of it; with `cut`, after a call is gone."""

    cause: str
    path: str
    through: str = ""
    cut: tuple[str, str] | None = None

    @property
    def question(self) -> str:
        """The question's words."""
        which = f"which function defined in {self.path} could"
        if self.cut:
            gone = f"Suppose {self.cut[0]} no longer called {self.cut[1]}."
            return f"{gone} If {self.cause} then always raised an error when called, {which} still fail because of it?"
        if self.through:
            return f"If {self.cause} always raised an error when called, {which} fail through {self.through}?"
        return f"If {self.cause} always raised an error when called, {which} fail because of it?"

    def answers(self, known: Sections, shown: Collection[str] | None, *less: tuple[str, str]) -> set[str]:
        """Return every function of the file that fails, over the documents shown (None: all) `less` some calls."""
        calls = known.over(shown, (*less, self.cut) if self.cut else less)
        if self.through and self.through not in calls.reaching(self.cause):
            return set()
        return calls.within(calls.reaching(self.through or self.cause) | {self.cause}, self.path)


@dataclass(frozen=True)
class Source:
    """Which function of a file can make another one fail."""

    failing: str
    path: str

    @property
    def question(self) -> str:
        """The question's words."""
        return (
            f"{self.failing} fails because a function that it calls, directly or through others, raises an error. "
            f"Which function defined in {self.path} can be the cause?"
        )

    def answers(self, known: Sections, shown: Collection[str] | None, *less: tuple[str, str]) -> set[str]:
        """Return every function of the file that it reaches, over the documents shown (None: all) `less` some calls."""
        calls = known.over(shown, less)
        return calls.within(calls.reached(self.failing) | {self.failing}, self.path)


def _holds(asked: Failing | Source, known: Sections, answer: str, shown: Sequence[Document]) -> bool:
    return asked.answers(known, {document.id for document in shown}) == {answer}


def candidate(
    pool: Pool, asked: Failing | Source, answer: str, edges: Sequence[Edge], template: str, question_type: str
) -> Candidate | None:
    """Return the question with its evidence; None where it has another answer too, or is too long."""
    known = calls_of.sections(pool)
    documents = list(dict.fromkeys(edge.document for edge in edges))
    if len(documents) < 2 or not pool.fits(documents):
        return None
    if asked.answers(known, None) != {answer} or asked.answers(known, documents) != {answer}:
        return None
    pairs = [(label(edge.source), label(edge.target)) for edge in edges if edge.relation == "calls"]
    # Every call of the chain is needed: no other way leads past it over the evidence.
    needed = [pair for pair in pairs if pair != getattr(asked, "cut", None)]
    if any(asked.answers(known, documents, pair) == {answer} for pair in needed):
        return None
    return Candidate(
        task="doc_multi_hop",
        question_type=question_type,
        template=template,
        question=asked.question,
        answers=(answer,),
        evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
        reasoning_chain=tuple(reason(pool.by_id[e.document], e) for e in edges),
        holds=partial(_holds, asked, known, answer),
        n_hops=sum(edge.relation == "calls" for edge in edges),
        generator="graph@1",
        specifics=tuple(dict.fromkeys(label(edge.source) for edge in edges if edge.relation == "calls")),
    )


def homes(pool: Pool) -> dict[str, Edge]:
    """Return where each function is defined that has one definition on the side."""
    known = calls_of.sections(pool).whole.homes
    found: dict[str, list[Edge]] = {}
    for edge in pool.graph.edges:
        if edge.relation == "defined in":
            found.setdefault(label(edge.source), []).append(edge)
    return {name: edges[0] for name, edges in found.items() if len(edges) == 1 and len(known.get(name, ())) == 1}


def chains(pool: Pool) -> list[tuple[Edge, ...]]:
    """Return chains of two to `max_hops` calls, outermost caller first: for each pair of ends the shortest ones."""

    def make() -> list[tuple[Edge, ...]]:
        defined = homes(pool)
        calls = [edge for edge in pool.graph.edges if edge.relation == "calls"]
        times = Counter((edge.source, edge.target) for edge in calls)
        steps: dict[str, list[Edge]] = {}
        for edge in calls:
            # Of a call that stands there twice, neither place would be needed as evidence.
            if {label(edge.source), label(edge.target)} <= defined.keys() and times[edge.source, edge.target] == 1:
                steps.setdefault(edge.source, []).append(edge)
        found: list[tuple[Edge, ...]] = []
        for start in sorted(steps):
            seen = {start}
            paths: list[tuple[Edge, ...]] = [(edge,) for edge in steps[start]]
            for _ in range(min(MAX_CALLS, pool.max_hops)):
                paths = [path for path in paths if path[-1].target not in seen]
                found += [path for path in paths if len(path) > 1]
                seen |= {path[-1].target for path in paths}
                paths = [(*path, edge) for path in paths for edge in steps.get(path[-1].target, ())]
        return found

    return pool.memo("chains", pool.max_hops, make=make)


def _chains(pool: Pool, name: str) -> Iterator[tuple[tuple[Edge, ...], dict[str, Edge]]]:
    defined = pool.memo("homes", make=lambda: homes(pool))
    for chain in pool.shuffled(chains(pool), "causal", name, pool.budget):
        yield chain, defined


def causal_through(pool: Pool) -> Iterator[Candidate]:
    """Which function of a file fails by way of another one that calls the cause."""
    for chain, defined in _chains(pool, "through"):
        first, cause = label(chain[0].source), label(chain[-1].target)
        place, middle = defined[first], label(chain[0].target)
        asked = Failing(cause, label(place.target), middle)
        made = candidate(pool, asked, first, [place, *chain], "causal_through@1", "causal")
        if made is not None:
            yield made


def causal_effect(pool: Pool) -> Iterator[Candidate]:
    """Which function of a file fails with another one that it does not call itself."""
    for chain, defined in _chains(pool, "effect"):
        first, cause = label(chain[0].source), label(chain[-1].target)
        asked = Failing(cause, label(defined[first].target))
        made = candidate(pool, asked, first, [defined[first], *chain], "causal_effect@1", "causal")
        if made is not None:
            yield made


def causal_source(pool: Pool) -> Iterator[Candidate]:
    """Which function of a file can be why another one fails that does not call it itself."""
    for chain, defined in _chains(pool, "source"):
        failing, cause = label(chain[0].source), label(chain[-1].target)
        asked = Source(failing, label(defined[cause].target))
        made = candidate(pool, asked, cause, [*chain, defined[cause]], "causal_source@1", "causal")
        if made is not None:
            yield made


def hypothetical_call(pool: Pool) -> Iterator[Candidate]:
    """A call is gone: which function of a file still fails. Before that, two of them did."""
    known = calls_of.sections(pool)
    for chain, defined in _chains(pool, "cut"):
        first, cause = label(chain[0].source), label(chain[-1].target)
        path = label(defined[first].target)
        before = Failing(cause, path).answers(known, None)
        if len(before) != 2:
            continue
        for other in before - {first}:
            for call in pool.graph.out(f"function:{other}", "calls"):
                cut = (other, label(call.target))
                asked = Failing(cause, path, cut=cut)
                edges = [call, defined[first], *chain]
                made = candidate(pool, asked, first, edges, "hypothetical_call@1", "hypothetical")
                if made is not None and Failing(cause, path).answers(known, made.documents) == before:
                    yield made


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "causal_effect": causal_effect,
    "causal_source": causal_source,
    "causal_through": causal_through,
    "hypothetical_call": hypothetical_call,
}
