"""The extractor for prose: a model names triples and quotes, the document decides which of them stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core import templates
from qwenlong.core.config import ExtractConfig
from qwenlong.core.llm import Client, Outcome, Request, gather
from qwenlong.core.records import Document
from qwenlong.core.seeds import derive
from qwenlong.synthesis.agents import fence, locate, plain
from qwenlong.synthesis.extract.extractors import Extraction
from qwenlong.synthesis.graph import Edge

FOLDER = Path(__file__).parent / "prompts" / "v1"
Text = Annotated[str, Field(min_length=1, max_length=400)]
#: Triples in one reply that are looked at, whatever was asked for.
MOST = 100
_PRONOUNS = frozenset(
    {
        *("it", "he", "she", "they", "this", "that", "these", "those", "who", "which"),
        *("his", "her", "its", "we", "i", "you"),
    }
)


class Triple(BaseModel):
    """One statement of a passage as the model writes it."""

    model_config = ConfigDict(extra="forbid")
    subject: Text
    relation: Text
    object: Text
    kind: Literal["entity", "value"]
    quote: Text


class Triples(BaseModel):
    """All of one reply."""

    model_config = ConfigDict(extra="forbid")
    triples: Annotated[list[Triple], Field(max_length=MOST)]


@dataclass(frozen=True)
class Passage:
    """Characters [start, end) of a document."""

    document: Document
    start: int
    end: int

    @property
    def id(self) -> str:
        """Return the name that the journal knows the passage by."""
        return f"{self.document.id}:{self.start}-{self.end}"

    @property
    def text(self) -> str:
        """Return the passage's text."""
        return self.document.text[self.start : self.end]


def passages(document: Document, most: int) -> list[Passage]:
    """Return a document in passages of at most `most` characters, cut at a paragraph, else a line, else a space."""
    found = []
    start, text = 0, document.text
    while start < len(text):
        end = min(len(text), start + most)
        if end < len(text):
            for border in ("\n\n", "\n", " "):
                cut = text.rfind(border, start + most // 2, end)
                if cut >= 0:
                    end = cut + len(border)
                    break
        if text[start:end].strip():
            found.append(Passage(document, start, end))
        start = end
    return found


class ModelExtractor:
    """Asks an endpoint for the triples of each passage, resumable through a journal."""

    name = "llm@1"

    def __init__(self, client: Client, config: ExtractConfig, seed: int, journal: Path) -> None:
        self._client, self._config, self._seed, self._journal = client, config, seed, journal

    async def extract(self, documents: Sequence[Document]) -> Extraction:
        """Return the edges whose quote stands in the passage and names subject and object; count all others."""
        ordered = sorted(documents, key=lambda document: document.id)
        parts = [part for document in ordered for part in passages(document, self._config.passage_characters)]
        outcomes = await gather(
            self._client,
            parts,
            self._request,
            lambda _, triples: triples,
            self._journal,
            key=lambda part: part.id,
            description="extract",
        )
        counts: Counter[str] = Counter()
        edges: dict[Edge, None] = {}
        for part, outcome in zip(parts, outcomes, strict=True):
            for triple in self._read(outcome, counts):
                made = self._edge(part, triple)
                if isinstance(made, str):
                    counts[made] += 1
                elif made in edges:
                    counts["repeated"] += 1
                else:
                    edges[made] = None
        unavailable = sum(outcome.outage for outcome in outcomes)
        refusals = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
        funnel = {
            "prompts": templates.digest(FOLDER),
            "documents": len(documents),
            "passages": len(parts),
            "passages_refused": sum(refusals.values()) - unavailable,
            "passages_unavailable": unavailable,
            "refusals": dict(sorted(refusals.items())),
            "triples": counts["triples"],
            **{step: counts[step] for step in ("ungrounded", "not_in_quote", "not_a_node", "repeated")},
            "kept": len(edges),
        }
        return Extraction(list(edges), funnel, unavailable)

    def _request(self, part: Passage) -> Request:
        title = part.document.title
        values: dict[str, Any] = {"title": title, "passage": part.text, "most": self._config.max_triples}
        prompt = templates.fill("triples", values | {"fence": fence([title, part.text])}, FOLDER)
        return Request(
            [{"role": "user", "content": prompt}],
            self._config.max_tokens,
            derive(self._seed, "extract", part.id),
            schema=Triples,
            tries=self._config.tries,
        )

    def _read(self, outcome: Outcome[Triples], counts: Counter[str]) -> list[Triple]:
        found = outcome.value.triples if outcome.value is not None else []
        counts["triples"] += len(found)
        return found

    def _edge(self, part: Passage, triple: Triple) -> Edge | str:
        """Return the edge, or the name of the reason for which the triple falls."""
        span = locate(part.text, triple.quote)
        if span is None:
            return "ungrounded"
        subject, target = (" ".join(text.split()) for text in (triple.subject, triple.object))
        relation = " ".join(re.findall(r"[\w'-]+", triple.relation.casefold()))
        quote = plain(triple.quote)
        if plain(subject) not in quote or plain(target) not in quote:
            return "not_in_quote"
        words = max(len(subject.split()), len(target.split()))
        if not relation or words > self._config.max_words or plain(subject) == plain(target):
            return "not_a_node"
        if plain(subject) in _PRONOUNS or plain(target) in _PRONOUNS:
            return "not_a_node"
        start, end = part.start + span[0], part.start + span[1]
        return Edge(f"entity:{subject}", relation, f"{triple.kind}:{target}", part.document.id, start, end)
