"""The official rule of BFCL's agentic categories: a gold as whole words in the last message that is no tool call."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.evaluation.bfcl import calls
from qwenlong.rewards.extract import after_thinking

#: Characters of a last message; a longer one recites the memory. Honest ones have an answer and a sentence about it.
MOST = 1000
#: Marks that the official rule takes out of both sides; white space stays.
_DROPPED = {ord(mark): None for mark in ",./-_*^()"}


def normalise(text: str) -> str:
    """Return the text as it is compared: without the marks, in lower case, with one kind of straight quotes."""
    return text.translate(_DROPPED).lower().replace("'", '"')


def found(message: str, golds: Sequence[str]) -> bool:
    """Tell whether any gold stands in the message with a word boundary on both sides. Linear in the message."""
    text = normalise(message)
    return any(re.search(rf"\b{re.escape(gold)}\b", text) for gold in map(normalise, golds) if gold)


def score(response: str, golds: Sequence[str]) -> dict[str, float]:
    """Return `official`, 1 or 0, and `bounded`, the same where the message has at most `MOST` characters, else 0.

    Unfinished thinking is no answer, and neither is a message that calls tools.
    """
    message = after_thinking(response)
    if not message or calls.parse(message):
        return {"official": 0.0, "bounded": 0.0}
    value = float(found(message, golds))
    return {"official": value, "bounded": value if len(message) <= MOST else 0.0}
