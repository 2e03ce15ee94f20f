"""Difficulty balance before training: uniform bins of pass@k, the same number of samples from each, per source."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.records import Sample
from qwenlong.core.seeds import rng


def bin_of(pass_at_k: float, bins: int) -> int:
    """Return the uniform bin over [0, 1] that a value falls in; 1 belongs to the last.

    >>> [bin_of(value, 4) for value in (0.0, 0.24, 0.25, 1.0)]
    [0, 0, 1, 3]
    """
    return min(int(pass_at_k * bins), bins - 1)


def balance(
    samples: Sequence[Sample], bins: int, per_bin: int | None, min_per_bin: int, seed: int
) -> tuple[list[Sample], dict[str, Any]]:
    """Return the samples kept, in their order, and counts per source and bin.

    Of every bin of a source `per_bin` samples are kept; where that is None, as many as its smallest non-empty bin
    has, at least `min_per_bin`. A bin with fewer gives all it has. Which ones is drawn by seed and does not depend on
    the order of the samples. The mean pass@k before and after shows what balancing changed. Raises DataError for a
    sample without difficulty and for an id that stands there twice.
    """
    if len({sample.id for sample in samples}) < len(samples):
        twice = next(name for name, n in Counter(sample.id for sample in samples).items() if n > 1)
        raise DataError(f"two samples have the id {twice}; bins would keep more than they count: run synthesis again")
    groups: dict[str, list[list[Sample]]] = defaultdict(lambda: [[] for _ in range(bins)])
    for sample in samples:
        if sample.difficulty is None:
            raise DataError(f"sample {sample.id} has no difficulty; run `qwenlong train difficulty` first")
        groups[sample.source][bin_of(sample.difficulty.pass_at_k, bins)].append(sample)
    kept: set[str] = set()
    report: dict[str, Any] = {}
    for source, filled in sorted(groups.items()):
        size = per_bin or max(min(len(members) for members in filled if members), min_per_bin)
        taken = []
        for number, members in enumerate(filled):
            chosen = sorted(members, key=lambda sample: sample.id)
            rng(seed, "bins", source, number).shuffle(chosen)
            kept.update(sample.id for sample in chosen[:size])
            taken.append(min(size, len(members)))
        report[source] = {
            "per_bin": size,
            "available": [len(members) for members in filled],
            "kept": taken,
            "mean_available": _mean(sample for members in filled for sample in members),
            "mean_kept": _mean(sample for members in filled for sample in members if sample.id in kept),
        }
    return [sample for sample in samples if sample.id in kept], report


def _mean(samples: Iterable[Sample]) -> float:
    values = [sample.difficulty.pass_at_k for sample in samples if sample.difficulty is not None]
    return round(sum(values) / len(values), 6)
