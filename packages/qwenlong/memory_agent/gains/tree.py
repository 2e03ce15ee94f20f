"""The parallel fold: groups of consecutive chunks read at once, their memories merged as a tree.

All numbers follow from the number of chunks alone, so that turns have the same seeds whatever arrives first.
"""

from __future__ import annotations

from dataclasses import dataclass


def groups(chunks: int, parallel: int) -> list[range]:
    """Return at most `parallel` runs of consecutive chunks, whose lengths differ by one at most; none for no chunk."""
    count = min(chunks, parallel)
    return [range(chunks * n // count, chunks * (n + 1) // count) for n in range(count)]


@dataclass(frozen=True)
class Merge:
    """One merge of the tree: `parts` are the places, in the level below, of the memories that become one."""

    number: int
    parts: range


def levels(count: int, arity: int) -> list[list[Merge]]:
    """Return the merges that make one memory of `count`, level by level, numbered from 0 through all levels.

    A merge takes up to `arity` neighbours; one that is left over rises as it is, in a merge of one part.
    """
    found: list[list[Merge]] = []
    number = 0
    while count > 1:
        width = -(-count // arity)
        level = []
        for n in range(width):
            level.append(Merge(number, range(count * n // width, count * (n + 1) // width)))
            number += 1
        found.append(level)
        count = width
    return found


def merges(count: int, arity: int) -> int:
    """Return how many merges there are, those of one part included: the turn numbers set aside for them."""
    return sum(len(level) for level in levels(count, arity))


def calls(chunks: int, parallel: int, arity: int) -> int:
    """Return the most calls that reading and merging take, without repairs.

    A merge is not asked for where at most one memory holds anything, or where all of them fit into one.
    """
    merging = levels(len(groups(chunks, parallel)), arity)
    return chunks + sum(len(merge.parts) > 1 for level in merging for merge in level)
