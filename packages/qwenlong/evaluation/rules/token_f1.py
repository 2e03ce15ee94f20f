"""Token F1 of LongBench-V1, to the last digit.

Its normalisation is not that of cover-EM: only ASCII punctuation goes, without leaving a border ("U.S." is "us", "3.5"
is "35"), articles go after it, and every other character stays.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> list[str]:
    """Return the words of a text: lower case, without ASCII punctuation and articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall over words, each counted as often as both have it."""
    same = sum((Counter(prediction) & Counter(gold)).values())
    if not same:
        return 0.0
    precision, recall = same / len(prediction), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def best_f1(prediction: str, golds: Sequence[str]) -> float:
    """Return the largest F1 of a prediction over the golds; 0 without any."""
    words = normalise(prediction)
    return max((token_f1(words, normalise(gold)) for gold in golds), default=0.0)
