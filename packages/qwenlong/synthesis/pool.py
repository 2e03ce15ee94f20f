"""The documents of one side of the split, with what generators ask of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from qwenlong.core.records import Document, Evidence
from qwenlong.core.seeds import rng
from qwenlong.synthesis import parse

if TYPE_CHECKING:
    from qwenlong.synthesis.graph import KnowledgeGraph
    from qwenlong.synthesis.merged import Merged
    from qwenlong.synthesis.tables import Table

T = TypeVar("T")
#: Tokens that a document's heading takes in a prompt, at least.
HEADING = 6
#: Draws a template makes before it counts as exhausted, so that a poor corpus ends instead of looping.
MAX_DRAWS = 4000


@dataclass(frozen=True)
class Pool:
    """Documents of one side ("train" or "heldout"), sorted by id; `budget` bounds the evidence's tokens.

    `max_hops` bounds multi-hop paths; `obfuscation` says how many nodes of a path are described vaguely (0 none, 1 one,
    2 all). Randomness comes from `seed` and the name of its use only.
    """

    documents: Sequence[Document]
    table: Table
    graph: KnowledgeGraph
    budget: int
    seed: int
    max_hops: int = 3
    obfuscation: int = 2
    cache: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False, compare=False)
    merged: Merged | None = field(default=None, repr=False, compare=False)
    """The graph with extracted edges; none when there are none."""

    @cached_property
    def by_id(self) -> Mapping[str, Document]:
        """Documents by id."""
        return {document.id: document for document in self.documents}

    def rng(self, *names: object) -> random.Random:
        """Return the generator of random numbers of one use."""
        return rng(self.seed, "synthesis", *names)

    def fits(self, documents: Iterable[str]) -> bool:
        """Tell whether documents together, with their headings, stay within the budget of tokens."""
        return sum(self.by_id[name].n_tokens + HEADING for name in set(documents)) <= self.budget

    def memo(self, *key: object, make: Callable[[], T]) -> T:
        """Return what `make` gives, made once per key for all pools of this side."""
        if key not in self.cache:
            self.cache[key] = make()
        return cast(T, self.cache[key])

    def of_kind(self, kind: str) -> list[Document]:
        """Return documents of a kind that fit the budget alone."""
        return [d for d in self.documents if parse.kind(d) == kind and d.n_tokens <= self.budget]

    def shuffled(self, values: Iterable[T], *names: object) -> list[T]:
        """Return values in the random order of one use."""
        result = list(values)
        self.rng(*names).shuffle(result)
        return result


def whole_line(document: Document, start: int, end: int) -> str:
    """Return the line(s) of a document that hold a span, as one line."""
    text = document.text
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    return " ".join(text[first : len(text) if last < 0 else last].split())


def evidence(item: parse.Field | parse.Cell | parse.Said | parse.Function) -> Evidence:
    """Return the span of something that was parsed."""
    return Evidence(document=item.document, start=item.start, end=item.end)


def draws(limit: int = MAX_DRAWS) -> Iterator[int]:
    """Count up to the number of draws a template may make."""
    return iter(range(limit))


def enumeration(names: Sequence[str], last: str) -> str:
    """Return "A, B or C"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
