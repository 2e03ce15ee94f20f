"""Relations of prose: their form, which are one, which are perhaps one, which run the other way, which are causal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from qwenlong.synthesis.names import fold, words

BE = frozenset({"is", "was", "are", "were", "be", "been", "being"})
HAVE = frozenset({"has", "have", "had"})
PREPOSITIONS = frozenset(
    {
        *("about", "above", "after", "against", "along", "among", "around", "as", "at", "before"),
        *("behind", "below", "beside", "between", "beyond", "by", "during", "for", "from", "in"),
        *("inside", "into", "near", "of", "off", "on", "onto", "out", "outside", "over"),
        *("past", "since", "through", "to", "toward", "towards", "under", "until", "up", "upon"),
        *("with", "within"),
    }
)
_FILLERS = frozenset({"the", "a", "an", "also", "then", "which", "who", "that"})
#: Statements of cause; the effect may stand at either end.
_CAUSES = re.compile(
    r"\b(?:caus(?:e|es|ed|ing)|led to|leads? to|leading to|results? in|resulted in|resulting in|due to|because of|"
    r"triggers?|triggered|brings? about|brought about|gives? rise to|gave rise to|contribut(?:e|es|ed) to|"
    r"(?:stems?|stemmed|arises?|arose|results?|resulted) from|provok(?:e|es|ed)|(?:is|was) responsible for)\b"
)
_TIMES = re.compile(
    r"\b(?:before|after|since|until|during|preced\w*|succeed\w*|follow(?:s|ed)(?: by)?|earlier|later than|"
    r"dates? (?:from|to)|dated|year|date|day|month|century)\b"
)


@lru_cache(maxsize=50_000)
def form(relation: str) -> tuple[str, ...]:
    """Return a relation's words for comparison: "was born in" and "born in" are one.

    Without a preposition a form of "to be" decides who acts ("founded", "was founded") and stays, as "be".
    """
    found = [fold(word) for word in words(relation)]
    kept = [word for word in found if word not in _FILLERS]
    bare = [word for word in kept if word not in BE and word not in HAVE]
    if not bare:
        return tuple(kept or found)
    passive = any(word in BE for word in kept) and not any(word in PREPOSITIONS for word in bare)
    return ("be", *bare) if passive else tuple(bare)


def function_words(one: tuple[str, ...]) -> tuple[str, ...]:
    """Return what tells directions and places apart: prepositions in their order, and a passive's "be"."""
    return tuple(word for word in one if word in PREPOSITIONS or word == "be")


def inverse(one: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the active form of a passive with its agent ("founded by": "founded"), None for all others."""
    return one[:-1] if len(one) > 1 and one[-1] == "by" else None


def causal(relations: Sequence[str]) -> bool:
    """Tell whether any wording of a relation states a cause."""
    return any(_CAUSES.search(" ".join(map(fold, words(relation)))) for relation in relations)


def temporal(relations: Sequence[str]) -> bool:
    """Tell whether any wording of a relation states an order or a time."""
    return any(_TIMES.search(" ".join(map(fold, words(relation)))) for relation in relations)


def cluster(
    ends: Mapping[tuple[str, ...], frozenset[tuple[str, str]]],
    same: float,
    doubt: float,
) -> tuple[dict[tuple[str, ...], tuple[str, ...]], dict[tuple[str, ...], frozenset[tuple[str, ...]]]]:
    """Return each form's cluster (named by its first form in order), and the forms that are perhaps the same.

    `ends` holds the pairs of nodes that each form links. Two forms are one when their prepositions agree and their
    embeddings are as similar as `same`; or as `doubt`, when the documents use both for two pairs of nodes at least. A
    cluster grows only while all of its forms agree with each other (complete linkage), the most similar pairs first.
    """
    import numpy as np

    from qwenlong.core.embeddings import embed

    forms = sorted(ends)
    place = {one: number for number, one in enumerate(forms)}
    rows = embed([" ".join(one) for one in forms]) if forms else np.zeros((0, 1), np.float32)
    near: dict[tuple[str, ...], set[tuple[str, ...]]] = {one: set() for one in forms}
    joins: dict[tuple[int, int], float] = {}
    for number, one in enumerate(forms):
        # One row at a time: relations are few beside names, but the whole square need not stand in memory.
        scores = rows[number + 1 :] @ rows[number]
        for other in (np.flatnonzero(scores >= min(doubt, same)) + number + 1).tolist():
            two, score = forms[other], float(scores[other - number - 1])
            near[one].add(two)
            near[two].add(one)
            shared = score >= same or len(ends[one] & ends[two]) >= 2
            if shared and function_words(one) == function_words(two):
                joins[number, other] = score
    members = {number: [number] for number in range(len(forms))}
    home = dict(zip(members, members, strict=True))
    for (one_, two_), _ in sorted(joins.items(), key=lambda item: (-round(item[1], 6), item[0])):
        left, right = sorted((home[one_], home[two_]))
        if left == right:
            continue
        if all((min(a, b), max(a, b)) in joins for a in members[left] for b in members[right]):
            members[left] += members.pop(right)
            for number in members[left]:
                home[number] = left
    return (
        {one: forms[home[place[one]]] for one in forms},
        {one: frozenset(others) for one, others in near.items()},
    )
