"""Plausible scorers of BFCL's memory category that are wrong, each in one point."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
_MARKS = re.compile(r"[,./\-_*^()]")


def _words(pattern: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(pattern)}\b", text) is not None


def substring(record: Record, response: str) -> float:
    """Anywhere in the text, also inside a word."""
    return float(any(_MARKS.sub("", g).lower() in _MARKS.sub("", response).lower() for g in record["ground_truth"]))


def exact(record: Record, response: str) -> float:
    """The answer and nothing else."""
    return float(any(_MARKS.sub("", g).lower() == _MARKS.sub("", response).lower() for g in record["ground_truth"]))


def marks_as_spaces(record: Record, response: str) -> float:
    """Marks part words instead of going."""
    text = " ".join(_MARKS.sub(" ", response).lower().split())
    return float(any(_words(" ".join(_MARKS.sub(" ", g).lower().split()), text) for g in record["ground_truth"]))


def with_marks(record: Record, response: str) -> float:
    """Whole words, but the marks stay."""
    return float(any(_words(g.lower(), response.lower()) for g in record["ground_truth"]))


def with_case(record: Record, response: str) -> float:
    """Whole words, case-sensitive."""
    return float(any(_words(_MARKS.sub("", g), _MARKS.sub("", response)) for g in record["ground_truth"]))


def first_gold(record: Record, response: str) -> float:
    """Only the first gold counts."""
    return float(_words(_MARKS.sub("", record["ground_truth"][0]).lower(), _MARKS.sub("", response).lower()))


def calls_too(record: Record, response: str) -> float:
    """The right words, also inside a tool call."""
    text = _MARKS.sub("", response).lower()
    return float(any(_words(_MARKS.sub("", g).lower(), text) for g in record["ground_truth"]))


WRONG: dict[str, Callable[[Record, str], float]] = {
    function.__name__: function
    for function in (substring, exact, marks_as_spaces, with_marks, with_case, first_gold, calls_too)
}
