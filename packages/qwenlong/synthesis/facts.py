"""Every undated field line and border of a side's countries, looked up by label: what vague questions are held against.

The graph holds short values only. A longer one may still fit a vague description, so uniqueness is checked over all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.graph import BORDERS, Edge
from qwenlong.synthesis.pool import Pool

#: One member of a list of borders, whatever else stands in its part.
_MEMBER = re.compile(r"(?P<name>\D+?) (?P<length>\d[\d,]*(?:\.\d+)?) ?km\b")


@dataclass(frozen=True)
class Fact:
    """One field line: the value without remarks in brackets."""

    entity: str
    label: str
    value: str
    document: str


@dataclass(frozen=True)
class Border:
    """A border as one country's document states it, seen from either end."""

    entity: str
    neighbour: str
    length: Decimal
    document: str


@dataclass
class Facts:
    """Facts by label and by (entity, label); borders by entity, also those that only the neighbour states."""

    by_label: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    by_entity: dict[tuple[str, str], list[Fact]] = field(default_factory=lambda: defaultdict(list))
    borders: dict[str, list[Border]] = field(default_factory=lambda: defaultdict(list))

    def values(self, entity: str, label: str, shown: Collection[str] | None) -> set[str]:
        """Return the values of an entity's field over the documents shown, over all for None."""
        return {
            fact.value for fact in self.by_entity.get((entity, label), ()) if shown is None or fact.document in shown
        }

    def bordering(self, entity: str, shown: Collection[str] | None) -> list[Border]:
        """Return an entity's borders over the documents shown, over all for None."""
        return [b for b in self.borders.get(entity, ()) if shown is None or b.document in shown]

    def stated_again(self, edges: Iterable[Edge]) -> bool:
        """Tell whether the document of another edge states a border of these too: its evidence is not needed."""
        edges = list(edges)
        shown = {edge.document for edge in edges}
        return any(
            border.neighbour == edge.target.removeprefix("entity:") and border.document != edge.document
            for edge in edges
            if edge.relation == "borders"
            for border in self.bordering(edge.source.removeprefix("entity:"), shown)
        )


def read(documents: Iterable[Document]) -> Facts:
    """Return the facts of documents."""
    facts = Facts()
    for document in documents:
        for item in parse.fields(document):
            if item.year is not None:
                continue
            fact = Fact(item.entity, item.label, parse.plain_value(item.value), item.document)
            facts.by_label[item.label].append(fact)
            facts.by_entity[item.entity, item.label].append(fact)
            for part in re.split(r"; |, ", item.value) if item.label == BORDERS else ():
                match = _MEMBER.match(part)
                if match:
                    name, length = match["name"], Decimal(match["length"].replace(",", ""))
                    facts.borders[item.entity].append(Border(item.entity, name, length, item.document))
                    facts.borders[name].append(Border(name, item.entity, length, item.document))
    return facts


def of(pool: Pool) -> Facts:
    """Return the facts of a pool's documents, read once."""
    return pool.memo("facts", make=lambda: read(pool.documents))


def names(shown: Sequence[Document]) -> set[str]:
    """Return the ids of documents."""
    return {document.id for document in shown}
