"""Where evidence stands: documents with evidence at places drawn uniformly over the context's tokens."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Block(Generic[T]):
    """Something that takes `size` tokens of the context; its evidence begins `offset` tokens after its start."""

    item: T
    size: int
    offset: int = 0


def scatter(
    evidence: Sequence[Block[T]], others: Sequence[Block[T]], randomness: random.Random
) -> tuple[list[T], dict[T, float]]:
    """Return all items in an order, and the relative place of the evidence of each item that has some.

    Of k documents with evidence each gets one of k equal stretches of the context at random and a uniform place within
    it: each alone is uniform over the context, together they are spread. They stand at the boundary between others
    that is nearest, which at the ends of a short context may be some way off; never side by side while others are left
    to stand between them. The cost grows with the number of blocks.
    """
    total = sum(block.size for block in (*evidence, *others))
    strata = list(range(len(evidence)))
    randomness.shuffle(strata)
    wanted = sorted(
        ((stratum + randomness.random()) / len(evidence) * total, block)
        for stratum, block in zip(strata, range(len(evidence)), strict=True)
    )
    rest = list(others)
    randomness.shuffle(rest)
    order: list[Block[T]] = []
    places: dict[T, float] = {}
    at = taken = 0
    for number, (goal, index) in enumerate(wanted):
        block = evidence[index]
        left = len(wanted) - 1 - number
        apart = number == 0
        while taken < len(rest):
            # Each gap between evidence that is still to come keeps one of the others, while there are enough.
            spare = len(rest) - taken > left
            nearer = abs(at + rest[taken].size + block.offset - goal) < abs(at + block.offset - goal)
            if apart and not (nearer and spare):
                break
            at += rest[taken].size
            order.append(rest[taken])
            taken += 1
            apart = True
        order.append(block)
        places[block.item] = (at + block.offset) / max(1, total)
        at += block.size
    order += rest[taken:]
    return [block.item for block in order], places


def summary(places: Sequence[float]) -> dict[str, object]:
    """Return how many relative places fall in each tenth of the context, and the distance from the uniform
    distribution (the Kolmogorov-Smirnov statistic: the largest difference of the distribution functions).

    >>> summary([0.05, 0.55])["ks"]
    0.45
    """
    deciles = [0] * 10
    for place in places:
        deciles[min(int(place * 10), 9)] += 1
    n, ordered = len(places), sorted(places)
    steps = [max((i + 1) / n - place, place - i / n) for i, place in enumerate(ordered)]
    return {"n": n, "deciles": deciles, "ks": round(max(steps, default=0.0), 6)}
