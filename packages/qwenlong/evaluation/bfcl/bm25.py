"""BM25+ (Lv and Zhai, 2011) over a few short texts: how the key-value memory finds keys.

In the form of the package that the official harness uses, so that the scores shown to a model are the same: a term's
weight is log((n + 1) / df), and the lower bound `DELTA` counts for texts without the term too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

K1, B, DELTA = 1.5, 0.75, 1.0


def words(text: str) -> list[str]:
    """Return the lower-case words of a key or a query; underscores part words."""
    return text.replace("_", " ").lower().split()


def scores(query: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """Return the score of each text for the query, in the order of the texts."""
    if not texts:
        return []
    counts = [Counter(text) for text in texts]
    mean = sum(map(len, texts)) / len(texts)
    containing = Counter(term for count in counts for term in count)
    # A query may repeat a term; it then counts as often.
    weights = [(term, math.log((len(texts) + 1) / containing[term])) for term in query if term in containing]
    found = []
    for text, count in zip(texts, counts, strict=True):
        length = K1 * (1 - B + B * len(text) / mean) if mean else K1
        found.append(sum(w * (DELTA + count[term] * (K1 + 1) / (length + count[term])) for term, w in weights))
    return found


def ranked(query: str, texts: Sequence[str]) -> list[tuple[float, str]]:
    """Return (score, text), best first; equal ones keep their order."""
    found = scores(words(query), [words(text) for text in texts])
    return sorted(zip(found, texts, strict=True), key=lambda pair: -pair[0])
