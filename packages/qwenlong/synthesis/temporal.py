"""doc_multi_hop, temporal: the order of several dates and the years between two, each date in another document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import facts as facts_of
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.facts import Facts
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.multi_hop import label, reason
from qwenlong.synthesis.obfuscate import DATED, Described, year_of
from qwenlong.synthesis.pool import Pool, draws, enumeration
from qwenlong.synthesis.vague import precisely

#: Fields whose dates lie decades apart: between two elections there are a year or two, which can be guessed.
SPREAD = tuple(relation for relation in DATED if "election" not in relation)


def years(facts: Facts, relation: str, members: Sequence[str], shown: Collection[str] | None) -> list[int] | None:
    """Return the members' years in a field; None when one is missing, not one year alone, or two are equal."""
    found = []
    for member in members:
        read = {year_of(value) for value in facts.values(member, relation, shown)}
        if len(read) != 1:
            return None
        found.append(read.pop())
    known = [year for year in found if year is not None]
    return known if len(set(known)) == len(members) else None


@dataclass(frozen=True)
class Dates:
    """Dates of several countries in a field; `form` is what is asked of them."""

    relation: str
    members: tuple[str, ...]
    form: str
    described: tuple[Described | None, ...] = ()

    @property
    def question(self) -> str:
        """The question's words."""
        if self.form in ("earliest", "latest"):
            return f"Which has the {self.form} {self.relation}: {enumeration(self.members, 'or')}?"
        if self.form == "order":
            named = enumeration(self.members, "and")
            return f"In which order come {named} by their {self.relation}, the earliest first?"
        one, two = (
            f"the country {found.words}" if found else name
            for name, found in zip(self.members, self.described or (None, None), strict=True)
        )
        return f"By how many calendar years is the {self.relation} of {one} earlier than that of {two}?"

    def answer(self, facts: Facts, shown: Collection[str] | None) -> str | None:
        """Return the answer over the documents shown, over the whole side for None; None when there is not just one."""
        for name, described in zip(self.members, self.described, strict=False):
            if described is not None and described.referents(facts, shown) != {name}:
                return None
        found = years(facts, self.relation, self.members, shown)
        if found is None:
            return None
        ordered = sorted(self.members, key=lambda member: found[self.members.index(member)])
        if self.form == "order":
            return ", ".join(ordered)
        if self.form in ("earliest", "latest"):
            return ordered[0] if self.form == "earliest" else ordered[-1]
        return str(found[1] - found[0]) if found[1] > found[0] else None


def _holds(asked: Dates, facts: Facts, answer: str, shown: Sequence[Document]) -> bool:
    return asked.answer(facts, facts_of.names(shown)) == answer


def _dated(pool: Pool, relations: Sequence[str]) -> dict[str, list[Edge]]:
    """Return the edges of each of some fields of dates, one a country, in documents that fit the budget."""
    found: dict[str, dict[str, Edge]] = {}
    for edge in pool.graph.edges:
        dated = edge.relation in relations and edge.source.startswith("entity:") and pool.fits([edge.document])
        if dated and year_of(label(edge.target)) is not None:
            found.setdefault(edge.relation, {}).setdefault(edge.source, edge)
    return {relation: list(edges.values()) for relation, edges in sorted(found.items()) if len(edges) > 1}


def _candidate(pool: Pool, asked: Dates, edges: Sequence[Edge], template: str) -> Candidate | None:
    facts = facts_of.of(pool)
    documents = list(dict.fromkeys(edge.document for edge in edges))
    if len(documents) < 2 or not pool.fits(documents):
        return None
    answer = asked.answer(facts, documents)
    if answer is None or asked.answer(facts, None) != answer:
        return None
    steps = [reason(pool.by_id[edge.document], edge) for edge in edges]
    if asked.form in ("order", "years"):
        steps.append(f"{'In order' if asked.form == 'order' else 'Years between'}: {answer}.")
    return Candidate(
        task="doc_multi_hop",
        question_type="temporal",
        template=template,
        question=asked.question,
        answers=(answer,),
        evidence=tuple(Evidence(document=e.document, start=e.start, end=e.end) for e in edges),
        reasoning_chain=tuple(steps),
        holds=partial(_holds, asked, facts, answer),
        n_hops=len(edges),
        generator="graph@1",
        specifics=asked.members,
    )


def _several(pool: Pool, name: str, forms: Sequence[str], sizes: Sequence[int]) -> Iterator[Candidate]:
    dates = _dated(pool, SPREAD if "years" in forms else DATED)
    random = pool.rng("temporal", name, pool.budget)
    for _ in draws() if dates else ():
        relation, form, size = random.choice(sorted(dates)), random.choice(forms), random.choice(sizes)
        if len(dates[relation]) < size:
            continue
        edges = random.sample(dates[relation], size)
        members = tuple(label(edge.source) for edge in edges)
        # A comma inside a name would make the order unreadable.
        if form == "order" and any("," in member or " and " in member for member in members):
            continue
        made = _candidate(pool, Dates(relation, members, form), edges, f"{name}@1")
        if made is not None:
            yield made


def temporal_extreme(pool: Pool) -> Iterator[Candidate]:
    """Which of three to five countries has the earliest or latest date in a field."""
    yield from _several(pool, "temporal_extreme", ("earliest", "latest"), (3, 4, 5))


def temporal_order(pool: Pool) -> Iterator[Candidate]:
    """Three or four countries in the order of their dates in a field."""
    yield from _several(pool, "temporal_order", ("order",), (3, 4))


def temporal_years(pool: Pool) -> Iterator[Candidate]:
    """The years between two countries' dates in a field."""
    yield from _several(pool, "temporal_years", ("years",), (2,))


def temporal_years_path(pool: Pool) -> Iterator[Candidate]:
    """The years between two dates, one of the countries (or with `max_hops` from 4 both) given by another field."""
    dates = _dated(pool, SPREAD)
    random = pool.rng("temporal", "temporal_years_path", pool.budget)
    for _ in draws() if dates and pool.max_hops >= 3 else ():
        edges = random.sample(dates[random.choice(sorted(dates))], 2)
        members = tuple(label(edge.source) for edge in edges)
        vague = {random.randrange(2)} if pool.max_hops < 4 else {0, 1}
        starts = [precisely(pool, member, random) if n in vague else None for n, member in enumerate(members)]
        if any(starts[n] is None or starts[n].clues[0][0] == edges[0].relation for n in vague):  # type: ignore[union-attr]
            continue
        ordered = [
            e for start, edge in zip(starts, edges, strict=True) for e in (*(start.edges if start else ()), edge)
        ]
        asked = Dates(edges[0].relation, members, "years", tuple(starts))
        made = _candidate(pool, asked, ordered, "temporal_years_path@1")
        if made is not None:
            yield made


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "temporal_extreme": temporal_extreme,
    "temporal_order": temporal_order,
    "temporal_years": temporal_years,
    "temporal_years_path": temporal_years_path,
}
