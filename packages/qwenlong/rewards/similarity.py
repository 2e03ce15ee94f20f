"""difflib's ratio, to the last digit, in a time that a runaway response cannot drive up."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from difflib import SequenceMatcher

#: Product of the two lengths up to which difflib itself is quick enough.
SMALL = 1_000_000
#: Length of a reference from which difflib leaves out characters that make up more than a hundredth of it.
_AUTOJUNK = 200
#: Blocks up to this length are looked up in tables, longer ones found with an automaton.
_SHORT = 16


def ratio(given: str, gold: str, small: int = SMALL) -> float:
    """Return `SequenceMatcher(None, given, gold).ratio()`, the MRCR score: 2 × matching characters / all characters.

    difflib compares each character of one text with all equal ones of the other, again for each block that it finds:
    minutes for a response that repeats itself over 50,000 tokens. Above `small` (product of the lengths) the same
    blocks are found in other ways: no block inside a range is longer than the one that bounds the range, so short ones
    are looked up in one table per length, made once, and the text is read again only for each of the longer lengths.
    """
    if len(given) * len(gold) <= small:
        return SequenceMatcher(None, given, gold).ratio()
    return 2.0 * _Blocks(given, gold).matching() / (len(given) + len(gold))


class _Blocks:
    """The blocks that difflib finds in `a` and `b`.

    A block's core is the longest run without popular characters, the earliest in `a` and then in `b`; the block is the
    core grown on both sides by whatever is equal there. Where there is no core, what the range begins with in common.
    """

    def __init__(self, a: str, b: str) -> None:
        self.a, self.b = a, b
        self.popular = (
            {char for char, count in Counter(b).items() if count > len(b) // 100 + 1} if len(b) >= _AUTOJUNK else set()
        )
        self.places: dict[int, dict[str, list[int]]] = {}
        self.hits: dict[int, array[int]] = {}

    def matching(self) -> int:
        """Return how many characters the blocks cover."""
        a, b = self.a, self.b
        longest = run = 0
        for char in b:
            run = 0 if char in self.popular else run + 1
            longest = max(longest, run)
        total, ranges = 0, [(0, len(a), 0, len(b), longest)]
        while ranges:
            alo, ahi, blo, bhi, bound = ranges.pop()
            i, j, core = self._core(alo, ahi, blo, bhi, min(bound, ahi - alo, bhi - blo))
            end, size = i + core, core
            while i > alo and j > blo and a[i - 1] == b[j - 1]:
                i, j, size = i - 1, j - 1, size + 1
            while end < ahi and j + size < bhi and a[end] == b[j + size]:
                end, size = end + 1, size + 1
            total += size
            if core:
                # A core as long as this one would have been found first in what lies before it.
                if alo < i and blo < j:
                    ranges.append((alo, i, blo, j, core - 1))
                if end < ahi and j + size < bhi:
                    ranges.append((end, ahi, j + size, bhi, core))
        return total

    def _core(self, alo: int, ahi: int, blo: int, bhi: int, bound: int) -> tuple[int, int, int]:
        """Return the core of a range: start in `a`, start in `b`, length; it is known to be at most `bound` long."""
        if bound > _SHORT:
            end, size = self._by_automaton(alo, ahi, blo, bhi, bound)
            if size == 0:
                return alo, blo, 0
            return end - size, self.b.find(self.a[end - size : end], blo, bhi), size
        for size in range(bound, 0, -1):
            places, hits = self._table(size)
            at = bisect_left(hits, alo)
            while at < len(hits) and hits[at] <= ahi - size:
                i = hits[at]
                starts = places[self.a[i : i + size]]
                first = bisect_left(starts, blo)
                if first < len(starts) and starts[first] <= bhi - size:
                    return i, starts[first], size
                at += 1
        return alo, blo, 0

    def _table(self, size: int) -> tuple[dict[str, list[int]], array[int]]:
        """Return where each run of a length without popular characters begins in `b`, and where any of them in `a`."""
        if size not in self.places:
            places: dict[str, list[int]] = {}
            clean = 0
            for end, char in enumerate(self.b, 1):
                clean = 0 if char in self.popular else clean + 1
                if clean >= size:
                    places.setdefault(self.b[end - size : end], []).append(end - size)
            a = self.a
            self.places[size] = places
            self.hits[size] = array("l", (i for i in range(len(a) - size + 1) if a[i : i + size] in places))
        return self.places[size], self.hits[size]

    def _by_automaton(self, alo: int, ahi: int, blo: int, bhi: int, bound: int) -> tuple[int, int]:
        steps, links, lengths = _automaton(self.b, self.popular, blo, bhi)
        state = length = best = 0
        end = alo
        for i in range(alo, ahi):
            char = self.a[i]
            while state and char not in steps[state]:
                state = links[state]
                length = lengths[state]
            if char in steps[state]:
                state = steps[state][char]
                length += 1
                if length > best:
                    end, best = i + 1, length
                    if best == bound:
                        break
        return end, best


def _automaton(
    b: str, popular: set[str], blo: int, bhi: int
) -> tuple[list[dict[str | int, int]], list[int], list[int]]:
    """Return the suffix automaton of a piece: transitions, suffix links and longest length of each state.

    A popular character is a symbol of its own at each place, which no text holds.
    """
    steps: list[dict[str | int, int]] = [{}]
    links, lengths = [-1], [0]
    last = 0
    for j in range(blo, bhi):
        symbol: str | int = j if b[j] in popular else b[j]
        state = len(steps)
        steps.append({})
        links.append(0)
        lengths.append(lengths[last] + 1)
        at = last
        while at >= 0 and symbol not in steps[at]:
            steps[at][symbol] = state
            at = links[at]
        if at >= 0:
            target = steps[at][symbol]
            if lengths[target] != lengths[at] + 1:
                copy = len(steps)
                steps.append(dict(steps[target]))
                links.append(links[target])
                lengths.append(lengths[at] + 1)
                while at >= 0 and steps[at].get(symbol) == target:
                    steps[at][symbol] = copy
                    at = links[at]
                links[target] = copy
                target = copy
            links[state] = target
        last = state
    return steps, links, lengths
