"""MinHash with locality-sensitive hashing, vectorised over documents; candidates are decided by their true similarity.

The similarity of two documents is the Jaccard coefficient of their sets of shingles (runs of 5 words). A signature
keeps, for each of 128 random permutations of the shingles' hashes, the smallest value that a document has; the share of
equal values in two signatures estimates the coefficient without bias (Broder, "On the resemblance and containment of
documents", 1997). Signatures are cut into bands; documents that agree in a whole band are compared (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4).

Shapes: N documents, P permutations, B bands of R values each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qwenlong.core.seeds import derive
from qwenlong.corpus import words
from qwenlong.corpus.words import MULTIPLIER, Hashes

#: Words a shingle.
SHINGLE = 5
#: Values of a signature; an estimated similarity's standard error is at most 1/(2*sqrt(128)) = 0.044.
PERMUTATIONS = 128
#: Largest probability that a pair whose similarity is exactly the threshold shares no band.
MISS = 1e-4
#: Standard errors by which an estimate may lie below the threshold before the true similarity is not asked for.
SLACK = 5.0
#: Kept members of a bucket that later documents are compared with. Thousands of documents that agree in a band and are
#: no duplicates share boilerplate; without a bound their comparisons would grow with the square of their number.
BUCKET = 4096

Signatures = NDArray[np.uint32]
Buckets = NDArray[np.int32]


def permutations(seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return P factors (odd) and P summands of the maps x -> factor * x + summand modulo 2^32.

    An odd factor makes each map a permutation of the 32-bit numbers.
    """
    generator = np.random.Generator(np.random.PCG64(derive(seed, "minhash")))
    factors, summands = generator.integers(0, 2**32, size=(2, PERMUTATIONS), dtype=np.uint32)
    return factors | np.uint32(1), summands


def sign(texts: Iterable[str], seed: int) -> Signatures:
    """Return the signatures of texts, uint32 of shape [N, P].

    Texts of fewer than SHINGLE words (even none) have one shingle, all their words.
    """
    parts = [signatures for signatures, _, _ in sign_blocks(texts, seed)]
    return np.concatenate(parts) if parts else np.empty((0, PERMUTATIONS), np.uint32)


def sign_blocks(texts: Iterable[str], seed: int) -> Iterator[tuple[Signatures, Hashes, NDArray[np.int64]]]:
    """Yield signatures, word hashes and where each text's words begin (and the last end), some texts at a time."""
    factors, summands = permutations(seed)
    for found, starts in words.blocks(texts, SHINGLE):
        # The upper half of a product's bits depends on all the bits of its factors.
        shingles = (words.runs(found, SHINGLE) >> np.uint64(32)).astype(np.uint32)
        # reduceat takes [begin, end) of each text, and what lies between one text's last shingle and the next text
        # (runs that would cross from one to the other), which is left out again by the step of 2.
        limits = np.stack([starts[:-1], starts[1:] - SHINGLE + 1], axis=1).ravel()
        limits = limits[:-1]
        moved = np.empty_like(shingles)
        signatures = np.empty((PERMUTATIONS, len(starts) - 1), np.uint32)
        for n in range(PERMUTATIONS):
            np.multiply(shingles, factors[n], out=moved)
            np.add(moved, summands[n], out=moved)
            signatures[n] = np.minimum.reduceat(moved, limits)[::2]
        yield np.ascontiguousarray(signatures.T), found, starts


def shingle_set(text: str) -> Hashes:
    """Return the distinct shingle hashes of a text, sorted; at least one."""
    found, _ = next(words.blocks([text], SHINGLE))
    return np.unique(words.runs(found, SHINGLE))


def jaccard(left: Hashes, right: Hashes) -> float:
    """Return the Jaccard coefficient of two sets, each sorted and without repeats, not both empty."""
    both = np.sort(np.concatenate([left, right]))
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / (len(left) + len(right) - common)


def estimate(left: Signatures, right: Signatures) -> NDArray[np.float64]:
    """Return the estimated coefficients of signatures [..., P], over the last axis."""
    return np.asarray((left == right).mean(axis=-1), np.float64)


