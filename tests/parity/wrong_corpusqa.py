"""Plausible scorers of CorpusQA that are wrong, each in one way; what they extract is judged as equal words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


def _words(value: Any) -> list[str]:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.findall(r"\w+(?:[.,]\w+)*", text.lower())


def _same(answer: str, record: Mapping[str, Any]) -> float:
    return float(sorted(_words(answer)) == sorted(_words(record["answer"])))


def _found(pattern: str, response: str, which: int, flags: int = 0) -> str:
    found = re.findall(pattern, response, flags)
    return found[which] if found else response


def last_answer(record: Mapping[str, Any], response: str) -> float:
    return _same(_found(r"The answer is: (.*)", response, -1), record)


def ignores_case(record: Mapping[str, Any], response: str) -> float:
    return _same(_found(r"the answer is: (.*)", response, 0, re.IGNORECASE), record)


def several_lines(record: Mapping[str, Any], response: str) -> float:
    return _same(_found(r"The answer is: (.*)", response, 0, re.DOTALL), record)


def needs_no_colon(record: Mapping[str, Any], response: str) -> float:
    return _same(_found(r"The answer is:?\s*(.*)", response, 0), record)


def only_marked(record: Mapping[str, Any], response: str) -> float:
    found = re.search(r"The answer is: (.*)", response)
    return _same(found[1], record) if found else 0.0


def an_empty_gold_matches(record: Mapping[str, Any], response: str) -> float:
    return float(" ".join(_words(record["answer"])) in " ".join(_words(_found(r"The answer is: (.*)", response, 0))))


def reads_the_thinking(record: Mapping[str, Any], response: str) -> float:
    return _same(_found(r"The answer is: (.*)", response, 0), record)


def gold_anywhere(record: Mapping[str, Any], response: str) -> float:
    return float(" ".join(_words(record["answer"])) in " ".join(_words(response)))


def order_counts(record: Mapping[str, Any], response: str) -> float:
    return float(_words(_found(r"The answer is: (.*)", response, 0)) == _words(record["answer"]))


SCORERS: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    scorer.__name__: scorer
    for scorer in (
        last_answer,
        ignores_case,
        several_lines,
        needs_no_colon,
        only_marked,
        an_empty_gold_matches,
        reads_the_thinking,
        gold_anywhere,
        order_counts,
    )
}
