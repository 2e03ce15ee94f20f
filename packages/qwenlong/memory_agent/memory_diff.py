"""What changed from one memory to the next: sentences and lines that stayed, went and came, words marked within."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

Change = Literal["same", "gone", "new"]
#: Sentences and lines; the border stays with what precedes it.
_UNIT = re.compile(r"[^\n.!?;。！？；]*(?:[.!?;。！？；]+[\"')\]]*\s*|\n+|$)")
_WORD = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")
#: Pairs of equal units (or words) on both sides above which a passage is taken as replaced as a whole: a comparison
#: goes over them again for every stretch that it finds. Two memories of a thousand sentences have about a thousand.
MAX_PAIRS = 4000


class Piece(NamedTuple):
    """A stretch of text that stayed, went or came."""

    change: Change
    text: str


def diff(old: str, new: str) -> list[Piece]:
    """Return how `old` becomes `new`: the pieces "same" and "gone" joined are `old`, "same" and "new" are `new`.

    Compared by sentences and lines; where some were replaced, by words. Above `MAX_PAIRS` a passage counts as
    replaced as a whole, so that any two texts take bounded time.
    """
    pieces: list[Piece] = []
    before, after = _units(old), _units(new)
    for tag, a, b, c, d in _opcodes(before, after):
        if tag == "equal":
            pieces.append(Piece("same", "".join(before[a:b])))
        else:
            pieces += _words("".join(before[a:b]), "".join(after[c:d]))
    return _joined(pieces)


def _units(text: str) -> list[str]:
    return [unit for unit in _UNIT.findall(text) if unit]


def _opcodes(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """Return difflib's steps; what both begin and end with is not compared."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    a, c = len(old) - tail, len(new) - tail
    middle = [("replace", head, a, head, c)] if a > head or c > head else []
    counts = Counter(old[head:a])
    if sum(counts[unit] for unit in new[head:c]) <= MAX_PAIRS:
        matcher = difflib.SequenceMatcher(None, old[head:a], new[head:c], autojunk=False)
        middle = [(tag, i + head, j + head, k + head, m + head) for tag, i, j, k, m in matcher.get_opcodes()]
    return [("equal", 0, head, 0, head), *middle, ("equal", a, len(old), c, len(new))]


def _words(old: str, new: str) -> list[Piece]:
    before, after = _WORD.findall(old), _WORD.findall(new)
    pieces: list[Piece] = []
    for tag, a, b, c, d in _opcodes(before, after):
        if tag == "equal":
            pieces.append(Piece("same", "".join(before[a:b])))
        else:
            pieces += [Piece("gone", "".join(before[a:b])), Piece("new", "".join(after[c:d]))]
    kept = sum(len(piece.text) for piece in pieces if piece.change == "same" and not piece.text.isspace())
    # Passages with little in common read better side by side than woven into each other.
    if 3 * kept < max(len(old), len(new)):
        return [Piece("gone", old), Piece("new", new)]
    return pieces


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        if not piece.text:
            continue
        if joined and joined[-1].change == piece.change:
            joined[-1] = Piece(piece.change, joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined


def shortened(pieces: Sequence[Piece], limit: int, around: int = 60) -> list[Piece]:
    """Return pieces for a page: of what stayed only the ends beside a change, in all about `limit` characters."""
    shown: list[Piece] = []
    left = limit
    for number, piece in enumerate(pieces):
        first, last = number == 0, number == len(pieces) - 1
        text = piece.text
        if piece.change == "same":
            text = clipped(text, 0 if first else around, 0 if last else around)
        elif len(text) > left:
            text = clipped(text, max(left, around), 0)
        if left <= 0:
            rest = sum(len(later.text) for later in pieces[number:] if later.change != "same")
            shown.append(Piece("same", f" […] {rest} more characters changed"))
            break
        left -= len(text)
        shown.append(Piece(piece.change, text))
    return shown


def clipped(text: str, head: int, tail: int) -> str:
    """Return the beginning and the end of a text, with a mark for what was left out between them."""
    if len(text) <= head + tail + 20:
        return text
    return f"{text[:head]} […] {text[len(text) - tail :]}" if tail else f"{text[:head]} […]"