def banding(threshold: float) -> tuple[int, int]:
    """Return (B, R): the longest bands with which a pair at the threshold is missed with probability MISS at most.

    A pair of similarity s agrees in a band with probability s^R and is missed with probability (1 - s^R)^B. Longer
    bands mean fewer candidates below the threshold, each of which costs a comparison.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MISS:
            return bands, rows
    return PERMUTATIONS, 1


def bands(signatures: Signatures, threshold: float) -> Hashes:
    """Return one 64-bit hash a band, shape [B, N]: contiguous by band, since bands are looked at one at a time."""
    count, rows = banding(threshold)
    parts = signatures[:, : count * rows].reshape(len(signatures), count, rows)
    found = np.zeros((count, len(signatures)), np.uint64)
    for row in range(rows):
        found *= MULTIPLIER
        # One is added since a run of zeros must differ from a shorter one.
        found += parts[:, :, row].T.astype(np.uint64) + np.uint64(1)
    return found


def buckets(bands: Iterable[Hashes], documents: int) -> tuple[Buckets, NDArray[np.int64]]:
    """Return the bucket of each document in each band, int32 [N, B], -1 where it is alone, and the buckets' sizes.

    `bands` yields B arrays [N], so that not all of them need to be in memory.
    """
    columns: list[Buckets] = []
    sizes: list[NDArray[np.int64]] = []
    used = 0
    for band in bands:
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        begins = (
            np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if documents else np.empty(0, int)
        )
        counts = np.diff(np.append(begins, documents))
        shared = counts > 1
        numbers = np.where(shared, np.cumsum(shared) - 1 + used, -1).astype(np.int32)
        column = np.empty(documents, np.int32)
        column[order] = np.repeat(numbers, counts)
        columns.append(column)
        sizes.append(counts[shared])
        used += int(shared.sum())
    return np.stack(columns, axis=1), np.concatenate(sizes)


def twins(
    rows: Buckets,
    sizes: NDArray[np.int64],
    signature: Callable[[NDArray[np.int64]], Signatures],
    shingles: Callable[[int], Hashes],
    threshold: float,
) -> dict[int, int]:
    """Return {document: the kept one that it resembles}; documents are numbers 0 … N-1 in the order of precedence.

    A document is dropped when its true Jaccard coefficient with a kept document before it is at least `threshold`, and
    its twin is the first such one. `rows` and `sizes` come from `buckets`; `signature` returns the signatures [k, P] of
    k documents, `shingles` the `shingle_set` of one. Only documents that share a bucket are asked for.
    """
    floor = threshold - SLACK * (threshold * (1 - threshold) / PERMUTATIONS) ** 0.5
    begins = np.concatenate([[0], np.cumsum(np.minimum(sizes, BUCKET))])
    members = np.empty(int(begins[-1]), np.int32)
    filled = np.zeros(len(sizes), np.int32)
    found: dict[int, int] = {}
    for document in np.flatnonzero((rows >= 0).any(axis=1)).tolist():
        own = rows[document]
        own = own[own >= 0]
        spans = zip(begins[own].tolist(), filled[own].tolist(), strict=True)
        near = [members[begin : begin + count] for begin, count in spans if count]
        twin = None
        if near:
            candidates = np.unique(np.concatenate(near)).astype(np.int64)
            close = estimate(signature(candidates), signature(np.array([document]))) >= floor
            for candidate in candidates[close].tolist():
                if jaccard(shingles(document), shingles(candidate)) >= threshold:
                    twin = candidate
                    break
        if twin is None:
            open_ = own[filled[own] < BUCKET]
            members[begins[open_] + filled[open_]] = document
            filled[open_] += 1
        else:
            found[document] = twin
    return found


def find_twins(texts: Sequence[str], threshold: float, seed: int) -> dict[int, int]:
    """Return `twins` of texts in memory, in the order of precedence."""
    if not texts:
        return {}
    signatures = sign(texts, seed)
    rows, sizes = buckets(bands(signatures, threshold), len(texts))
    return twins(rows, sizes, signatures.__getitem__, Remembered(lambda n: shingle_set(texts[n])), threshold)


class Remembered:
    """Shingle sets by document, the latest ones remembered up to `limit` hashes (8 bytes each)."""

    def __init__(self, make: Callable[[int], Hashes], limit: int = 1 << 24) -> None:
        self._make = make
        self._limit = limit
        self._sets: dict[int, Hashes] = {}
        self._held = 0

    def __call__(self, document: int) -> Hashes:
        """Return the set of one document."""
        found = self._sets.pop(document, None)
        if found is None:
            found = self._make(document)
            self._held += len(found)
        self._sets[document] = found  # the last one in the dictionary is the latest one used
        while self._held > self._limit and len(self._sets) > 2:
            self._held -= len(self._sets.pop(next(iter(self._sets))))
        return found
