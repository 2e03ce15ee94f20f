"""difflib's ratio, to the last digit, in a time that a runaway response cannot drive up."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

#: Product of the two lengths up to which difflib itself is quick enough.
SMALL = 1_000_000
#: Length of a reference from which difflib leaves out characters that make up more than a hundredth of it.
_AUTOJUNK = 200
#: Pieces of the reference up to this length are looked for one by one.
_SHORT = 16


def ratio(given: str, gold: str, small: int = SMALL) -> float:
    """Return `SequenceMatcher(None, given, gold).ratio()`, the MRCR score: 2 × matching characters / all characters.

    difflib compares each character of one text with all equal ones of the other, again for each block that it finds:
    minutes for a response that repeats itself over 50,000 tokens. Above `small` (product of the lengths) the same
    blocks are found with a suffix automaton of the reference, in the time of one pass over the response per block.
    """
    if len(given) * len(gold) <= small:
        return SequenceMatcher(None, given, gold).ratio()
    return 2.0 * _matching(given, gold) / (len(given) + len(gold))


def _matching(a: str, b: str) -> int:
    """Return how many characters the blocks cover that difflib finds."""
    popular = (
        {char for char, count in Counter(b).items() if count > len(b) // 100 + 1} if len(b) >= _AUTOJUNK else set()
    )
    total, ranges = 0, [(0, len(a), 0, len(b))]
    while ranges:
        alo, ahi, blo, bhi = ranges.pop()
        i, j, size = _longest(a, b, popular, alo, ahi, blo, bhi)
        if size:
            total += size
            if alo < i and blo < j:
                ranges.append((alo, i, blo, j))
            if i + size < ahi and j + size < bhi:
                ranges.append((i + size, ahi, j + size, bhi))
    return total


def _longest(a: str, b: str, popular: set[str], alo: int, ahi: int, blo: int, bhi: int) -> tuple[int, int, int]:
    """Return the block that difflib takes from a range: start in `a`, start in `b`, length.

    The longest run without popular characters, the earliest in `a` and then in `b`, grown on both sides by whatever
    is equal there. Where there is no such run, what the ranges begin with in common.
    """
    find = _by_search if bhi - blo <= _SHORT else _by_automaton
    end, size = find(a, b, popular, alo, ahi, blo, bhi)
    i, j = alo, blo
    if size:
        i = end - size
        j = b.find(a[i:end], blo, bhi)
    while i > alo and j > blo and a[i - 1] == b[j - 1]:
        i, j, size = i - 1, j - 1, size + 1
    while i + size < ahi and j + size < bhi and a[i + size] == b[j + size]:
        size += 1
    return i, j, size


def _by_search(a: str, b: str, popular: set[str], alo: int, ahi: int, blo: int, bhi: int) -> tuple[int, int]:
    for size in range(bhi - blo, 0, -1):
        pieces = {b[j : j + size] for j in range(blo, bhi - size + 1)}
        starts = [a.find(piece, alo, ahi) for piece in pieces if popular.isdisjoint(piece)]
        if found := [start for start in starts if start >= 0]:
            return min(found) + size, size
    return alo, 0


def _by_automaton(a: str, b: str, popular: set[str], alo: int, ahi: int, blo: int, bhi: int) -> tuple[int, int]:
    steps, links, lengths = _automaton(b, popular, blo, bhi)
    state = length = best = 0
    end = alo
    for i in range(alo, ahi):
        char = a[i]
        while state and char not in steps[state]:
            state = links[state]
            length = lengths[state]
        if char in steps[state]:
            state = steps[state][char]
            length += 1
            if length > best:
                end, best = i + 1, length
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
