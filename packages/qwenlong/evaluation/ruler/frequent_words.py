"""Frequent words: coded words that follow a zeta distribution; the three most frequent are asked for."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from qwenlong.core import templates
from qwenlong.evaluation.ruler.draft import PROMPTS, Build, Draft
from qwenlong.evaluation.ruler.sources import Sources

#: What stands for the most frequent word: noise, as the question says.
NOISE = "..."
#: Sum of k**-2 over all k.
_ZETA_2 = math.pi**2 / 6
#: Words of the smallest text: 52 of noise, 13, 5 and 3 of the three words, 2 of the fourth.
_SMALLEST = 87


@dataclass(frozen=True)
class FrequentWords:
    """Letters of a coded word, and how many are asked for; the distribution's exponent is 2."""

    letters: int = 6
    asked: int = 3

    def builder(self, rng: Callable[[str], Random], sources: Sources, length: int) -> Build:
        """Return what builds the item; a unit is one word of the text, noise included."""
        random, vocabulary, known = rng("words"), dict[str, None](), list[str]()

        def word(rank: int) -> str:
            while len(vocabulary) <= rank:
                vocabulary["".join(random.choices(string.ascii_lowercase, k=self.letters))] = None
                known[:] = list(vocabulary)
            return known[rank]

        answer = tuple(word(rank) for rank in range(self.asked))
        lead = templates.fill("ruler_fwe_lead", {}, PROMPTS)
        question = templates.fill("ruler_fwe_question", {"count": self.asked}, PROMPTS)

        def build(size: int, padding: int) -> Draft:
            total = size + _SMALLEST
            drawn: list[str] = []
            for rank in range(math.isqrt(total)):
                count = int(total / ((rank + 1) ** 2 * _ZETA_2))
                if not count:
                    break
                drawn += [NOISE if rank == 0 else word(rank - 1)] * count
            rng("order").shuffle(drawn)
            context = " ".join(drawn)
            places = tuple(sorted(context.find(one) for one in answer))
            return Draft(lead, context, question, templates.fill("ruler_list", {}, PROMPTS), answer, places)

        return build
