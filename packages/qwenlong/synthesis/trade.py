"""doc_multi_hop, causal: which country loses most when a partner no longer trades, by their lists of partners."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from qwenlong.core.records import Document, Evidence
from qwenlong.synthesis import facts as facts_of
from qwenlong.synthesis import parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.facts import Facts
from qwenlong.synthesis.obfuscate import Described
from qwenlong.synthesis.pool import Pool, draws, enumeration, evidence
from qwenlong.synthesis.vague import precisely

#: What a partner no longer does, what its partners lose a share of, and the field that says how much.
ENDS = {
    "Exports - partners": ("bought anything abroad", "exports"),
    "Imports - partners": ("sold anything abroad", "imports"),
}
_SHARE = re.compile(r"(?P<partner>[^\d,;%]+?) (?P<share>\d+(?:\.\d+)?)%")


def shares(value: str) -> list[tuple[str, Decimal]]:
    """Return (partner, per cent) of a list like "France 47%, USA 34%"."""
    parts = (_SHARE.fullmatch(part.strip()) for part in re.split("[,;]", value))
    return [(match["partner"], Decimal(match["share"])) for match in parts if match]


@dataclass(frozen=True)
class Lost:
    """Which of some countries loses the largest share; the partner by name or description."""

    field: str
    partner: str
    described: Described | None
    members: tuple[str, ...]

    @property
    def question(self) -> str:
        """The question's words."""
        done, lost = ENDS[self.field]
        who = f"the country {self.described.words}" if self.described else self.partner
        more = "larger" if len(self.members) == 2 else "largest"
        named = enumeration(self.members, "or")
        return f"If {who} no longer {done}, which would lose the {more} share of its {lost}: {named}?"

    def answer(self, facts: Facts, shown: Collection[str] | None) -> str | None:
        """Return the one that loses most; None when a share is missing or stands there twice, or the highest tie."""
        if self.described and self.described.referents(facts, shown) != {self.partner}:
            return None
        found: dict[str, Decimal] = {}
        for member in self.members:
            values = facts.values(member, self.field, shown)
            own = {share for value in values for partner, share in shares(value) if partner == self.partner}
            if len(own) != 1:
                return None
            found[member] = own.pop()
        ordered = sorted(found, key=lambda member: found[member])
        return None if found[ordered[-1]] == found[ordered[-2]] else ordered[-1]


def _holds(asked: Lost, facts: Facts, answer: str, shown: Sequence[Document]) -> bool:
    return asked.answer(facts, facts_of.names(shown)) == answer


def _lines(pool: Pool, field: str) -> dict[str, list[tuple[parse.Field, Decimal]]]:
    """Return the countries that list a partner with a share, by partner."""

    def make() -> dict[str, list[tuple[parse.Field, Decimal]]]:
        found: dict[str, list[tuple[parse.Field, Decimal]]] = {}
        for document in pool.documents:
            for item in parse.fields(document):
                if item.label == field and item.year is None:
                    for partner, share in shares(parse.plain_value(item.value)):
                        found.setdefault(partner, []).append((item, share))
        return {partner: found[partner] for partner in sorted(found) if len(found[partner]) > 1}

    return pool.memo("partners", field, make=make)


def _lost(pool: Pool, described: bool) -> Iterator[Candidate]:
    facts = facts_of.of(pool)
    name = "causal_partner_path" if described else "causal_partner"
    random = pool.rng("trade", name, pool.budget)
    for _ in draws():
        field = random.choice(sorted(ENDS))
        lines = _lines(pool, field)
        if not lines:
            continue
        partner = random.choice(sorted(lines))
        start = precisely(pool, partner, random) if described else None
        picked = random.sample(lines[partner], min(len(lines[partner]), random.choice((2, 3))))
        if described and start is None:
            continue
        spans = [evidence(item) for item, _ in picked]
        if start:
            spans.insert(
                0, Evidence(document=start.edges[0].document, start=start.edges[0].start, end=start.edges[0].end)
            )
        documents = [span.document for span in spans]
        asked = Lost(field, partner, start, tuple(item.entity for item, _ in picked))
        if len(set(asked.members) | {partner}) <= len(picked) or not pool.fits(documents):
            continue
        answer = asked.answer(facts, documents)
        if answer is None or asked.answer(facts, None) != answer:
            continue
        steps = [f"{item.entity}: {partner} has {share:,f}% of its {ENDS[field][1]}." for item, share in picked]
        if start:
            steps.insert(
                0, f"The {start.edges[0].relation} of {partner} is {start.edges[0].target.removeprefix('value:')}."
            )
        yield Candidate(
            task="doc_multi_hop",
            question_type="causal",
            template=f"{name}@1",
            question=asked.question,
            answers=(answer,),
            evidence=tuple(spans),
            reasoning_chain=tuple(steps),
            holds=partial(_holds, asked, facts, answer),
            n_hops=len(spans),
            generator="rules@1",
            specifics=(partner, *asked.members),
        )


def causal_partner(pool: Pool) -> Iterator[Candidate]:
    """Who loses the largest share of its trade when a named partner stops."""
    yield from _lost(pool, False)


def causal_partner_path(pool: Pool) -> Iterator[Candidate]:
    """The same, the partner given by one of its own fields."""
    if pool.max_hops >= 3:
        yield from _lost(pool, True)


TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = {
    "causal_partner": causal_partner,
    "causal_partner_path": causal_partner_path,
}
