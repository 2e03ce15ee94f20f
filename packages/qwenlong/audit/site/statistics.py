"""A number over several seeds and the items of several tasks, with an interval that holds both sources of chance.

Seeds and items are both drawn from more than was run, and crossed: each seed's model answers the same items. The mean's
variance is that of the two-way random-effects model (Clark 1973, J. Verbal Learning 12; Owen 2007, Ann. Appl. Stat. 1):

    V = V_seed + (V_item - V_cell)

V_seed is the variance of the seeds' means over their number, V_item that of the items' means over theirs (within
tasks, tasks weighing the same), and V_cell, what is left of a single answer, is in both and counted once. Each of the
two terms has Student's t of its own degrees of freedom (seeds - 1; Satterthwaite's for items), and the squares of their
half widths add up (Howe 1974, JASA 69; Zou and Donner 2008, Stat. Med. 27): with few seeds no pooled number of degrees
of freedom covers as often as it says, this does (tests/unit/audit/test_site_statistics.py). Nor is an interval
shorter than that of V_item alone, where seeds happen to agree. p is the level at which the interval ends at 0. Seeds
with items of their own are nested: V_seed holds the items too, and is all. One seed leaves the items alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Task → item → value: a score, or the difference of two.
Items = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval (none where nothing can be said), in the unit of the values.

    `p` is two-sided, of no difference from 0; `n` counts items, `seeds` runs.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    seeds: int

    def scaled(self, factor: float, bounds: tuple[float, float] | None = None) -> Estimate:
        """Return the estimate in another unit, its interval cut at `bounds` where values end there."""

        def moved(end: float | None) -> float | None:
            if end is None:
                return None
            return factor * end if bounds is None else min(max(factor * end, bounds[0]), bounds[1])

        return Estimate(factor * self.value, moved(self.low), moved(self.high), self.p, self.n, self.seeds)


def estimate(runs: Sequence[Items]) -> Estimate:
    """Return the mean over seeds of the mean over tasks of the mean over items. `runs` holds one seed each.

    Only tasks that all runs have, and where runs share items, only those that all have. Raises ValueError without any.
    """
    tasks = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    common = {task: sorted(set.intersection(*(set(run[task]) for run in runs))) for task in tasks}
    if tasks and all(common.values()):
        tables = [np.array([[run[task][item] for item in common[task]] for run in runs]) for task in tasks]
        return _crossed(tables)
    nested = [task for task in tasks if all(run[task] for run in runs)]
    if not nested:
        raise ValueError("no task has items in all runs")
    means = [float(np.mean([np.mean(list(run[task].values())) for task in nested])) for run in runs]
    n = sum(len(run[task]) for run in runs for task in nested)
    return of_seeds(means, n)


def of_seeds(values: Sequence[float], n: int) -> Estimate:
    """Return the mean of one value a seed, with Student's interval over seeds; none for one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None, None, n, len(values))
    variance = float(np.var(values, ddof=1)) / len(values)
    return _interval(mean, ((variance, len(values) - 1),), n, len(values))


def _crossed(tables: Sequence[np.ndarray]) -> Estimate:
    """`tables` holds a task each, [seeds, items]."""
    seeds = tables[0].shape[0]
    weight = 1 / len(tables) ** 2
    means = np.mean([table.mean(axis=1) for table in tables], axis=0)
    n = sum(table.shape[1] for table in tables)
    mean = float(means.mean())
    if any(table.shape[1] < 2 for table in tables):
        return Estimate(mean, None, None, None, n, seeds)
    parts = [weight * float(table.mean(axis=0).var(ddof=1)) / table.shape[1] for table in tables]
    item = math.fsum(parts)
    squares = math.fsum(part**2 / (table.shape[1] - 1) for part, table in zip(parts, tables, strict=True))
    freedom = item**2 / squares if squares else 1.0
    if seeds < 2:
        return _interval(mean, ((item, freedom),), n, seeds)
    seed = float(means.var(ddof=1)) / seeds
    cell = math.fsum(weight * _residual(table) / table.size for table in tables)
    return _interval(mean, ((seed, seeds - 1), (max(item - cell, 0.0), freedom)), n, seeds, (item, freedom))


def _residual(table: np.ndarray) -> float:
    """Return the mean square of what seeds and items leave."""
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((rest**2).sum()) / ((table.shape[0] - 1) * (table.shape[1] - 1))


def _interval(
    mean: float, terms: Sequence[tuple[float, float]], n: int, seeds: int, least: tuple[float, float] = (0.0, 1.0)
) -> Estimate:
    """`terms` holds a variance and its degrees of freedom each; no interval is shorter than that of `least` alone."""
    from scipy.special import stdtrit

    def half(level: float) -> float:
        widths = (variance * float(stdtrit(freedom, 1 - level / 2)) ** 2 for variance, freedom in terms)
        alone = math.sqrt(least[0]) * float(stdtrit(least[1], 1 - level / 2))
        return max(math.sqrt(math.fsum(widths)), alone)

    if not any(variance > 0 for variance, _ in (*terms, least)):
        # All the same: no width, which is not to say that the next would be.
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0, n, seeds)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half(middle) > abs(mean) else (low, middle)
    return Estimate(mean, mean - half(0.05), mean + half(0.05), high, n, seeds)


def difference(first: Items, second: Items) -> dict[str, dict[str, float]]:
    """Return first - second of the items that both have, by task; empty tasks are left out."""
    shared = {
        task: {item: rows[item] - second[task][item] for item in sorted(rows.keys() & second[task].keys())}
        for task, rows in first.items()
        if task in second
    }
    return {task: rows for task, rows in sorted(shared.items()) if rows}


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p of several tests (1979, Scand. J. Statist. 6); none stays none and is no test."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted
