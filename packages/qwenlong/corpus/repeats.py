"""How much of a text repeats itself, by sequences of words, counted on arrays: a text has thousands of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qwenlong.corpus.words import MULTIPLIER

Numbers = NDArray[np.int64]


class Words:
    """The words of a text as numbers, equal for equal words, with the length and the number of each distinct one."""

    def __init__(self, words: Sequence[str]) -> None:
        self.distinct = list(dict.fromkeys(words))
        number = {word: n for n, word in enumerate(self.distinct)}
        self.numbers: Numbers = np.fromiter(map(number.__getitem__, words), np.int64, len(words))
        self.lengths: Numbers = np.fromiter(map(len, self.distinct), np.int64, len(self.distinct))
        self.counts: Numbers = np.bincount(self.numbers, minlength=len(self.distinct))
        #: Characters of all words.
        self.characters = int(self.counts @ self.lengths) if len(words) else 0

    def __len__(self) -> int:
        return len(self.numbers)

    def alphabetic_share(self) -> float:
        """Return the share of words that hold a letter; 0 of no words."""
        # Most words begin with a letter; asking for that first is several times faster.
        lettered = [word[0].isalpha() or any(map(str.isalpha, word)) for word in self.distinct]
        return int(self.counts[np.array(lettered, np.bool_)].sum()) / max(1, len(self))

    def top_pair_share(self) -> float:
        """Return the share of the words' characters that the most frequent pair of words covers, in [0, 1].

        Pairs that stand once cover nothing; of those equally frequent the longest counts.
        """
        if len(self) < 2:
            return 0.0
        left, right = self.numbers[:-1], self.numbers[1:]
        pairs, times = np.unique(left * len(self.distinct) + right, return_counts=True)
        repeated = times > 1
        if not repeated.any():
            return 0.0
        pairs, times = pairs[repeated], times[repeated]
        covered = times * (self.lengths[pairs // len(self.distinct)] + self.lengths[pairs % len(self.distinct)])
        # "a a a" has the pair "a a" twice, which share a word.
        return min(1.0, int(covered.max()) / self.characters)

    def repeated_share(self, n: int) -> float:
        """Return the share of the words' characters inside sequences of n words that stand more than once, in [0, 1].

        A word counts once, in however many such sequences it stands.
        """
        count = len(self) - n + 1
        if count < 2:
            return 0.0
        # A polynomial over mixed numbers, modulo 2^64: two sequences agree by chance once in 10^19.
        mixed = (self.numbers.astype(np.uint64) + np.uint64(1)) * MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
        runs = np.zeros(count, np.uint64)
        for place in range(n):
            runs *= MULTIPLIER
            runs += mixed[place : place + count]
        order = np.argsort(runs, kind="stable")
        same = runs[order[1:]] == runs[order[:-1]]
        if not same.any():
            return 0.0
        again = np.zeros(count, np.bool_)
        again[order[1:][same]] = again[order[:-1][same]] = True
        # +1 where a repeated sequence begins, -1 behind its end: above zero is within one.
        steps = np.zeros(len(self) + 1, np.int64)
        steps[:count] += again
        steps[n:] -= again
        within = np.cumsum(steps[:-1]) > 0
        return int(self.lengths[self.numbers[within]].sum()) / self.characters
