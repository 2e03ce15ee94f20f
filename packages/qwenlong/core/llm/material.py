"""Text from elsewhere inside a prompt: fenced, unable to spell a verdict; and the verdict that a reply ends with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_DOUBLED = re.compile(r"(?<=\[)(?=\[)|(?<=\])(?=\])")
_VERDICT = re.compile(r"\W*\[\[(YES|NO)\]\]\W*")


def fence(texts: Sequence[str]) -> str:
    """Return a mark that none of the texts can hold, since it depends on all of them."""
    return "#" + hashlib.sha256("\x1f".join(texts).encode("utf-8", "replace")).hexdigest()[:12]


def unspelled(text: str) -> str:
    """Return a text that cannot spell a verdict such as [[YES]]."""
    return _DOUBLED.sub(" ", text)


def last_verdict(own: str) -> bool | None:
    """Return the verdict on the last non-empty line of a reply (without its thinking), None when there is none.

    The line must hold one verdict and nothing else: a quoted "[[YES]]" inside a sentence is no verdict.
    """
    lines = [line for line in own.splitlines() if line.strip()]
    match = _VERDICT.fullmatch(lines[-1]) if lines else None
    return None if match is None else match.group(1) == "YES"
