"""The interface of extractors, and the one that works by rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qwenlong.core.records import Document
from qwenlong.synthesis.graph import Edge, build


@dataclass
class Extraction:
    """Edges, each with the document and span it was read from, and what was counted on the way."""

    edges: list[Edge]
    funnel: dict[str, Any] = field(default_factory=dict)
    unavailable: int = 0
    """Passages without a reply for want of an endpoint: another run asks them again."""


class Extractor(Protocol):
    """What reads documents and gives edges of the knowledge graph."""

    name: str

    async def extract(self, documents: Sequence[Document]) -> Extraction:
        """Return the edges of documents; the same documents in any order give the same edges."""


class RuleExtractor:
    """Fields, speakers, definitions and calls of structured sources (synthesis.graph); no model is asked."""

    name = "rules@1"

    async def extract(self, documents: Sequence[Document]) -> Extraction:
        """Return the edges that the rules find; prose gives none."""
        edges = build(sorted(documents, key=lambda document: document.id)).edges
        holding = {edge.document for edge in edges}
        kinds = Counter(edge.relation for edge in edges)
        funnel = {
            "documents": len(documents),
            "documents_with_triples": len(holding),
            "triples": len(edges),
            "relations": dict(sorted(kinds.items())),
        }
        return Extraction(edges, funnel)
