r"""The integer that a response to an AIME problem answers: \boxed{}, or what follows "the answer is".

All take the text after the thinking, never raise, and are linear in it.
"""

from __future__ import annotations

import re
from collections import deque

from qwenlong.rewards.extract import last_boxed, marked, unwrap

LARGEST = 999

_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*+\{([^{}]*+)\}")
_NOISE = re.compile(r"[\s$*]++|\\[,;:! ()\[\]]|\\(?:left|right|quad|degree|circ)(?![a-zA-Z])|\^\{?\\circ\}?|°|\{\}")
#: One number of at most three digits that count, then a unit in letters at most.
_INTEGER = re.compile(r"(?P<sign>[-−–]?)0*+(?P<digits>\d{0,3})(?:\.0*+)?(?P<unit>[^\W\d]*+)[.。]?", re.ASCII)
_LEADING = re.compile(r"[\s$*(\\\[]*+(?P<number>[-−–]?\d++(?:,\d{3})*+(?:\.\d++)?)")
#: What makes a number in running text one of two answers, or part of a larger expression.
_GOES_ON = re.compile(
    r"[\s$*)\\\]]*+(?:(?:or|and|-|–|−)[\s$*(\\\[]*+\d|[/^+×·%\d]|(?:times|cdot|frac|pm|pi|sqrt|pmod|bmod)(?![a-zA-Z]))"
)

# The public scorer's: the first closing brace ends a box, and later boxes win.
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\{([^}]*+)\}")
_NUMBER = re.compile(r"-?\d++(?:\.\d++)?")
_SIGNED = re.compile(r"-?\d+")


def integer(text: str) -> int | None:
    """Return the integer from 0 to 999 that a short answer is: "025", "$25$", "m+n = 25", "25 minutes"; None else.

    "24.5", "1/2", "-25" and "24 or 25" are none.
    """
    if len(text) > 1000:
        return None
    text = _NOISE.sub("", _TEXT.sub(r"\1", text))
    match = _INTEGER.fullmatch(text.rpartition("=")[2])
    if match is None or match["sign"] or not re.search(r"\d", text.rpartition("=")[2]):
        return None
    return int(match["digits"] or "0")


def answered(text: str) -> int | None:
    r"""Return the integer of the last complete \boxed{}, without any that after the last "the answer is"; else None."""
    box = last_boxed(text)
    if box is not None:
        return integer(box)
    tail = marked(text)
    if tail is None:
        return None
    line = next((part.strip() for part in tail.splitlines() if part.strip("* \t")), "")
    whole = integer(unwrap(line))
    if whole is not None:
        return whole
    first = _LEADING.match(line)
    if first is None or _GOES_ON.match(line, first.end()):
        return None
    return integer(first["number"])


def public(text: str) -> int | None:
    r"""Return the integer that a public scorer of AIME (groq/openbench, `aime_scorer`) reads; None where it reads none.

    What the last \boxed{}, \fbox{} or \framebox{} holds up to the first closing brace, of that what follows the last
    comma; without any box the last number of the text. Of this the integer that it begins with, decimals cut off.
    """
    # A box without an end would be sought again from every later box.
    boxes = deque(_BOX.finditer(text, 0, text.rfind("}") + 1), maxlen=1)
    if boxes:
        found = boxes[0][1].rpartition(",")[2].strip()
    else:
        numbers = deque(_NUMBER.finditer(text), maxlen=1)
        if not numbers:
            return None
        found = numbers[0][0]
    match = _SIGNED.match(found)
    try:
        value = int(match[0]) if match else int(float(found))
    except (ValueError, OverflowError):
        return None
    return value if 0 <= value <= LARGEST else None
