"""Plausible scorers of AIME that are wrong, each in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_BOX = r"\\boxed\{([^}]*)\}"


def _gold(record: Mapping[str, Any]) -> int:
    return int(record["answer"])


def _last(text: str, pattern: str) -> str | None:
    found = re.findall(pattern, text)
    return found[-1] if found else None


def _is(record: Mapping[str, Any], text: str | None) -> float:
    return float(text is not None and text.isdecimal() and int(text) == _gold(record))


def compares_text(record: Mapping[str, Any], response: str) -> float:
    found = _last(response, _BOX) or _last(response, r"answer is (.*?)\.?$")
    return float(found == record["answer"])


def only_boxed(record: Mapping[str, Any], response: str) -> float:
    return _is(record, _last(response, _BOX))


def first_boxed(record: Mapping[str, Any], response: str) -> float:
    found = re.search(_BOX, response)
    return _is(record, found[1] if found else None)


def last_number(record: Mapping[str, Any], response: str) -> float:
    return _is(record, _last(response, r"\d+"))


def first_number(record: Mapping[str, Any], response: str) -> float:
    found = re.search(r"\d+", response)
    return _is(record, found[0] if found else None)


def exact_number(record: Mapping[str, Any], response: str) -> float:
    found = _last(response, r"-?\d+(?:\.\d+)?")
    return float(found is not None and float(found) == _gold(record))


def drops_sign(record: Mapping[str, Any], response: str) -> float:
    return _is(record, (_last(response, _BOX) or "").lstrip("-"))


def last_three_digits(record: Mapping[str, Any], response: str) -> float:
    return _is(record, (_last(response, r"\d+") or "")[-3:])


def takes_nested(record: Mapping[str, Any], response: str) -> float:
    return _is(record, _last(_last(response, r"\\boxed\{(.*)\}") or "", r"\d+"))


def contains_gold(record: Mapping[str, Any], response: str) -> float:
    return float(str(_gold(record)) in response)


def reads_thinking(record: Mapping[str, Any], response: str) -> float:
    return _is(record, _last(response, _BOX))


WRONG: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    f.__name__: f
    for f in (
        compares_text,
        only_boxed,
        first_boxed,
        last_number,
        first_number,
        exact_number,
        drops_sign,
        last_three_digits,
        takes_nested,
        contains_gold,
        reads_thinking,
    )
}
