"""Questions that are the same, or share a long run of words, never stand on both sides of the split."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

#: Words in a row that make two questions count as contaminated.
NGRAM = 13


def normalised(text: str) -> str:
    """Return a text's words, lower-case, joined by single spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def ngrams(text: str, n: int = NGRAM) -> set[str]:
    """Return the runs of `n` words of a text."""
    words = normalised(text).split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


class Seen:
    """Questions that were taken; tells whether another one repeats or overlaps them."""

    def __init__(self) -> None:
        self._questions: set[str] = set()
        self._ngrams: set[str] = set()

    def add(self, question: str) -> None:
        """Take a question (with its options)."""
        self._questions.add(normalised(question))
        self._ngrams |= ngrams(question)

    def update(self, questions: Iterable[str]) -> None:
        """Take several questions."""
        for question in questions:
            self.add(question)

    def repeats(self, question: str) -> bool:
        """Tell whether the question was taken, word for word after normalisation."""
        return normalised(question) in self._questions

    def overlaps(self, question: str, specifics: Sequence[str] = ()) -> bool:
        """Tell whether the question repeats one, or shares NGRAM words in a row with one.

        With `specifics` (what fills the template's slots) a run counts only when it holds one of them, or lies in one.
        """
        shared = {f" {run} " for run in ngrams(question) & self._ngrams}
        names = [f" {normalised(name)} " for name in specifics]
        content = {run for run in shared if not names or any(name in run or run in name for name in names)}
        return self.repeats(question) or bool(content)


class Similar:
    """Questions that were taken; tells whether another one has nearly the same words.

    Similarity is Jaccard's, of the sets of words. The cost of a question grows with those taken that share one of its
    rarest words: a question whose rarest words are all new resembles none.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._sets: list[frozenset[str]] = []
        self._by_word: dict[str, list[int]] = {}

    def add(self, question: str) -> None:
        """Take a question (with its options)."""
        if self._threshold >= 1:
            return
        words = frozenset(normalised(question).split())
        for word in words:
            self._by_word.setdefault(word, []).append(len(self._sets))
        self._sets.append(words)

    def to(self, question: str) -> bool:
        """Tell whether a taken question's words overlap by the threshold or more; never at a threshold of 1."""
        words = frozenset(normalised(question).split())
        if self._threshold >= 1 or not words:
            return False
        # Sets that overlap by t share at least t * n of these n words, so any n - t * n + 1 of them hold a shared one.
        need = len(words) - math.ceil(self._threshold * len(words)) + 1
        rarest = sorted(words, key=lambda word: (len(self._by_word.get(word, ())), word))[:need]
        near = {number for word in rarest for number in self._by_word.get(word, ())}
        return any(_jaccard(words, self._sets[number]) >= self._threshold for number in near)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
