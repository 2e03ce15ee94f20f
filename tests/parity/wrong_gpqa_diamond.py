"""Plausible scorers of GPQA-Diamond that are wrong, each in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from qwenlong.evaluation.benchmarks.gpqa_diamond import order

_COLON = r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?"


def _gold(record: Mapping[str, Any]) -> str:
    return "ABCD"[order(record["Record ID"], 0).index(0)]


def _number(record: Mapping[str, Any], response: str, pattern: str, number: int, upper: bool = False) -> float:
    found = re.findall(pattern, response)
    return float(bool(found) and (found[number].upper() if upper else found[number]) == _gold(record))


def ignores_case(record: Mapping[str, Any], response: str) -> float:
    return _number(record, response, _COLON, 0, upper=True)


def takes_last(record: Mapping[str, Any], response: str) -> float:
    return _number(record, response, _COLON, -1)


def letter_anywhere(record: Mapping[str, Any], response: str) -> float:
    return _number(record, response, r"\b[A-D]\b", -1)


def contains_gold(record: Mapping[str, Any], response: str) -> float:
    return float(_gold(record) in response)


def reads_thinking(record: Mapping[str, Any], response: str) -> float:
    return _number(record, response, _COLON, 0)


def no_colon(record: Mapping[str, Any], response: str) -> float:
    return _number(record, response, r"(?i)answer(?: is|:)\W*([A-D])\b", 0)


def right_is_a(record: Mapping[str, Any], response: str) -> float:
    """Takes the options in the order of the file."""
    found = re.findall(_COLON, response)
    return float(bool(found) and found[0] == "A")


WRONG: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    f.__name__: f
    for f in (ignores_case, takes_last, letter_anywhere, contains_gold, reads_thinking, no_colon, right_is_a)
}
