"""Repetition among questions: equal ones, nearly equal ones, and held-out ones that training repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenlong.core.records import Sample
from qwenlong.core.templates import full_question
from qwenlong.synthesis.decontaminate import NGRAM, Similar, ngrams, normalised

#: Jaccard similarity of the sets of words from which two questions count as near duplicates.
NEAR = 0.8


def repetition(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return how many questions (with options) repeat an earlier one, and how many are close to an earlier one.

    `near` counts equal ones, too; both are taken over all tasks together.
    """
    seen: set[str] = set()
    similar = Similar(NEAR)
    exact = near = 0
    for sample in samples:
        asked = full_question(sample)
        exact += normalised(asked) in seen
        near += similar.to(asked)
        seen.add(normalised(asked))
        similar.add(asked)
    return {"n": len(samples), "exact": exact, "near": near, "threshold": NEAR}


def leakage(training: Sequence[Sample], heldout: Sequence[Sample]) -> dict[str, Any]:
    """Return how many held-out questions equal a training question, resemble one, or share 13 words in a row with one.

    Shared runs count as they stand here, the templates' own words too: the generator drops a question only when the
    run holds what fills a slot.
    """
    seen: set[str] = set()
    runs: set[str] = set()
    similar = Similar(NEAR)
    for sample in training:
        asked = full_question(sample)
        seen.add(normalised(asked))
        runs |= ngrams(asked)
        similar.add(asked)
    questions = [full_question(sample) for sample in heldout]
    return {
        "n": len(questions),
        "exact": sum(normalised(asked) in seen for asked in questions),
        "near": sum(similar.to(asked) for asked in questions),
        "shared_run": sum(bool(ngrams(asked) & runs) for asked in questions),
        "run_words": NGRAM,
    }
