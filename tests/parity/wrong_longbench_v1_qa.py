"""Plausible scorers of LongBench-V1 QA that are wrong, each in one way."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def _words(text: str) -> list[str]:
    text = "".join(mark for mark in text.lower() if mark not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _f1(given: Sequence[str], gold: Sequence[str]) -> float:
    same = sum((Counter(given) & Counter(gold)).values())
    return 2 * same / (len(given) + len(gold)) if same else 0.0


def keeps_articles(record: Mapping[str, Any], response: str) -> float:
    def words(text: str) -> list[str]:
        return "".join(mark for mark in text.lower() if mark not in string.punctuation).split()

    return max(_f1(words(response), words(gold)) for gold in record["answers"])


def breaks_at_punctuation(record: Mapping[str, Any], response: str) -> float:
    def words(text: str) -> list[str]:
        return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]

    return max(_f1(words(response), words(gold)) for gold in record["answers"])


def first_gold_only(record: Mapping[str, Any], response: str) -> float:
    return _f1(_words(response), _words(record["answers"][0]))


def mean_over_golds(record: Mapping[str, Any], response: str) -> float:
    values = [_f1(_words(response), _words(gold)) for gold in record["answers"]]
    return sum(values) / len(values)


def counts_a_word_once(record: Mapping[str, Any], response: str) -> float:
    given = sorted(set(_words(response)))
    return max(_f1(given, sorted(set(_words(gold)))) for gold in record["answers"])


def exact_match(record: Mapping[str, Any], response: str) -> float:
    return max(float(_words(response) == _words(gold)) for gold in record["answers"])


def first_line(record: Mapping[str, Any], response: str) -> float:
    line = response.lstrip("\n").split("\n")[0]
    return max(_f1(_words(line), _words(gold)) for gold in record["answers"])


def reads_the_thinking(record: Mapping[str, Any], response: str) -> float:
    return max(_f1(_words(response), _words(gold)) for gold in record["answers"])


def recall(record: Mapping[str, Any], response: str) -> float:
    def one(gold: str) -> float:
        words = _words(gold)
        return sum((Counter(_words(response)) & Counter(words)).values()) / len(words) if words else 0.0

    return max(map(one, record["answers"]))


SCORERS: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    scorer.__name__: scorer
    for scorer in (
        keeps_articles,
        breaks_at_punctuation,
        first_gold_only,
        mean_over_golds,
        counts_a_word_once,
        exact_match,
        first_line,
        reads_the_thinking,
        recall,
    )
}
