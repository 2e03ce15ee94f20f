"""Questions that are the same, or share a long run of words, never stand on both sides of the split."""

from __future__ import annotations

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
