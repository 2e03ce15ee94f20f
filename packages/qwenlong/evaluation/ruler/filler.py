"""What lies between the needles: a refrain, or prose from a file or from documents."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from qwenlong.core.errors import DataError

#: Sentences of the refrain that stands for noise.
NOISE = (
    "Rain falls on the roof.",
    "The road goes over the hill.",
    "A bird sits on the fence.",
    "We walk a little further.",
    "Then it is evening again.",
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'“(])")


def noise(count: int) -> list[str]:
    """Return so many sentences of the refrain."""
    return [NOISE[number % len(NOISE)] for number in range(count)]


class Prose:
    """Sentences of real text, taken word by word from any place on; behind the last comes the first again."""

    def __init__(self, sentences: Sequence[str]) -> None:
        if not sentences:
            raise DataError("there is no prose to fill with; give --essays FILE or --documents FILE with text in it")
        self._sentences = [sentence.split() for sentence in sentences]
        self._ends = list(accumulate(len(words) for words in self._sentences))

    @property
    def n_sentences(self) -> int:
        """Sentences in all."""
        return len(self._sentences)

    def take(self, start: int, words: int) -> list[str]:
        """Return sentences from number `start` on that have so many words together, the last one cut."""
        before = self._ends[start - 1] if start else 0
        rounds, rest = divmod(before + words, self._ends[-1])
        last = bisect_right(self._ends, rest)
        found: list[str] = []
        for number in range(rounds + 1):
            stop = last if number == rounds else len(self._sentences)
            found += (" ".join(sentence) for sentence in self._sentences[start if number == 0 else 0 : stop])
        cut = rest - (self._ends[last - 1] if last else 0)
        if rounds == 0 and last == start:
            cut = words
        return [*found, " ".join(self._sentences[last][:cut])] if cut else found


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, white space squeezed."""
    return [part for part in _SENTENCE.split(" ".join(text.split())) if part]
