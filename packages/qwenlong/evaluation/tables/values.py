"""Numbers in percent with 95% intervals: means of several, several seeds, intervals of published shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Student's t at 97.5%, by degrees of freedom from 1; from 10 on the last, which is at most 14% too wide.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z = 1.959964


@dataclass(frozen=True)
class Value:
    """A number in percent; `low` and `high` bound it at 95%, none where nothing can be said."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def halves(self) -> tuple[float, float] | None:
        """How far the interval reaches down and up."""
        return None if self.low is None or self.high is None else (self.value - self.low, self.high - self.value)


def _with(value: float, halves: tuple[float, float] | None) -> Value:
    return Value(value) if halves is None else Value(value, value - halves[0], value + halves[1])


def mean(values: Sequence[Value], independent: bool = True) -> Value:
    """Return the mean of numbers that weigh the same.

    `independent`: other items behind each, so variances add; else the same items, and the interval is as wide as if
    their errors were one, which bounds it from above. No interval where one of them has none.
    """
    middle = math.fsum(v.value for v in values) / len(values)
    halves = [v.halves for v in values]
    known = [h for h in halves if h is not None]
    if len(known) < len(halves):
        return Value(middle)

    def side(of: Sequence[float]) -> float:
        return (math.sqrt(math.fsum(h * h for h in of)) if independent else math.fsum(of)) / len(of)

    return _with(middle, (side([down for down, _ in known]), side([up for _, up in known])))


def over_seeds(values: Sequence[Value]) -> Value:
    """Return the mean over runs of different seeds on the same items.

    The interval holds both sources of chance, squares added: the items (the mean of the runs' own intervals: the same
    items again do not narrow it) and the seeds (Student's t times the standard error over runs, wide for two). It ends
    where scores end, at 0 and 100.
    """
    if len(values) == 1:
        return values[0]
    once = mean(values, independent=False)
    if once.halves is None:
        return once
    n = len(values)
    spread = math.sqrt(math.fsum((v.value - once.value) ** 2 for v in values) / (n - 1))
    seeds = _T[min(n - 1, len(_T)) - 1] * spread / math.sqrt(n)
    down, up = once.halves
    low, high = once.value - math.hypot(down, seeds), once.value + math.hypot(up, seeds)
    return Value(once.value, max(low, 0.0), min(high, 100.0))


def wilson(percent: float, n: int) -> Value:
    """Return a published share with Wilson's binomial interval for `n` items.

    For a mean of values in [0, 1] that are not only 0 and 1 it is an upper bound of the width.
    """
    p = min(max(percent / 100, 0.0), 1.0)
    scale = 1 + _Z**2 / n
    middle = (p + _Z**2 / (2 * n)) / scale
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n)) / scale
    return Value(percent, min(100 * (middle - half), percent), max(100 * (middle + half), percent))


def difference(first: Value, second: Value) -> Value:
    """Return first - second, independent of one another."""
    middle = first.value - second.value
    a, b = first.halves, second.halves
    if a is None or b is None:
        return Value(middle)
    return _with(middle, (math.hypot(a[0], b[1]), math.hypot(a[1], b[0])))


def is_multiple(percent: float, n: int) -> bool:
    """Return whether a number printed with two decimals can be a whole number of `n` items."""
    right = percent * n / 100
    return abs(right - round(right)) <= 0.005 * n / 100 + 1e-9
