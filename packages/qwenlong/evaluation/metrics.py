"""Means, unweighted averages over tasks, and seeded bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenlong.core import seeds

RESAMPLES = 2000
_BLOCK = 200
Floats = NDArray[np.float64]


def resampled_means(values: Sequence[float], seed: int) -> Floats:
    """Return the means [RESAMPLES] of bootstrap resamples of `values`, the same for the same seed and length."""
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    blocks = []
    for start in range(0, RESAMPLES, _BLOCK):
        # In blocks, so that 12,000 items do not take a gigabyte.
        rows = min(_BLOCK, RESAMPLES - start)
        blocks.append(array[generator.integers(0, len(array), (rows, len(array)))].mean(axis=1))
    return np.concatenate(blocks)


def _interval(means: Floats) -> list[float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]


def mean(values: Sequence[float], seed: int, name: str) -> dict[str, Any]:
    """Return {"value", "ci95", "n"} of a metric; no interval below two items, no value without any."""
    if not values:
        return {"value": None, "ci95": None, "n": 0}
    ci95 = _interval(resampled_means(values, seeds.derive(seed, "bootstrap", name))) if len(values) > 1 else None
    return {"value": float(np.mean(values)), "ci95": ci95, "n": len(values)}


def average(groups: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """Return the unweighted mean over groups (tasks) of their means; items are resampled within their group.

    Groups without items are left out; n is the number of items of all groups.
    """
    filled = {name: values for name, values in sorted(groups.items()) if values}
    n = sum(map(len, filled.values()))
    if not filled:
        return {"value": None, "ci95": None, "n": 0}
    value = float(np.mean([np.mean(values) for values in filled.values()]))
    if any(len(values) < 2 for values in filled.values()):
        return {"value": value, "ci95": None, "n": n}
    means = [resampled_means(values, seeds.derive(seed, "bootstrap", name)) for name, values in filled.items()]
    return {"value": value, "ci95": _interval(np.mean(means, axis=0)), "n": n}
