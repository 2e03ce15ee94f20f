"""Clusters of related documents, by the rare words that they share."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong.core.files import digest_value
from qwenlong.core.records import Document
from qwenlong.core.seeds import rng

#: Characters of a document that its words are taken from, and how many of its most telling words count.
READ, TERMS = 20_000, 40
_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True)
class Cluster:
    """Documents that belong together, the first is the one that the others were chosen for; `id` names them."""

    id: str
    documents: tuple[Document, ...]


def make(documents: Sequence[Document], count: int, size: int, seed: int) -> list[Cluster]:
    """Return at most `count` clusters of at most `size` documents, no document in two of them.

    Categories take turns in giving the first document, drawn by `seed`; the others are the unused ones that share
    most of its telling words (TF-IDF). The result does not depend on the order of `documents`.
    """
    ordered = sorted(documents, key=lambda document: document.id)
    words = _telling(ordered)
    holders: dict[str, list[int]] = defaultdict(list)
    for place, weights in enumerate(words):
        for word in weights:
            holders[word].append(place)
    free = set(range(len(ordered)))
    found: list[Cluster] = []
    for first in _turns(ordered, seed):
        if len(found) == count:
            break
        if first not in free:
            continue
        free.remove(first)
        score: dict[int, float] = defaultdict(float)
        for word, weight in words[first].items():
            for place in holders[word]:
                if place in free:
                    score[place] += weight * words[place][word]
        near = heapq.nsmallest(size - 1, score, key=lambda place: (-score[place], place))
        free -= set(near)
        members = tuple(ordered[place] for place in (first, *near))
        found.append(Cluster(digest_value([member.id for member in members])[:12], members))
    return found


def _turns(documents: Sequence[Document], seed: int) -> list[int]:
    """Return places of documents, categories in turn, in the random order of `seed` within each."""
    by_category: dict[str, list[int]] = defaultdict(list)
    for place, document in enumerate(documents):
        by_category[document.category].append(place)
    for category, places in by_category.items():
        rng(seed, "mase", "clusters", category).shuffle(places)
    queues = [by_category[category] for category in sorted(by_category)]
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]


def _telling(documents: Sequence[Document]) -> list[dict[str, float]]:
    """Return for each document its words of largest TF-IDF with their weights, of unit length."""
    holding: Counter[str] = Counter()
    for document in documents:
        holding.update(set(_words(document)))
    result = []
    for document in documents:
        # Counted again: all counts at once would take more memory than the documents.
        count = Counter(_words(document))
        weights = {word: n * math.log(len(documents) / holding[word]) for word, n in count.items()}
        kept = heapq.nsmallest(TERMS, weights, key=lambda word: (-weights[word], word))
        norm = math.sqrt(sum(weights[word] ** 2 for word in kept)) or 1.0
        result.append({word: weights[word] / norm for word in kept if weights[word] > 0})
    return result


def _words(document: Document) -> list[str]:
    return _WORD.findall(document.text[:READ].casefold())
