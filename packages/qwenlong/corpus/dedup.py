"""Exact and near-duplicate removal. Of each group the first by id stays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from qwenlong.core.records import Document
from qwenlong.corpus import minhash

_WORD = re.compile(r"\w+")


def normalised_digest(text: str) -> str:
    """Return a digest of the words of a text; case, punctuation and spacing do not count."""
    return hashlib.sha256(" ".join(_WORD.findall(text.lower())).encode()).hexdigest()


def exact(documents: Sequence[Document]) -> tuple[list[Document], list[tuple[Document, str]]]:
    """Return (kept, dropped with the id of what they repeat), both sorted by id."""
    first: dict[str, str] = {}
    kept, dropped = [], []
    for document in sorted(documents, key=lambda d: d.id):
        digest = normalised_digest(document.text)
        if digest in first:
            dropped.append((document, first[digest]))
        else:
            first[digest] = document.id
            kept.append(document)
    return kept, dropped


def near(
    documents: Sequence[Document],
    threshold: float,
    seed: int,
) -> tuple[list[Document], list[tuple[Document, str]]]:
    """Return (kept, dropped with the id of what they resemble), both sorted by id.

    The similarity is the Jaccard coefficient of the sets of 5-word shingles (all words of a text that has fewer than
    five). Candidates come from MinHash LSH, seeded; a document is dropped when its true similarity to a kept one before
    it is at least `threshold`, so a collision of hashes drops nothing.
    """
    ordered = sorted(documents, key=lambda d: d.id)
    twins = minhash.find_twins([document.text for document in ordered], threshold, seed)
    kept = [document for n, document in enumerate(ordered) if n not in twins]
    return kept, [(document, ordered[twins[n]].id) for n, document in enumerate(ordered) if n in twins]
