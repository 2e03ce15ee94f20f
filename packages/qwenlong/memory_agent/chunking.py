"""Cutting a document of any length into sections of at most so many tokens, on the natural borders of its text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import borders

#: Characters per token above which a stretch is cut without being counted, so that none has to be held whole.
_SURELY_LONG = 16
#: Characters that are counted together: enough for all cores, and their tokens take some tens of megabytes.
_COUNTED_TOGETHER = 1 << 18
#: Tokens of chunks that are counted together, at least two chunks.
_PACKED_TOGETHER = 1 << 17
#: A stretch of lines of at most so many tokens is kept whole where no line of it ends a sentence: a sentence may run
#: through all of them. More would leave chunks half empty on code and tables.
_RUNNING_ON = (64, 512)
#: Share of the budget above which such a stretch is cut, where that is between the two.
_RUNNING_ON_SHARE = 4
#: Longest piece of a word that is too long for a chunk, in characters, and as a share of the budget.
_SHREDS, _SHREDS_SHARE = 256, 16
#: Share of the budget that is left empty rather than tried, where tokens of joined text are fewer than their sum.
_MARGIN_SHARE = 64

#: A piece of text with its tokens, counted by itself.
Atom = tuple[str, int]


def split(text: str, tokenizer: Tokenizer, chunk_tokens: int) -> list[str]:
    """Return the chunks of `text`: `stream` for a text that is at hand."""
    return [chunk for chunk, _ in stream([text], tokenizer, chunk_tokens)]


def stream(pieces: Iterable[str], tokenizer: Tokenizer, chunk_tokens: int) -> Iterator[Atom]:
    """Cut a text that comes in pieces into chunks of at most `chunk_tokens` tokens; yield each with its exact count.

    A paragraph that fits a chunk is never cut. A longer one is cut at line ends and sentence ends; a sentence, or a
    line, only where it does not fit a chunk by itself: behind a comma, between words, then anywhere. Sentences of at
    most 64 tokens that run over several lines are kept whole too. The chunks joined give the text back, character for
    character; an empty text gives no chunk. How the text comes in pieces makes no difference.

    Holds a few chunks at a time; each token is counted twice, on all cores, hence time grows with the length.
    Raises UsageError when chunk_tokens cannot hold a single character.
    """
    if chunk_tokens < 1:
        raise UsageError(f"chunk_tokens = {chunk_tokens}: a chunk needs at least one token; raise it")
    cutter = _Cutter(tokenizer, chunk_tokens)
    return _packed(cutter, cutter.atoms(pieces))


class _Cutter:
    """Stretches of text as atoms: pieces that fit a chunk and are not cut any more."""

    def __init__(self, tokenizer: Tokenizer, budget: int) -> None:
        self.budget = budget
        self.count = tokenizer.count_batch
        low, high = _RUNNING_ON
        self._running_on = min(budget, max(low, min(high, budget // _RUNNING_ON_SHARE)))

    def atoms(self, pieces: Iterable[str]) -> Iterator[Atom]:
        """Yield the atoms of a text in order."""
        paragraphs: list[str] = []
        length = 0
        for text, whole in borders.stretches(pieces, _SURELY_LONG * self.budget):
            if whole and length <= _COUNTED_TOGETHER:
                paragraphs.append(text)
                length += len(text)
                continue
            yield from self._kept(paragraphs, 0)
            paragraphs, length = ([text], len(text)) if whole else ([], 0)
            if not whole:
                yield from self._finer(text, 0)
        yield from self._kept(paragraphs, 0)

    def _kept(self, parts: Sequence[str], level: int) -> Iterator[Atom]:
        """Yield the parts that a border of `level` made as atoms, or as those of a finer level."""
        counts = iter(self.count([part for part in parts if len(part) <= _SURELY_LONG * self.budget]))
        for part in parts:
            tokens = next(counts) if len(part) <= _SURELY_LONG * self.budget else self.budget + 1
            # The end of a line stays with it; what stands behind another line is text.
            one_line = level == 0 or level >= 4 or "\n" not in part.rstrip("\n")
            if tokens <= (self.budget if one_line else self._running_on):
                yield part, tokens
            else:
                yield from self._finer(part, level)

    def _finer(self, text: str, level: int) -> Iterator[Atom]:
        for finer in range(level + 1, len(borders.LEVELS)):
            parts = borders.LEVELS[finer](text)
            if len(parts) > 1:
                return self._kept(parts, finer)
        return self.shreds(text)

    def shreds(self, text: str) -> Iterator[Atom]:
        """Cut a text without borders anywhere. Raises UsageError for a character that is above the budget."""
        if len(text) == 1:
            raise UsageError(
                f"chunk_tokens = {self.budget} cannot hold the single character {text!r} of the document; raise it"
            )
        size = max(1, min(_SHREDS, self.budget // _SHREDS_SHARE, (len(text) + 1) // 2))
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        for part, tokens in zip(parts, self.count(parts), strict=True):
            if tokens <= self.budget:
                yield part, tokens
            else:
                yield from self.shreds(part)


def _packed(cutter: _Cutter, atoms: Iterator[Atom]) -> Iterator[Atom]:
    """Join neighbouring atoms while they fit; yield the chunks with their own counts."""
    budget = cutter.budget
    held: list[Atom] = []
    # Tokens of joined atoms need not add up: where they lately were more than the sum, less is joined, and more where
    # they were clearly less.
    surplus: deque[int] = deque(maxlen=8)
    ended, together = False, 1
    while True:
        total = sum(map(_worth, held))
        while not ended and total <= max(2 * budget, _PACKED_TOGETHER):
            atom = next(atoms, None)
            if atom is None:
                ended = True
            else:
                held.append(atom)
                total += _worth(atom)
        if not held:
            return
        if ended and budget < total <= 2 * budget:
            # The sum may be above the budget where the whole rest is not.
            rest = "".join(text for text, _ in held)
            (count,) = cutter.count([rest])
            if count <= budget:
                yield rest, count
                return
        reserve = max(surplus, default=0)
        if reserve < 0:
            reserve = min(0, reserve + budget // _MARGIN_SHARE)
        groups = list(islice(_groups(held, budget - min(reserve, budget // 2), ended), together))
        joined = ["".join(text for text, _ in group) for group, _ in groups]
        done = 0
        for (group, expected), chunk, count in zip(groups, joined, cutter.count(joined), strict=True):
            surplus.append(count - expected)
            if count > budget:
                group, chunk, count = _giving_way(group, count, cutter)
                yield chunk, count
                held = held[done + len(group) :]
                # What was counted behind it was in vain: fewer next time.
                together = max(1, together // 2)
                break
            yield chunk, count
            done += len(group)
        else:
            held = held[done:]
            together *= 2


def _worth(atom: Atom) -> int:
    """Return the tokens of an atom that others follow: a blank at its end becomes part of the next word's token."""
    text, tokens = atom
    return tokens - (text.endswith(" ") and tokens > 1)


def _groups(atoms: Sequence[Atom], room: int, ended: bool) -> Iterator[tuple[list[Atom], int]]:
    """Yield runs of atoms that should fit into `room` tokens, with what they should count.

    The last one, which may go on in atoms to come, only when the text has `ended`.
    """
    group: list[Atom] = []
    total = 0
    for text, tokens in atoms:
        if group and total + tokens > room:
            yield group, total
            group, total = [], 0
        group.append((text, tokens))
        total += _worth((text, tokens))
    if ended:
        yield group, total


def _giving_way(group: list[Atom], count: int, cutter: _Cutter) -> tuple[list[Atom], str, int]:
    """Return the longest beginning of a group found to fit, as atoms and as text, with its tokens."""
    kept = list(group)
    while count > cutter.budget:
        excess = count - cutter.budget
        # An atom alone always fits: it was counted so.
        while excess > 0 and len(kept) > 1:
            excess -= kept.pop()[1]
        chunk = "".join(text for text, _ in kept)
        (count,) = cutter.count([chunk])
    return kept, chunk, count
