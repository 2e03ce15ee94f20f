"""doc_multi_hop, obfuscated: paths over countries whose nodes are described vaguely, and still have one referent."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import facts as facts_of
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.facts import Border, Facts
from qwenlong.synthesis.graph import NAMING_FIELDS, Edge
from qwenlong.synthesis.multi_hop import label, parse_words, reason
from qwenlong.synthesis.obfuscate import Described, Exactly, describe, ranges, span
from qwenlong.synthesis.pool import Pool

#: Times that each country may start a path.
PASSES = 40
#: Longest answer, in characters.
MAX_ANSWER = 54


@dataclass(frozen=True)
class Stretch:
    """A border's length: exact where both ends are equal, else a range."""

    low: Decimal
    high: Decimal

    @property
    def words(self) -> str:
        """The length, for "the country that has …"."""
        return f"a {self.low:,f} km border" if self.low == self.high else f"a border of between {self.text}"

    @property
    def text(self) -> str:
        """The range with its unit."""
        return span(self.low, self.high, "km")

    def fits(self, border: Border) -> bool:
        """Tell whether a border is as long, ends of the range included."""
        return self.low <= border.length <= self.high


@dataclass(frozen=True)
class Asked:
    """The path: a country by name or description, borders from there, a field of the last country."""

    start: str | Described
    borders: tuple[Stretch, ...]
    last: str

    @property
    def question(self) -> str:
        """The question's words."""
        words = self.start if isinstance(self.start, str) else f"the country {self.start.words}"
        for stretch in self.borders:
            words = f"the country that has {stretch.words} with {words}"
        return f"What is the {self.last} of {words}?"

    def answer(self, facts: Facts, shown: Collection[str] | None) -> str | None:
        """Return the answer over the documents shown, over the side for None; None when a step is not unique."""
        reached = {self.start} if isinstance(self.start, str) else self.start.referents(facts, shown)
        for stretch in self.borders:
            if len(reached) != 1:
                return None
            reached = {b.neighbour for b in facts.bordering(reached.pop(), shown) if stretch.fits(b)}
        values = facts.values(reached.pop(), self.last, shown) if len(reached) == 1 else set()
        return values.pop() if len(values) == 1 else None


def holds(asked: Asked, facts: Facts, answer: str, shown: Sequence[Document]) -> bool:
    """Tell whether the answer is still the one over the documents shown."""
    return asked.answer(facts, facts_of.names(shown)) == answer


def candidate(pool: Pool, asked: Asked, edges: Sequence[Edge], template: str, vague: int) -> Candidate | None:
    """Return the question of a path with its evidence; None where it has no one answer over side and evidence."""
    documents = list(dict.fromkeys(edge.document for edge in edges))
    if len(documents) < 2 or not pool.fits(documents):
        return None
    facts = facts_of.of(pool)
    answer = asked.answer(facts, None)
    if answer is None or answer != asked.answer(facts, documents) or answer != label(edges[-1].target):
        return None
    if facts.stated_again(edges) or parse_words(answer) <= parse_words(asked.question):
        return None
    start = asked.start
    named = (start,) if isinstance(start, str) else tuple(clue.words for _, clue in start.clues)
    return Candidate(
        task="doc_multi_hop",
        question_type="multi-fact",
        template=template,
        question=asked.question,
        answers=(answer,),
        evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
        reasoning_chain=tuple(reason(pool.by_id[e.document], e) for e in edges),
        holds=partial(holds, asked, facts, answer),
        n_hops=len(asked.borders) + 1 + (not isinstance(start, str)),
        generator="graph@1",
        specifics=(*named, *(stretch.text for stretch in asked.borders)),
        checks=(("obfuscation", pool.obfuscation), ("vague_nodes", vague)),
    )


def fields_of(pool: Pool, entity: str) -> list[Edge]:
    """Return an entity's edges to values in documents that fit the budget."""

    def make() -> tuple[Edge, ...]:
        found = [edge for edge in pool.graph.out(f"entity:{entity}") if edge.target.startswith("value:")]
        return tuple(edge for edge in found if pool.fits([edge.document]))

    return list(pool.memo("fields of", pool.budget, entity, make=make))


def countries(pool: Pool, name: str) -> Iterator[tuple[str, random.Random]]:
    """Yield countries of the graph in random order, each many times, with a generator of random numbers."""
    made = sorted({e.source.removeprefix("entity:") for e in pool.graph.edges if e.source.startswith("entity:")})
    for turn in range(PASSES):
        for entity in pool.shuffled(made, "vague", name, pool.budget, turn):
            yield entity, pool.rng("vague", name, pool.budget, turn, entity)


def precisely(pool: Pool, entity: str, randomness: random.Random) -> Described | None:
    """Return the country by the exact value of one of its naming fields that no other has; None when there is none."""
    facts = facts_of.of(pool)
    edges = [edge for edge in fields_of(pool, entity) if edge.relation in NAMING_FIELDS]
    randomness.shuffle(edges)
    for edge in edges:
        found = Described(((edge.relation, Exactly(label(edge.target))),), (edge,))
        if found.referents(facts, None) == {entity} and entity.casefold() not in label(edge.target).casefold():
            return found
    return None


