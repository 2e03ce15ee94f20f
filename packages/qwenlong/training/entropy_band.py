"""How well a run keeps its entropy inside a band: share of steps inside, excursions, steps to return."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Excursion:
    """Consecutive steps outside the band on one side of it.

    side: "above" or "below". start: the first step outside. length: steps outside, which is the number of steps from
    the first one outside to the first one that is not. open: the run ended before that step. peak: distance of the
    farthest step from the bound that was crossed, in nats; peak_step: that step, the first of equals.
    """

    side: str
    start: int
    length: int
    open: bool
    peak: float
    peak_step: int


@dataclass(frozen=True)
class Summary:
    """A run against its band.

    steps, inside, above, below: counts of steps. excursions: in order. `largest` is none where there is none;
    `median_return` and `longest_return` (steps) are over the excursions that ended, none where none did.
    """

    steps: int
    inside: int
    above: int
    below: int
    excursions: tuple[Excursion, ...]

    @property
    def share_inside(self) -> float:
        """Steps inside the band over all steps."""
        return self.inside / self.steps

    @property
    def largest(self) -> Excursion | None:
        """The excursion that went farthest, the first of equals."""
        return max(self.excursions, key=lambda e: e.peak, default=None)

    @property
    def open(self) -> int:
        """Excursions that had not ended with the run: 0 or 1."""
        return sum(e.open for e in self.excursions)

    @property
    def median_return(self) -> float | None:
        """Median steps to return."""
        ended = [e.length for e in self.excursions if not e.open]
        return statistics.median(ended) if ended else None

    @property
    def longest_return(self) -> int | None:
        """Most steps to return."""
        return max((e.length for e in self.excursions if not e.open), default=None)


def side(entropy: float, low: float, high: float) -> str:
    """Return "above", "below" or "inside"; the bounds are inside, as in `aepo.EntropyController`."""
    if entropy > high:
        return "above"
    return "below" if entropy < low else "inside"


def excursions(entropies: Sequence[float], low: float, high: float, first_step: int = 1) -> Iterator[Excursion]:
    """Yield the excursions of batch entropies (nats, one a step). A jump over the band ends one and begins another."""
    place = 0
    for where, run in groupby(entropies, key=lambda value: side(value, low, high)):
        values = list(run)
        if where != "inside":
            beyond = [value - high if where == "above" else low - value for value in values]
            peak = max(beyond)
            yield Excursion(
                side=where,
                start=first_step + place,
                length=len(values),
                open=place + len(values) == len(entropies),
                peak=peak,
                peak_step=first_step + place + beyond.index(peak),
            )
        place += len(values)


def summarise(entropies: Sequence[float], low: float, high: float, first_step: int = 1) -> Summary:
    """Return what `entropies` [steps] (nats) did against the band. `first_step` is the number of the first.

    Raises ValueError for no steps, an entropy that is not finite or negative, and low above high.
    """
    if math.isnan(low) or math.isnan(high) or low > high:
        raise ValueError(f"the band low = {low}, high = {high} is not one; low must not be above high")
    if not entropies:
        raise ValueError("no steps; give the entropy of at least one")
    for step, value in enumerate(entropies, first_step):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"the entropy of step {step} is {value}; it must be finite and not negative")
    sides = [side(value, low, high) for value in entropies]
    counts = {name: sides.count(name) for name in ("inside", "above", "below")}
    return Summary(steps=len(sides), excursions=tuple(excursions(entropies, low, high, first_step)), **counts)
