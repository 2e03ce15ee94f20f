"""Recall: sentences that the memory once held, or that passed by, found again by their words.

A rewrite loses what looked useless at the time. What is overwritten is kept here, sentence by sentence, and found by
BM25 (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework", eq. 3.15, with Lucene's idf that is never
negative) when question and plan speak of it. The store is bounded; no model is asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: Sentences kept. The one that says least about the question goes first.
CAPACITY = 1024
#: Sentences of one chunk that are kept at most, and their length in characters: a table without a full stop is none.
PER_CHUNK = 8
LONGEST = 1000
#: Sentences that may be found too long for what room is left.
_TRIES = 8
_K1, _B = 1.2, 0.75
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")
# Scripts without spaces are read by pairs of characters.
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]+|[^\W_぀-ヿ㐀-鿿가-힯]+")
_PAIRED = re.compile(r"[぀-ヿ㐀-鿿가-힯]")
#: Words of questions and plans that say nothing about the matter.
_STOP_WORDS = """
    a an and are as at be been but by did do does for from had has have he her his how i if in into is it its look
    me my no not of on or our she should so that the their them then there these they this to was we were what when
    where which who whom whose why will with would you your find next more about any also can section document
"""
_STOP = frozenset(_STOP_WORDS.split())


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text, without empty ones."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; Chinese, Japanese and Korean as pairs of characters."""
    found: list[str] = []
    for word in _WORD.findall(text.casefold()):
        if len(word) > 1 and _PAIRED.match(word):
            found += [word[n : n + 2] for n in range(len(word) - 1)]
        else:
            found.append(word)
    return found


def terms(text: str) -> frozenset[str]:
    """Return the words of a text that can tell sentences apart."""
    return frozenset(words(text)) - _STOP


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class _Entry:
    place: tuple[int, int]
    text: str
    counts: Counter[str]
    length: int


class Recall:
    """The sentences kept for one question; see the module."""

    def __init__(self, question: str, capacity: int = CAPACITY) -> None:
        self._asked = terms(question)
        self._capacity = capacity
        self._entries: dict[str, _Entry] = {}
        # Tokens of sentences that were chosen once, and what was selected last: most turns change nothing.
        self._sizes: dict[str, int] = {}
        self._changes = self._met = 0
        self._last: tuple[int, str, str, int] | None = None
        self._found = ""

    def __len__(self) -> int:
        return len(self._entries)

    def overwritten(self, old: str, new: str, chunk: int) -> None:
        """Keep the sentences of memory `old` that memory `new` has not; `chunk` is the section that replaced it."""
        now = _flat(new)
        self._keep((s for s in sentences(old) if _flat(s) not in now), chunk)

    def passed(self, section: str, plan: str, chunk: int) -> None:
        """Keep the sentences of a section that share most words with question and plan, at most PER_CHUNK."""
        wanted = self._asked | terms(plan)
        scored = []
        for number, sentence in enumerate(sentences(section)):
            low = sentence.casefold()
            # Most sentences share no word: that is seen without taking them apart.
            if len(sentence) <= LONGEST and any(term in low for term in wanted):
                shared = len(wanted.intersection(words(sentence)))
                if shared:
                    scored.append((-shared, number, sentence))
        best = sorted(sorted(scored)[:PER_CHUNK], key=lambda one: one[1])
        self._keep((sentence for _, _, sentence in best), chunk)

    def merge(self, others: Iterable[Recall]) -> None:
        """Take over the sentences of other stores, in their order."""
        for other in others:
            for key, entry in other._entries.items():
                self._entries.setdefault(key, entry)
        self._trim()

    def _keep(self, found: Iterable[str], chunk: int) -> None:
        more = False
        for sentence in found:
            key = _flat(sentence)
            if key not in self._entries:
                more = True
                seen = words(sentence)
                self._met += 1
                place = (chunk, self._met)
                self._entries[key] = _Entry(place, sentence, Counter(seen), len(seen))
        if more:
            self._trim()

    def _trim(self) -> None:
        self._changes += 1
        over = len(self._entries) - self._capacity
        if over > 0:
            by_worth = sorted(self._entries, key=lambda key: self._worth(self._entries[key]))
            for key in by_worth[:over]:
                self._sizes.pop(self._entries.pop(key).text, None)

    def _worth(self, entry: _Entry) -> tuple[int, tuple[int, int]]:
        # The older of two equals goes.
        return len(self._asked.intersection(entry.counts)), entry.place

    def select(self, query: str, memory: str, tokens: int, count: Callable[[str], int]) -> str:
        """Return the sentences that match `query` best and that `memory` lacks, one a line, in the order they were met.

        `count` gives the tokens of a text; the result has at most `tokens` of them, and is empty where nothing matches.
        """
        asked = (self._changes, query, memory, tokens)
        if asked != self._last:
            self._last, self._found = asked, self._select(query, memory, tokens, count)
        return self._found

    def _select(self, query: str, memory: str, tokens: int, count: Callable[[str], int]) -> str:
        now = _flat(memory)
        entries = [entry for key, entry in self._entries.items() if key not in now]
        scores = _bm25(self._asked | terms(query), entries)
        ranked = sorted(zip(scores, entries, strict=True), key=lambda one: (-one[0], one[1].place))
        chosen: list[_Entry] = []
        room, refused = tokens, 0
        for score, entry in ranked:
            # One long sentence must not shut out shorter ones behind it, but the search must end.
            if score <= 0 or refused == _TRIES:
                break
            # A line takes its tokens and one for the break.
            if entry.text not in self._sizes:
                self._sizes[entry.text] = count(entry.text)
            size = self._sizes[entry.text] + 1
            if size > room:
                refused += 1
            else:
                chosen.append(entry)
                room -= size
        while True:
            text = "\n".join(entry.text for entry in sorted(chosen, key=lambda one: one.place))
            # Joined lines can take more tokens than each: the last one chosen gives way.
            if not chosen or count(text) <= tokens:
                return text
            chosen.pop()


def _bm25(wanted: frozenset[str], entries: list[_Entry]) -> list[float]:
    n = len(entries)
    mean = sum(entry.length for entry in entries) / n if n else 1.0
    held = {term: sum(term in entry.counts for entry in entries) for term in wanted}
    idf = {term: math.log(1 + (n - df + 0.5) / (df + 0.5)) for term, df in held.items() if df}
    scores = []
    for entry in entries:
        norm = _K1 * (1 - _B + _B * entry.length / max(mean, 1.0))
        # Sorted: the sum of floats must not depend on the order of a set.
        hits = sorted(term for term in idf if term in entry.counts)
        scores.append(sum(idf[t] * entry.counts[t] * (_K1 + 1) / (entry.counts[t] + norm) for t in hits))
    return scores
