"""Plausible wrong scorers of DocMath: what is easily written instead of the authors' rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
_ANSWER = re.compile(r"the answer is\s*:?\s*\**\(?(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def _last(response: str) -> str:
    found = _ANSWER.findall(response)
    return (found[-1] if found else "").strip().rstrip(".").rstrip("*)")


def _float(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("$", "").replace("%", ""))
    except ValueError:
        return None


def exact(record: Record, response: str) -> float:
    """Equality of the written number: no tolerance, no scale."""
    return float(_float(_last(response)) == float(record["ground_truth"]))


def relative(record: Record, response: str) -> float:
    """The tolerance alone: no slip of scale, no three decimals, the sign always counted."""
    value, gold = _float(_last(response)), float(record["ground_truth"])
    return float(value is not None and abs(value - gold) <= 0.0015 * abs(gold))


def any_number(record: Record, response: str) -> float:
    """Any number of the response may be the answer."""
    gold = float(record["ground_truth"])
    given = [_float(text) for text in _NUMBER.findall(response)]
    return float(any(value is not None and abs(value - gold) <= 0.0015 * abs(gold) for value in given))


def first_answer(record: Record, response: str) -> float:
    """The first answer sentence instead of the last."""
    found = re.search(r"the answer is \$?(-?[\d,.]+)", response.replace("*", ""), re.IGNORECASE)
    value = _float(found[1].rstrip(".")) if found else None
    gold = float(record["ground_truth"])
    return float(value is not None and abs(value - gold) <= 0.0015 * abs(gold))


def unread_is_zero(record: Record, response: str) -> float:
    """Text that says no number taken for the number 0."""
    return float((_float(_last(response)) or 0.0) == float(record["ground_truth"]))


SCORERS: dict[str, Callable[[Record, str], float]] = {
    "any_number": any_number,
    "exact": exact,
    "first_answer": first_answer,
    "relative": relative,
    "unread_is_zero": unread_is_zero,
}