def stretch(pool: Pool, entity: str, edge: Edge, vague: bool, randomness: random.Random) -> Stretch | None:
    """Return the length of a border, as a range or exactly, that only this border of the entity has."""
    facts = facts_of.of(pool)
    length = Decimal(edge.qualifier.removesuffix(" km").replace(",", ""))
    choices = [Stretch(low, high) for low, high in ranges(length)] if vague else [Stretch(length, length)]
    randomness.shuffle(choices)
    for choice in choices:
        fitting = {b.neighbour for b in facts.bordering(entity, None) if choice.fits(b)}
        if fitting == {label(edge.target)}:
            return choice
    return None


def crossing(
    pool: Pool, entity: str, vague: bool, randomness: random.Random, avoid: Collection[str]
) -> tuple[Stretch, Edge] | None:
    """Return a border of an entity that its length tells from the others; None when there is none."""
    edges = [e for e in pool.graph.out(f"entity:{entity}", "borders") if label(e.target) not in avoid]
    randomness.shuffle(edges)
    for edge in edges:
        found = stretch(pool, entity, edge, vague, randomness)
        if found is not None:
            return found, edge
    return None


def returning(pool: Pool, edge: Edge) -> Edge:
    """Return a border as the neighbour states it, where it does: a path that goes on from there shows that document."""
    back = [e for e in pool.graph.out(edge.target, "borders") if e.target == edge.source]
    return back[0] if back else edge


def endings(pool: Pool, entity: str, randomness: random.Random, avoid: Collection[str]) -> list[Edge]:
    """Return facts of an entity that may end a path, in random order; none that names it."""
    edges = [edge for edge in fields_of(pool, entity) if edge.relation not in avoid and may_end(edge)]
    return randomness.sample(edges, min(6, len(edges)))


def may_end(edge: Edge) -> bool:
    """Tell whether a fact's value is short and does not hold the country's own name."""
    value = label(edge.target)
    return len(value) <= MAX_ANSWER and label(edge.source).casefold() not in value.casefold()


def vague_country_field(pool: Pool) -> Iterator[Candidate]:
    """A field of a country that vague clues describe, in another document."""
    if not pool.obfuscation:
        return
    for entity, randomness in countries(pool, "country_field"):
        start = describe(pool, entity, fields_of(pool, entity), randomness)
        for last in endings(pool, entity, randomness, [name for name, _ in start.clues]) if start else ():
            assert start is not None
            asked = Asked(start, (), last.relation)
            made = candidate(pool, asked, [*start.edges, last], "vague_country_field@1", 1)
            if made is not None:
                yield made
                break


def vague_border_field(pool: Pool) -> Iterator[Candidate]:
    """A field of the neighbour with which a named country has a border of about some length."""
    if not pool.obfuscation:
        return
    for entity, randomness in countries(pool, "border_field"):
        step = crossing(pool, entity, True, randomness, ())
        for last in endings(pool, label(step[1].target), randomness, ()) if step else ():
            assert step is not None
            asked = Asked(entity, (step[0],), last.relation)
            made = candidate(pool, asked, [step[1], last], "vague_border_field@1", 1)
            if made is not None:
                yield made
                break


def vague_path(pool: Pool) -> Iterator[Candidate]:
    """Three or four hops: a described country, one border or two, a field of the last country.

    With obfuscation 1 one random node of the path is vague and the others are exact, with 2 all are vague.
    """
    if not pool.obfuscation or pool.max_hops < 3:
        return
    for turn, (entity, randomness) in enumerate(countries(pool, "path")):
        borders = 1 if pool.max_hops < 4 or turn % 2 else 2
        chosen = randomness.randrange(borders + 1)
        vague = [pool.obfuscation == 2 or node == chosen for node in range(borders + 1)]
        start = (
            describe(pool, entity, fields_of(pool, entity), randomness)
            if vague[0]
            else precisely(pool, entity, randomness)
        )
        if start is None:
            continue
        visited, edges, stretches = [entity], list(start.edges), []
        for node in range(borders):
            step = crossing(pool, visited[-1], vague[node + 1], randomness, visited)
            if step is None:
                break
            stretches.append(step[0])
            if node:
                edges[-1] = returning(pool, edges[-1])
            edges.append(step[1])
            visited.append(label(step[1].target))
        if len(stretches) < borders:
            continue
        for last in endings(pool, visited[-1], randomness, ()):
            asked = Asked(start, tuple(stretches), last.relation)
            made = candidate(pool, asked, [*edges, last], "vague_path@1", sum(vague))
            if made is not None:
                yield made
                break


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "vague_border_field": vague_border_field,
    "vague_country_field": vague_country_field,
    "vague_path": vague_path,
}
