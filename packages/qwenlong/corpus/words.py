"""Words of texts as 64-bit numbers, fast enough that a gibibyte of text takes minutes: the base of deduplication.

A text becomes an array of word hashes once; what follows (shingles, n-grams, signatures) is arithmetic on such arrays.
Words are looked up in a dictionary that remembers their hashes, since a corpus repeats its vocabulary: a look-up costs
a tenth of hashing the word anew.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
#: Multiplier of the polynomial over word hashes: odd, so that no word's bits are lost modulo 2^64.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
#: Characters tokenised at once. A list of words takes ten times the text, so a long document goes piece by piece.
PIECE = 1 << 20
#: Words whose hashes are remembered, about 50 MB a process.
VOCABULARY = 1 << 18

# Bytes from 128 on belong to characters that are word characters: the others were replaced before encoding.
_TABLE = bytes(
    n if n > 127 else ord(letter.lower()) if (letter := chr(n)).isalnum() or letter == "_" else 32 for n in range(256)
)
_TABLE_NO_UNDERSCORE = _TABLE[:95] + b" " + _TABLE[96:]
_NOT_WORD = re.compile(r"[^\w\x00-\x7f]+")
_SPACE = re.compile(r"\s")
# Scripts that are written without spaces: each character counts as a word.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
# Soft hyphens, zero-width characters and apostrophes stand within words and are not read.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff\u2018\u2019\u02bc]")


class _Memo(dict[bytes, int]):
    def __missing__(self, word: bytes) -> int:
        if len(self) >= VOCABULARY:
            self.clear()
        value = self[word] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
        return value


_MEMO = _Memo()


def plain(text: str) -> list[bytes]:
    r"""Return the words of a text, lower-case and in UTF-8: what the pattern `\w+` finds."""
    if not text.isascii():
        text = _NOT_WORD.sub(" ", text.lower())
    return text.encode().translate(_TABLE).split()


def folded(text: str) -> list[bytes]:
    """Return the words of a text with case, compatibility forms, apostrophes and invisible characters folded away.

    Underscores separate words as they do in markdown; every character of an unspaced script is a word.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()
        text = _NOT_WORD.sub(" ", _UNSPACED.sub(r" \1 ", text))
    return text.encode().translate(_TABLE_NO_UNDERSCORE, b"'").split()


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of about PIECE characters, cut at white space."""
    start = 0
    while len(text) - start > PIECE:
        cut = _SPACE.search(text, start + PIECE)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:] if start else text


def hashes(tokens: list[bytes]) -> Hashes:
    """Return the 64-bit hash of each word: the first 8 bytes of its BLAKE2b, the same on every machine."""
    return np.fromiter(map(_MEMO.__getitem__, tokens), np.uint64, len(tokens))


def text_hashes(text: str, tokens: Callable[[str], list[bytes]] = plain) -> Hashes:
    """Return the word hashes of one text; `tokens` says what a word is."""
    if len(text) <= PIECE:
        return hashes(tokens(text))
    return np.concatenate([hashes(tokens(piece)) for piece in pieces(text)])


def blocks(texts: Iterable[str], least: int, size: int = 1 << 16) -> Iterator[tuple[Hashes, NDArray[np.int64]]]:
    """Yield the word hashes of several texts in one array, with the position where each begins and the end.

    Texts of fewer than `least` words are filled up with a word that no text has, so that each has at least one run of
    `least` words and a short text equals no part of a longer one. A block ends with the text that brings it to `size`
    words: numpy's cost per call is shared by many short texts.
    """
    parts: list[Hashes] = []
    waiting: list[bytes] = []
    starts, total = [0], 0
    for text in texts:
        if len(text) <= PIECE:
            found = plain(text)
            found += _FILL[: max(0, least - len(found))]
            waiting += found
            total += len(found)
        else:
            if waiting:
                parts.append(hashes(waiting))
                waiting = []
            long = text_hashes(text)
            filled = np.concatenate([long, hashes(_FILL[: max(0, least - len(long))])])
            parts.append(filled)
            total += len(filled)
        starts.append(total)
        if total >= size:
            yield np.concatenate([*parts, hashes(waiting)]), np.array(starts)
            parts, waiting, starts, total = [], [], [0], 0
    if len(starts) > 1:
        yield np.concatenate([*parts, hashes(waiting)]), np.array(starts)


#: What a text of fewer words is filled up with; no word holds a space.
_FILL = [b" "] * 16


def runs(words: Hashes, length: int) -> Hashes:
    """Return the hashes of all runs of `length` words, max(0, n - length + 1) of them, in order.

    A run's hash is the polynomial of its word hashes modulo 2^64; the hashes of words are random enough that it needs
    no further mixing.
    """
    *_, found = run_lengths(words, length)
    return found


def run_lengths(words: Hashes, longest: int) -> Iterator[Hashes]:
    """Yield the hashes of all runs of 1, 2, … `longest` words; each array is valid until the next one is asked for."""
    run = words.copy()
    yield run
    for length in range(2, longest + 1):
        run = run[: max(0, len(words) - length + 1)]
        run *= MULTIPLIER
        run += words[length - 1 :]
        yield run
