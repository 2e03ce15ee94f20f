"""Cutting a document into sections of at most so many tokens, on the natural borders of its text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer

# Borders from coarse to fine: paragraphs, lines, sentences, words. The border stays with what precedes it.
_BORDERS = tuple(
    re.compile(pattern)
    for pattern in (r"(?<=\n\n)(?!\n)", r"(?<=\n)(?!\n)", r"(?<=[.!?;:]\s)(?=\S)|(?<=[。！？；])", r"(?<=\s)(?=\S)")
)
#: Characters per token above which a piece is cut without being counted: a megabyte without a border costs too much.
_SURELY_LONG = 64


def split(text: str, tokenizer: Tokenizer, chunk_tokens: int) -> list[str]:
    """Cut `text` into chunks of at most `chunk_tokens` tokens each, counted exactly by `tokenizer`.

    A paragraph that fits a chunk is never cut; a longer one is cut at lines, then sentences, then words, then
    characters. The chunks joined give `text` back, character for character; an empty text gives no chunk.
    Raises UsageError when chunk_tokens cannot hold a single character.
    """
    if chunk_tokens < 1:
        raise UsageError(f"chunk_tokens = {chunk_tokens}: a chunk needs at least one token; raise it")
    pieces = _cut([text], tokenizer, chunk_tokens, 0) if text else []
    return _pack(pieces, tokenizer, chunk_tokens)


def _cut(pieces: Sequence[str], tokenizer: Tokenizer, budget: int, level: int) -> list[tuple[str, int]]:
    """Return pieces with their token counts, those above the budget replaced by finer ones."""
    counted = [piece for piece in pieces if len(piece) <= _SURELY_LONG * budget]
    counts = iter([len(ids) for ids in tokenizer.encode_batch(counted)] if counted else [])
    done: list[tuple[str, int]] = []
    for piece in pieces:
        count = next(counts) if len(piece) <= _SURELY_LONG * budget else budget + 1
        if count <= budget:
            done.append((piece, count))
        else:
            done += _cut(_finer(piece, level, budget), tokenizer, budget, min(level + 1, len(_BORDERS)))
    return done


def _finer(piece: str, level: int, budget: int) -> list[str]:
    if level < len(_BORDERS):
        return [part for part in _BORDERS[level].split(piece) if part]
    if len(piece) == 1:
        raise UsageError(
            f"chunk_tokens = {budget} cannot hold the single character {piece!r} of the document; raise it"
        )
    middle = len(piece) // 2
    return [piece[:middle], piece[middle:]]


def _pack(pieces: Sequence[tuple[str, int]], tokenizer: Tokenizer, budget: int) -> list[str]:
    """Join neighbouring pieces while they fit."""
    chunks: list[str] = []
    start = 0
    while start < len(pieces):
        end, total = start, 0
        while end < len(pieces) and total + pieces[end][1] <= budget:
            total += pieces[end][1]
            end += 1
        # Tokens of joined pieces need not add up: the joined text is counted again, and gives way where it must.
        chunk = "".join(piece for piece, _ in pieces[start:end])
        while end - start > 1 and tokenizer.count(chunk) > budget:
            end -= 1
            chunk = "".join(piece for piece, _ in pieces[start:end])
        chunks.append(chunk)
        start = end
    return chunks
