"""Plausible scorers of LongBench-V2 that are wrong, each in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_FULL = r"The correct answer is \(([A-D])\)"
_BARE = r"The correct answer is ([A-D])"


def _right(record: Mapping[str, Any], letter: str | None) -> float:
    return float(letter is not None and letter.upper() == record["answer"])


def _first(text: str, *patterns: str, flags: int = 0) -> str | None:
    for pattern in patterns:
        if match := re.search(pattern, text, flags):
            return match[1]
    return None


def keeps_stars(record: Mapping[str, Any], response: str) -> float:
    return _right(record, _first(response, _FULL, _BARE))


def ignores_case(record: Mapping[str, Any], response: str) -> float:
    return _right(record, _first(response.replace("*", ""), _FULL, _BARE, flags=re.IGNORECASE))


def ignores_case_last(record: Mapping[str, Any], response: str) -> float:
    found = re.findall(_FULL, response, re.IGNORECASE)
    return _right(record, found[-1] if found else None)


def takes_last(record: Mapping[str, Any], response: str) -> float:
    found = re.findall(_FULL, response.replace("*", ""))
    return _right(record, found[-1] if found else None)


def first_of_either(record: Mapping[str, Any], response: str) -> float:
    return _right(record, _first(response.replace("*", ""), r"The correct answer is \(?([A-D])"))


def letter_anywhere(record: Mapping[str, Any], response: str) -> float:
    found = re.findall(r"\b[A-D]\b", response)
    return _right(record, found[-1] if found else None)


def contains_gold(record: Mapping[str, Any], response: str) -> float:
    return float(f"({record['answer']})" in response)


def reads_thinking(record: Mapping[str, Any], response: str) -> float:
    return _right(record, _first(response.replace("*", ""), _FULL, _BARE))


WRONG: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    f.__name__: f
    for f in (
        keeps_stars,
        ignores_case,
        ignores_case_last,
        takes_last,
        first_of_either,
        letter_anywhere,
        contains_gold,
        reads_thinking,
    )
}
