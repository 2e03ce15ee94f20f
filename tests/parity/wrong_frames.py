"""Plausible scorers of Frames that are wrong, each in one way."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any


def _plain(text: str) -> str:
    text = "".join(mark for mark in text.lower() if mark not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _either(given: str | None, gold: str) -> float:
    if given is None or not _plain(given):
        return 0.0
    return float(_plain(gold) in _plain(given) or _plain(given) in _plain(gold))


def _last(response: str) -> str | None:
    text = response.split("</think>")[-1].replace("*", "")
    return text.rsplit("the answer is", 1)[-1] if "the answer is" in text else None


def first_answer(record: Mapping[str, Any], response: str) -> float:
    found = re.search(r"the answer is(.*)", response.split("</think>")[-1].replace("*", ""), re.DOTALL)
    return _either(found[1] if found else None, record["Answer"])


def ignores_case(record: Mapping[str, Any], response: str) -> float:
    text = response.split("</think>")[-1].replace("*", "")
    found = re.split(r"the answer is", text, flags=re.IGNORECASE)
    return _either(found[-1] if len(found) > 1 else None, record["Answer"])


def whole_response(record: Mapping[str, Any], response: str) -> float:
    return _either(response.split("</think>")[-1], record["Answer"])


def whole_words(record: Mapping[str, Any], response: str) -> float:
    given, gold = (f" {_plain(text or '')} " for text in (_last(response), record["Answer"]))
    return float(bool(given.strip()) and (gold in given or given in gold))


def gold_in_answer_only(record: Mapping[str, Any], response: str) -> float:
    given = _last(response)
    return float(given is not None and _plain(record["Answer"]) in _plain(given))


def exact_match(record: Mapping[str, Any], response: str) -> float:
    given = _last(response)
    return float(given is not None and _plain(given) == _plain(record["Answer"]))


def keeps_punctuation(record: Mapping[str, Any], response: str) -> float:
    given = _last(response)
    if given is None:
        return 0.0
    one, two = given.lower().strip(), record["Answer"].lower().strip()
    return float(two in one or one in two)


def first_line(record: Mapping[str, Any], response: str) -> float:
    given = _last(response)
    return _either(None if given is None else given.split("\n")[0], record["Answer"])


def reads_the_thinking(record: Mapping[str, Any], response: str) -> float:
    text = response.replace("*", "")
    return _either(text.rsplit("the answer is", 1)[-1] if "the answer is" in text else None, record["Answer"])


def an_empty_side_matches(record: Mapping[str, Any], response: str) -> float:
    given, gold = _plain(_last(response) or ""), _plain(record["Answer"])
    return float(gold in given or given in gold)


SCORERS: dict[str, Callable[[Mapping[str, Any], str], float]] = {
    scorer.__name__: scorer
    for scorer in (
        first_answer,
        ignores_case,
        whole_response,
        whole_words,
        gold_in_answer_only,
        exact_match,
        keeps_punctuation,
        first_line,
        reads_the_thinking,
        an_empty_side_matches,
    )
}
