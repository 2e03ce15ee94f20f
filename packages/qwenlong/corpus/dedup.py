"""Exact and near-duplicate removal. Of each group the first by id stays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from qwenlong.core.records import Document

_WORD = re.compile(r"\w+")
#: Words a shingle.
SHINGLE = 5
#: Hash functions of a MinHash signature; an estimated similarity's standard error is at most 1/(2*sqrt(128)) = 0.044.
PERMUTATIONS = 128


def normalised_digest(text: str) -> str:
    """Return a digest of the words of a text; case, punctuation and spacing do not count."""
    return hashlib.sha256(" ".join(_WORD.findall(text.lower())).encode()).hexdigest()


def shingles(text: str) -> set[bytes]:
    """Return the 5-word shingles of a text, or its words as one shingle when there are fewer."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE:
        return {" ".join(words).encode()}
    return {" ".join(words[n : n + SHINGLE]).encode() for n in range(len(words) - SHINGLE + 1)}


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

    Candidates come from MinHash LSH (Broder 1997; `datasketch`), seeded; a document is dropped when its true Jaccard
    similarity to a kept one is at least `threshold`, so a collision of hashes drops nothing.
    """
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped,unused-ignore]

    ordered = sorted(documents, key=lambda d: d.id)
    # datasketch takes 32-bit seeds. A lower LSH threshold costs candidates, which are checked, and misses fewer.
    template = MinHash(num_perm=PERMUTATIONS, seed=seed % 2**32)
    index = MinHashLSH(threshold=max(0.1, threshold - 0.1), num_perm=PERMUTATIONS)
    sets: dict[str, set[bytes]] = {}
    kept, dropped = [], []
    for document in ordered:
        pieces = shingles(document.text)
        signature = template.copy()
        signature.update_batch(sorted(pieces))
        twin = next(
            (name for name in sorted(index.query(signature)) if _jaccard(pieces, sets[name]) >= threshold), None
        )
        if twin is None:
            index.insert(document.id, signature, check_duplication=False)
            sets[document.id] = pieces
            kept.append(document)
        else:
            dropped.append((document, twin))
    return kept, dropped


def _jaccard(left: set[bytes], right: set[bytes]) -> float:
    return len(left & right) / len(left | right)
