"""Plausible scorers of MMLU-Pro that are wrong, each in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_IS = r"answer is \(?([A-J])\)?"
_COLON = r"[aA]nswer:\s*([A-J])"
_LONE = r"\b[A-J]\b"


def _value(record: Mapping[str, Any], letter: str | None) -> float:
    return 1 / len(record["options"]) if letter is None else float(letter.upper() == record["answer"])


def _pick(response: str, colon: int | None = -1, is_: int = 0, lone: int | None = -1) -> str | None:
    """Take number `is_` of the first rule's letters, `colon` of the second's, `lone` of the third's; None: no rule."""
    if found := re.findall(_IS, response):
        return found[is_]
    if colon is not None and (found := re.findall(_COLON, response)):
        return found[colon]
    found = re.findall(_LONE, response) if lone is not None else []
    return found[lone] if found and lone is not None else None


def no_last_letter(record: Mapping[str, Any], response: str) -> float:
    return _value(record, _pick(response, lone=None))


def last_letter(record: Mapping[str, Any], response: str) -> float:
    found = re.findall(_LONE, response)
    return _value(record, found[-1] if found else None)


def last_is(record: Mapping[str, Any], response: str) -> float:
    return _value(record, _pick(response, is_=-1))


def first_colon(record: Mapping[str, Any], response: str) -> float:
    return _value(record, _pick(response, colon=0))


def last_colon(record: Mapping[str, Any], response: str) -> float:
    return _value(record, _pick(response, colon=-1))


def skips_article(record: Mapping[str, Any], response: str) -> float:
    return _value(record, _pick(re.sub(r"\b[AI] (?=[a-z])", "", response)))


def ignores_case(record: Mapping[str, Any], response: str) -> float:
    found = re.findall(_LONE, response, re.IGNORECASE)
    return _value(record, found[-1] if found else None)


def nothing_is_wrong(record: Mapping[str, Any], response: str) -> float:
    letter = _pick(response)
    return 0.0 if letter is None else _value(record, letter)


def reads_thinking(record: Mapping[str, Any], response: str) -> float:
    return _value(record, _pick(response))


WRONG: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    f.__name__: f
    for f in (
        no_last_letter,
        last_letter,
        last_is,
        first_colon,
        last_colon,
        skips_article,
        ignores_case,
        nothing_is_wrong,
        reads_thinking,
    )
}
