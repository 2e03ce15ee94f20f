"""Scorers of RULER that look right and are not."""

from __future__ import annotations

import re
from typing import Any


def _share(record: dict[str, Any], found: list[bool]) -> float:
    return float(any(found)) if record["task"].startswith("qa") else sum(found) / len(found)


def case_sensitive(record: dict[str, Any], response: str) -> float:
    """Compare without folding case."""
    return _share(record, [output in response for output in record["outputs"]])


def whole_words(record: dict[str, Any], response: str) -> float:
    """Look for whole words only."""
    return _share(
        record, [bool(re.search(rf"\b{re.escape(o.lower())}\b", response.lower())) for o in record["outputs"]]
    )


def all_or_nothing(record: dict[str, Any], response: str) -> float:
    """Give nothing for a part of the outputs."""
    return float(all(output.lower() in response.lower() for output in record["outputs"]))


def any_is_enough(record: dict[str, Any], response: str) -> float:
    """Give everything for one of the outputs, as for questions."""
    return float(any(output.lower() in response.lower() for output in record["outputs"]))


def share_for_questions(record: dict[str, Any], response: str) -> float:
    """Give a question the share of its wordings, where one is enough."""
    return sum(output.lower() in response.lower() for output in record["outputs"]) / len(record["outputs"])


def exact(record: dict[str, Any], response: str) -> float:
    """Compare the whole response with the outputs in order."""
    return float(response.strip().lower() == ", ".join(record["outputs"]).lower())


def digits_only(record: dict[str, Any], response: str) -> float:
    """Drop commas from numbers first."""
    return _share(record, [o.lower() in response.replace(",", "").lower() for o in record["outputs"]])


def thinking_counts(record: dict[str, Any], response: str) -> float:
    """Look into the thinking as well."""
    return _share(record, [output.lower() in response.lower() for output in record["outputs"]])


SCORERS = {
    scorer.__name__: scorer
    for scorer in (
        case_sensitive,
        whole_words,
        all_or_nothing,
        any_is_enough,
        share_for_questions,
        exact,
        digits_only,
        thinking_counts,
    )
}
