"""Means, averages over groups, pass@k, McNemar's test, and seeded bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenlong.core import seeds

RESAMPLES = 2000
#: Items drawn at once, for all resamples: what that takes fits a processor's cache.
_BLOCK = 32
Floats = NDArray[np.float64]


def resampled_means(values: Sequence[float], seed: int) -> Floats:
    """Return the means [RESAMPLES] of bootstrap resamples of `values`, the same for the same seed and values.

    The same bits on every machine: numpy promises the raw numbers of PCG64 (NEP 19), but not what its distributions
    make of them, which depends on its release and on the C library. Indices are the upper half of a product of whole
    numbers (Lemire 2019, arXiv 1805.10941, without its rejections: an item's chance is off by n / 2^32 of itself at
    most), and each sum is taken in the order of the draws.
    """
    array = np.asarray(values, dtype=np.float64)
    source = np.random.PCG64(seed)
    totals = np.zeros(RESAMPLES)
    for start in range(0, len(array), _BLOCK):
        rows = min(_BLOCK, len(array) - start)
        halves = source.random_raw((rows, RESAMPLES // 2)).astype("<u8", copy=False).view("<u4")
        drawn = (halves.astype(np.uint64) * np.uint64(len(array))) >> np.uint64(32)
        for taken in array.take(drawn.astype(np.intp)):
            totals += taken
    return totals / len(array)


def resampled_averages(groups: Mapping[str, Sequence[float]], seed: int) -> Floats:
    """Return the unweighted means over groups [RESAMPLES] of bootstrap resamples within each group, by name."""
    total = np.zeros(RESAMPLES)
    for name, values in sorted(groups.items()):
        total += resampled_means(values, seeds.derive(seed, "bootstrap", name))
    return total / len(groups)


def _interval(means: Floats) -> list[float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]


def _mean(values: Sequence[float]) -> float:
    # Exact: how numpy adds depends on the processor.
    return math.fsum(values) / len(values)


def mean(values: Sequence[float], seed: int, name: str) -> dict[str, Any]:
    """Return {"value", "ci95", "n"} of a metric; no interval below two items, no value without any."""
    if not values:
        return {"value": None, "ci95": None, "n": 0}
    ci95 = _interval(resampled_means(values, seeds.derive(seed, "bootstrap", name))) if len(values) > 1 else None
    return {"value": _mean(values), "ci95": ci95, "n": len(values)}


def average(groups: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """Return the unweighted mean over groups (tasks) of their means; items are resampled within their group.

    Groups without items are left out; n is the number of items of all groups.
    """
    filled = {name: values for name, values in groups.items() if values}
    n = sum(map(len, filled.values()))
    if not filled:
        return {"value": None, "ci95": None, "n": 0}
    value = _mean([_mean(values) for values in filled.values()])
    if any(len(values) < 2 for values in filled.values()):
        return {"value": value, "ci95": None, "n": n}
    return {"value": value, "ci95": _interval(resampled_averages(filled, seed)), "n": n}


def pass_at(n: int, right: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of `k` responses is right, from `right` of `n` that are.

    1 - C(n - right, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374): the share of k-subsets that hold a right one.
    """
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def powers(n: int) -> list[int]:
    """Return 1, 2, 4, … below `n`, and `n`: the k of pass@k."""
    return [k for k in (2**power for power in range(n.bit_length())) if k < n] + [n]


def mcnemar(first: Sequence[float], second: Sequence[float]) -> dict[str, Any] | None:
    """Return McNemar's exact test of paired right (1) and wrong (0) answers; none where a value is neither.

    `only_first` and `only_second` count the items that one of them has right; under no difference each of these is a
    fair coin's, and `p` is the two-sided probability of a split as uneven.
    """
    if any(value not in (0.0, 1.0) for value in (*first, *second)):
        return None
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    # Whole numbers of any size: no sum loses a digit.
    tail, term = 0, 1
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return {"only_first": only_first, "only_second": only_second, "p": min(1.0, 2 * tail / 2**n)}
