"""doc_multi_hop, hypothetical paths: a border is gone or a fact is another one's, and the path is followed again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import facts as facts_of
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.facts import Border, Facts
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.multi_hop import label, parse_words, reason
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.vague import Stretch, countries, endings, fields_of, may_end, stretch


class Supposed(Facts):
    """Facts after a change: a border between two countries is gone, or a country's field is another one's."""

    def __init__(self, facts: Facts, gone: frozenset[str] = frozenset(), moved: tuple[str, str, str] | None = None):
        """Take facts; `gone` are the border's countries, `moved` is (field, its country, whose it becomes)."""
        super().__init__(facts.by_label, facts.by_entity, facts.borders)
        self.gone, self.moved = gone, moved

    def values(self, entity: str, label: str, shown: Collection[str] | None) -> set[str]:
        """Return the values of a field, of the other country where it was changed."""
        changed = self.moved is not None and (label, entity) == self.moved[:2]
        return super().values(self.moved[2] if changed and self.moved else entity, label, shown)

    def bordering(self, entity: str, shown: Collection[str] | None) -> list[Border]:
        """Return the borders that are left."""
        return [b for b in super().bordering(entity, shown) if {b.entity, b.neighbour} != self.gone]


@dataclass(frozen=True)
class Gone:
    """A field of the country with which `entity` has its longest border once that with `lost` is gone."""

    entity: str
    lost: str
    last: str

    @property
    def question(self) -> str:
        """The question's words."""
        return (
            f"Suppose {self.entity} and {self.lost} no longer shared a border. What is the {self.last} of the country "
            f"with which {self.entity} would then have its longest border?"
        )

    def answer(self, facts: Facts, shown: Collection[str] | None) -> str | None:
        """Return the one answer over the documents shown, over the whole side for None."""
        changed = Supposed(facts, gone=frozenset((self.entity, self.lost)))
        neighbour = longest(changed, self.entity, shown)
        values = changed.values(neighbour, self.last, shown) if neighbour else set()
        return values.pop() if len(values) == 1 else None


@dataclass(frozen=True)
class Moved:
    """A field of a neighbour of `start`, after `entity` was given the field of `other`."""

    field: str
    entity: str
    other: str
    start: str
    border: Stretch

    @property
    def question(self) -> str:
        """The question's words."""
        return (
            f"Suppose the {self.field} of {self.entity} were that of {self.other}. What would then be the {self.field} "
            f"of the country that has {self.border.words} with {self.start}?"
        )

    def answer(self, facts: Facts, shown: Collection[str] | None) -> str | None:
        """Return the one answer over the documents shown, over the whole side for None."""
        changed = Supposed(facts, moved=(self.field, self.entity, self.other))
        reached = {b.neighbour for b in changed.bordering(self.start, shown) if self.border.fits(b)}
        values = changed.values(reached.pop(), self.field, shown) if len(reached) == 1 else set()
        return values.pop() if len(values) == 1 else None


def longest(facts: Facts, entity: str, shown: Collection[str] | None) -> str | None:
    """Return the neighbour with the longest border, whoever states it; None for a tie or less than two."""
    lengths: dict[str, list[Decimal]] = {}
    for border in facts.bordering(entity, shown):
        lengths.setdefault(border.neighbour, []).append(border.length)
    ordered = sorted(lengths, key=lambda name: min(lengths[name]))
    if len(ordered) < 2 or min(lengths[ordered[-1]]) <= max(max(lengths[name]) for name in ordered[:-1]):
        return None
    return ordered[-1]


def _holds(asked: Gone | Moved, facts: Facts, answer: str, shown: Sequence[Document]) -> bool:
    return asked.answer(facts, facts_of.names(shown)) == answer


def _candidate(pool: Pool, asked: Gone | Moved, edges: Sequence[Edge], template: str) -> Candidate | None:
    facts = facts_of.of(pool)
    documents = list(dict.fromkeys(edge.document for edge in edges))
    if len(documents) < 2 or not pool.fits(documents):
        return None
    answer = asked.answer(facts, None)
    if answer is None or answer != label(edges[-1].target) or asked.answer(facts, documents) != answer:
        return None
    if facts.stated_again(edges) or parse_words(answer) <= parse_words(asked.question):
        return None
    return Candidate(
        task="doc_multi_hop",
        question_type="hypothetical",
        template=template,
        question=asked.question,
        answers=(answer,),
        evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
        reasoning_chain=tuple(reason(pool.by_id[e.document], e) for e in edges),
        holds=partial(_holds, asked, facts, answer),
        n_hops=2,
        generator="graph@1",
        specifics=(asked.entity, asked.lost if isinstance(asked, Gone) else asked.other),
    )


def hypothetical_border(pool: Pool) -> Iterator[Candidate]:
    """The longest border that is left; every second time the border that is gone was not the longest."""
    facts, turned = facts_of.of(pool), True
    for entity, randomness in countries(pool, "hypothetical_border"):
        edges = {label(e.target): e for e in pool.graph.out(f"entity:{entity}", "borders")}
        first = longest(facts, entity, None)
        others = sorted(edges.keys() - {first})
        if first not in edges or len(others) < 2:
            continue
        lost = first if turned else randomness.choice(others)
        left = longest(Supposed(facts, gone=frozenset((entity, lost))), entity, None)
        for last in endings(pool, left, randomness, ()) if left in edges else ():
            assert left is not None
            asked = Gone(entity, lost, last.relation)
            made = _candidate(pool, asked, [edges[lost], edges[left], last], "hypothetical_border@1")
            if made is not None:
                turned = not turned
                yield made
                break


def hypothetical_field(pool: Pool) -> Iterator[Candidate]:
    """A neighbour's field after one country was given another's; every second time it is not the neighbour's."""
    facts, turned = facts_of.of(pool), True
    everyone = sorted({e.source.removeprefix("entity:") for e in pool.graph.edges if e.source.startswith("entity:")})
    for start, randomness in countries(pool, "hypothetical_field"):
        edges = pool.graph.out(f"entity:{start}", "borders")
        randomness.shuffle(edges)
        for edge in edges[:1] if len(edges) > 1 else ():
            border = stretch(pool, start, edge, False, randomness)
            end, other = label(edge.target), randomness.choice(everyone)
            entity = end if turned else label(edges[1].target)
            found = {e.relation: e for e in fields_of(pool, other if turned else end) if may_end(e)}
            shared = sorted(
                field for field in found if all((n, field) in facts.by_entity for n in (end, other, entity))
            )
            if border is None or not shared or other in (end, entity, start):
                continue
            field = randomness.choice(shared)
            # What stands there and what is supposed must differ, or the change could be ignored.
            if facts.values(entity, field, None) & facts.values(other, field, None):
                continue
            asked = Moved(field, entity, other, start, border)
            made = _candidate(pool, asked, [edge, found[field]], "hypothetical_field@1")
            if made is not None:
                turned = not turned
                yield made


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "hypothetical_border": hypothetical_border,
    "hypothetical_field": hypothetical_field,
}
