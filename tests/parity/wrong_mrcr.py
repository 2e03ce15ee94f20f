"""Scorers of MRCR that look right and are not."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Any


def _parts(record: dict[str, Any], response: str) -> tuple[str, str] | None:
    prefix = record["random_string_to_prepend"]
    if not response.startswith(prefix):
        return None
    return response.removeprefix(prefix), record["answer"].removeprefix(prefix)


def without_autojunk(record: dict[str, Any], response: str) -> float:
    """Leave out difflib's heuristic for popular characters, which is on by default."""
    parts = _parts(record, response)
    return 0.0 if parts is None else SequenceMatcher(None, *parts, autojunk=False).ratio()


def arguments_swapped(record: dict[str, Any], response: str) -> float:
    """Compare answer with response, not response with answer; the ratio depends on the order."""
    parts = _parts(record, response)
    return 0.0 if parts is None else SequenceMatcher(None, parts[1], parts[0]).ratio()


def prefix_kept(record: dict[str, Any], response: str) -> float:
    """Forget to take the random string off before comparing."""
    if not response.startswith(record["random_string_to_prepend"]):
        return 0.0
    return SequenceMatcher(None, response, record["answer"]).ratio()


def prefix_not_needed(record: dict[str, Any], response: str) -> float:
    """Compare whatever the response begins with."""
    prefix = record["random_string_to_prepend"]
    return SequenceMatcher(None, response.removeprefix(prefix), record["answer"].removeprefix(prefix)).ratio()


def prefix_anywhere(record: dict[str, Any], response: str) -> float:
    """Take what follows the random string wherever it stands."""
    prefix = record["random_string_to_prepend"]
    _, found, rest = response.partition(prefix)
    return SequenceMatcher(None, rest, record["answer"].removeprefix(prefix)).ratio() if found else 0.0


def stripped(record: dict[str, Any], response: str) -> float:
    """Strip white space from both sides first."""
    parts = _parts(record, response.strip())
    return 0.0 if parts is None else SequenceMatcher(None, parts[0].strip(), parts[1].strip()).ratio()


def by_words(record: dict[str, Any], response: str) -> float:
    """Compare words, not characters."""
    parts = _parts(record, response)
    return 0.0 if parts is None else SequenceMatcher(None, parts[0].split(), parts[1].split()).ratio()


def thinking_kept(record: dict[str, Any], response: str) -> float:
    """Look for the random string behind an unfinished thinking block as well."""
    return prefix_not_needed(record, re.split(r"</?think>", response)[-1].lstrip())


SCORERS = {
    scorer.__name__: scorer
    for scorer in (
        without_autojunk,
        arguments_swapped,
        prefix_kept,
        prefix_not_needed,
        prefix_anywhere,
        stripped,
        by_words,
        thinking_kept,
    )
}
