"""Plausible wrong scorers of LongMemEval: what is done where no judge is at hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
_REFUSAL = re.compile(r"\b(?:do not|don't|didn't|did not|not enough|no information|never)\b", re.IGNORECASE)


def _plain(text: Any) -> str:
    return " ".join(re.findall(r"\w+", str(text).lower()))


def exact(record: Record, response: str) -> float:
    """The response is the expected answer."""
    return float(_plain(record["answer"]) == _plain(response))


def contains(record: Record, response: str) -> float:
    """The expected answer stands in the response."""
    return float(_plain(record["answer"]) in _plain(response))


def refusal_by_type(record: Record, response: str) -> float:
    """Abstention is taken for a question type, which no record has; all else by the words of the expected answer."""
    return (
        float(bool(_REFUSAL.search(response))) if record["question_type"] == "abstention" else exact(record, response)
    )


def any_refusal(record: Record, response: str) -> float:
    """A response that says it does not know is right for a question that cannot be answered, whatever else it says."""
    return float("_abs" in record["question_id"] and bool(_REFUSAL.search(response)))


SCORERS: dict[str, Callable[[Record, str], float]] = {
    "any_refusal": any_refusal,
    "contains": contains,
    "exact": exact,
    "refusal_by_type": refusal_by_type,
}
