"""Is a model's success without documents more than guessing? Rules that the endpoint and the local model share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from qwenlong.core.records import Sample

#: Reward from which a response counts as right: a message may differ in a sign.
SOLVED = 0.9
#: Unseen answers that a template is taken to have besides those of its other samples, so that two samples that happen
#: to agree do not count as a rule.
PRIOR = 4
_LETTERS = "ABCDEFGHIJ"


def tail(right: int, tries: int, chance: float) -> float:
    """Return the probability of at least `right` successes in `tries` independent guesses.

    >>> round(tail(2, 2, 0.25), 4), tail(0, 5, 0.1)
    (0.0625, 1.0)
    """
    if right <= 0:
        return 1.0
    terms = (math.comb(tries, n) * chance**n * (1 - chance) ** (tries - n) for n in range(right, tries + 1))
    return min(1.0, math.fsum(terms))


def needed(tries: int, chance: float, alpha: float) -> int | None:
    """Return the fewest successes that guessing reaches with a probability of at most `alpha`; None: not even all.

    >>> needed(8, 0.25, 0.01), needed(4, 0.25, 0.01), needed(2, 0.25, 0.01), needed(2, 0.0, 0.01)
    (6, 4, None, 1)
    """
    return next((right for right in range(1, tries + 1) if tail(right, tries, chance) <= alpha), None)


def answered_blind(rewards: Sequence[float], chance: float, alpha: float) -> bool:
    """Tell whether tries without documents show more than guessing; where nothing can be guessed, one success does."""
    bar = needed(len(rewards), chance, alpha)
    return bar is not None and sum(reward >= SOLVED for reward in rewards) >= bar


def chances(samples: Sequence[Sample]) -> dict[str, float]:
    """Return by id how likely a guess without documents is right.

    With options, one of their number (`turned` keeps a model that always says one letter at that). Otherwise the share
    that the answer has among the other samples of its template, PRIOR unseen ones added: what a model can know that
    has seen the template's answers and nothing else.
    """
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[str] = Counter()
    for sample in samples:
        counts[sample.template, _bare(sample)] += 1
        sizes[sample.template] += 1
    return {
        sample.id: 1 / len(sample.choices)
        if sample.choices
        else (counts[sample.template, _bare(sample)] - 1) / (sizes[sample.template] - 1 + PRIOR)
        for sample in samples
    }


def turned(sample: Sample, by: int) -> Sample:
    """Return the sample with its options moved on by so many places, and the letter with them.

    Over as many tries as there are options the right one stands once at each place.
    """
    size = len(sample.choices)
    if not size or any(letter not in _LETTERS[:size] for letter in sample.answers):
        return sample
    choices = tuple(sample.choices[(place - by) % size] for place in range(size))
    answers = tuple(_LETTERS[(_LETTERS.index(letter) + by) % size] for letter in sample.answers)
    return sample.model_copy(update={"choices": choices, "answers": answers})


def _bare(sample: Sample) -> str:
    return sample.answers[0].removeprefix(sample.answer_prefix).strip().casefold()
