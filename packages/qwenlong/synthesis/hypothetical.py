"""doc_multi_hop, hypothetical: which of two is higher after one value is changed; they stand in two documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool, draws, evidence

#: What a value is multiplied by, in words.
FACTORS = {"twice": Decimal(2), "three times": Decimal(3), "half": Decimal("0.5")}


@dataclass(frozen=True)
class Change:
    """The question: two entities, the field, and what the first one's value is multiplied by."""

    field: str
    item: str
    year: str
    unit: str
    one: str
    two: str
    factor: str

    def answer(self, documents: Sequence[Document]) -> str | None:
        """Return whichever is higher; None when a value is missing, stands there twice, or both tie."""
        values: dict[str, list[parse.Cell]] = {self.one: [], self.two: []}
        for document in documents:
            for cell in parse.cells(document):
                if cell.entity in values and (cell.field, cell.item, cell.year) == (self.field, self.item, self.year):
                    values[cell.entity].append(cell)
        if any(len(found) != 1 or found[0].unit != self.unit for found in values.values()):
            return None
        first, second = values[self.one][0].value * FACTORS[self.factor], values[self.two][0].value
        return None if first == second else self.one if first > second else self.two


def changed_number(pool: Pool) -> Iterator[Candidate]:
    """Yield questions over pairs of entities; half of them where the change turns the order round."""
    groups: dict[tuple[str, str, str, str], dict[str, list[parse.Cell]]] = defaultdict(lambda: defaultdict(list))
    for document in pool.documents:
        if document.n_tokens <= pool.budget:
            for cell in parse.cells(document):
                groups[cell.field, cell.item, cell.year, cell.unit][cell.entity].append(cell)
    kept = []
    for key in sorted(groups):
        cells = [found[0] for _, found in sorted(groups[key].items()) if len(found) == 1 and found[0].value > 0]
        if len(cells) >= 2:
            kept.append(cells)
    random = pool.rng("multi_hop", "changed_number", pool.budget)
    turned = True
    for _ in draws() if kept else ():
        one, two = random.sample(kept[random.randrange(len(kept))], 2)
        factor = random.choice(sorted(FACTORS))
        if one.document == two.document or not pool.fits([one.document, two.document]):
            continue
        asked = Change(one.field, one.item, one.year, one.unit, one.entity, two.entity, factor)
        answer = asked.answer([pool.by_id[one.document], pool.by_id[two.document]])
        # An answer that ignores the change must not be right more often than not.
        if answer is None or (answer != (one if one.value > two.value else two).entity) != turned:
            continue
        turned = not turned
        named = f"{one.field} - {one.item}" if one.item else one.field
        named = f"{named} in {one.year}" if one.year else named
        yield Candidate(
            task="doc_multi_hop",
            question_type="hypothetical",
            template="changed_number@1",
            question=(
                f"If the {named} of {one.entity} were {factor} what it is, which would have the higher one: "
                f"{one.entity} or {two.entity}?"
            ),
            answers=(answer,),
            evidence=(evidence(one), evidence(two)),
            reasoning_chain=(
                f"{one.entity}: {one.text}, {factor} that is {one.value * FACTORS[factor]:,f}",
                f"{two.entity}: {two.text}",
            ),
            holds=partial(_holds, asked, answer),
            n_hops=2,
            generator="rules@1",
            specifics=(one.entity, two.entity),
        )


def _holds(asked: Change, answer: str, documents: Sequence[Document]) -> bool:
    return asked.answer(documents) == answer
