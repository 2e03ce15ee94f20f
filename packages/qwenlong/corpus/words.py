"""Words of texts as 64-bit numbers, fast enough that a gibibyte of text takes minutes: the base of deduplication.

A text becomes an array of word hashes once; what follows (shingles, n-grams, signatures) is arithmetic on such arrays.
No word is ever an object of Python: bytes are mapped to lower-case words and spaces by a table, and all words are
hashed together, as differences of one running sum over the bytes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]
#: Multiplier of the polynomial over word hashes: odd, so that no word's bits are lost modulo 2^64.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
#: Bytes hashed at once, so that intermediate arrays stay in the cache; longer words are hashed one by one.
PIECE = 1 << 14
#: Bytes of text of one block of documents.
BLOCK = 1 << 19

# Bytes from 128 on belong to characters that are word characters: the others were replaced before encoding.
_TABLE = bytes(
    n if n > 127 else ord(letter.lower()) if (letter := chr(n)).isalnum() or letter == "_" else 32 for n in range(256)
)
_TABLE_NO_UNDERSCORE = _TABLE[:95] + b" " + _TABLE[96:]
_NOT_WORD = re.compile(r"[^\w\x00-\x7f]+")
# Scripts that are written without spaces: each character counts as a word.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
# Soft hyphens, zero-width characters and apostrophes stand within words and are not read.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff\u2018\u2019\u02bc]")


def _number(word: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")


# A word's hash is the sum of _BYTES[byte] * base^place over its bytes, modulo 2^64. The base is odd and so has an
# inverse, with which the place where the word begins in its piece is divided out.
_BYTES = np.array([_number(bytes([n])) for n in range(256)], np.uint64)
_BASE = 0xD1342543DE82EF97
_POWERS = np.cumprod(np.full(2 * PIECE, _BASE, np.uint64))
_INVERSES = np.cumprod(np.full(2 * PIECE, pow(_BASE, -1, 2**64), np.uint64))
#: What a text of too few words is filled up with: the hash of a space, which no word holds.
_FILL = np.uint64(_number(b" "))


def plain(text: str) -> bytes:
    r"""Return the words of a text in UTF-8, lower-case, with spaces between: what the pattern `\w+` finds."""
    if not text.isascii():
        text = _NOT_WORD.sub(" ", text.lower())
    return text.encode().translate(_TABLE)


def folded(text: str) -> bytes:
    """Return the words of a text with case, compatibility forms, apostrophes and invisible characters folded away.

    Underscores separate words as they do in markdown; every character of an unspaced script is a word.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()
        text = _NOT_WORD.sub(" ", _UNSPACED.sub(r" \1 ", text))
    return text.encode().translate(_TABLE_NO_UNDERSCORE, b"'")


def hashes(data: bytes) -> Hashes:
    """Return the 64-bit hash of each word of bytes that `plain` or `folded` gave, the same on every machine."""
    return located(data)[0]


def text_hashes(text: str, normalise: Callable[[str], bytes] = plain) -> Hashes:
    """Return the word hashes of one text; `normalise` says what a word is."""
    return hashes(normalise(text))


def located(data: bytes) -> tuple[Hashes, Positions]:
    """Return the hash of each word, and the byte at which it begins."""
    found, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    begin = 0
    while begin < len(data):
        middle = begin + PIECE
        end = data.find(b" ", middle) if middle < len(data) else len(data)
        end = len(data) if end < 0 else end
        # The word that crosses the middle: where it is long itself it is hashed alone, wherever pieces were cut.
        last = data.rfind(b" ", begin, middle) + 1 or begin
        if end - last >= PIECE:
            pieces = [_piece(data[begin:last])]
            pieces.append((np.array([_number(data[last:end])], np.uint64), np.array([last - begin])))
        else:
            pieces = [_piece(data[begin:end])]
        for values, starts in pieces:
            found.append(values)
            places.append(starts + begin)
        begin = end
    return np.concatenate(found), np.concatenate(places)


def _piece(data: bytes) -> tuple[Hashes, Positions]:
    count = len(data)
    if not count:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    letters = np.frombuffer(data, np.uint8)
    inside = letters != 32
    edges = np.empty(count + 1, np.bool_)
    edges[0], edges[count] = inside[0], inside[-1]
    np.not_equal(inside[1:], inside[:-1], out=edges[1:count])
    places = np.flatnonzero(edges)
    starts: Positions = places[::2]
    terms = _BYTES[letters]
    terms *= _POWERS[:count]
    sums = np.empty(count + 1, np.uint64)
    sums[0] = 0
    np.cumsum(terms, out=sums[1:])
    at = sums[places]
    values = np.asarray((at[1::2] - at[::2]) * _INVERSES[starts], np.uint64)
    # Mixed, so that a polynomial over words is no polynomial over their bytes.
    values ^= values >> np.uint64(32)
    values *= MULTIPLIER
    values ^= values >> np.uint64(29)
    return values, starts


def blocks(texts: Iterable[str], least: int) -> Iterator[tuple[Hashes, Positions]]:
    """Yield the word hashes of several texts in one array, with the position where each begins and the end.

    Texts of fewer than `least` words are filled up with a word that no text has, so that each has at least one run of
    `least` words and a short text equals no part of a longer one. A block ends with the text that brings it to BLOCK
    bytes: numpy's cost per call is shared by many short texts.
    """
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        waiting.append(plain(text))
        size += len(waiting[-1]) + 1
        if size >= BLOCK:
            yield _block(waiting, least)
            waiting, size = [], 0
    if waiting:
        yield _block(waiting, least)


def _block(parts: list[bytes], least: int) -> tuple[Hashes, Positions]:
    found, places = located(b" ".join(parts))
    offsets = np.cumsum([0, *(len(part) + 1 for part in parts)])
    starts = np.searchsorted(places, offsets)
    lacking = np.maximum(0, least - np.diff(starts))
    if lacking.any():
        found = np.insert(found, np.repeat(starts[1:], lacking), _FILL)
        starts = starts + np.concatenate([[0], np.cumsum(lacking)])
    return found, starts


def runs(words: Hashes, length: int) -> Hashes:
    """Return the hashes of all runs of `length` words, max(0, n - length + 1) of them, in order.

    A run's hash is the polynomial of its word hashes modulo 2^64.
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
