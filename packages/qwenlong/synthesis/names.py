"""What a name in prose is: a date, a number, a proper name or a common noun; and its form without case and titles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

Kind = Literal["date", "number", "name", "noun"]
#: Words of a name that tell nothing apart.
ARTICLES = frozenset({"the", "a", "an"})
TITLES = frozenset({"mr", "mrs", "ms", "miss", "dr", "prof", "professor", "sir", "dame"})
LEGAL = frozenset({"inc", "incorporated", "corp", "corporation", "ltd", "limited", "llc", "plc", "gmbh", "ag", "co"})
_SMALL = frozenset({"of", "and", "in", "on", "at", "for", "to", "by", "de", "von", "van", "la", "le", "du", "der"})
_ORDINALS = frozenset(
    {
        *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
        *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    }
)
_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\\.?"
)
_YEAR = r"(?P<year>1\d{3}|20\d{2})"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        _YEAR,
        rf"{_MONTH},? {_YEAR}",
        rf"\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},? {_YEAR}",
        rf"{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? {_YEAR}",
        rf"{_YEAR}-\d{{2}}-\d{{2}}",
    )
)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text as they are written."""
    return _WORD.findall(text)


@lru_cache(maxsize=200_000)
def fold(text: str) -> str:
    """Return a text in one case, without accents, with plain apostrophes."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.replace("’", "'").casefold()


@lru_cache(maxsize=200_000)
def form(name: str) -> tuple[str, ...]:
    """Return a name's words for comparison: one case, no accents, articles, titles, legal forms or genitives."""
    found = [fold(word) for word in words(name)]
    found = [word.removesuffix("'s") for word in found]
    kept = [word for word in found if word not in ARTICLES]
    while len(kept) > 1 and kept[0] in TITLES:
        kept = kept[1:]
    while len(kept) > 1 and kept[-1] in LEGAL:
        kept = kept[:-1]
    return tuple(kept or found)


def year_of(text: str) -> int | None:
    """Return the year of a date, None for what is no date."""
    for pattern in _DATES:
        match = pattern.fullmatch(" ".join(text.split()))
        if match:
            return int(match["year"])
    return None


def kind_of(text: str, common: Collection[str]) -> Kind:
    """Return what a name is; `common` holds the words that the documents write in lower case.

    A proper name has a word with a capital (or of a script without case) that never stands in lower case: "the Prime
    Minister" is nobody in particular where the documents also write of ministers.
    """
    if year_of(text) is not None:
        return "date"
    if re.match(r"[-+~]?[$€£¥]?\d", text.strip()):
        return "number"
    for word in words(text):
        first = word[0]
        folded = word.replace("’", "'").casefold().removesuffix("'s")
        proper = first.isalpha() and (first.isupper() or first.lower() == first.upper())
        if proper and folded not in ARTICLES and folded not in common:
            return "name"
    return "noun"


def initials(text: str) -> str | None:
    """Return the capital initials of a name of two or more words ("A. L."), None for others."""
    found = [word[0] for word in words(text) if word[0].isupper() and fold(word) not in ARTICLES | TITLES]
    return " ".join(f"{letter}." for letter in found) if len(found) >= 2 else None


def numerals(name: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a form that count: digits, Roman numerals, ordinals."""
    return tuple(w for w in name if re.search(r"\d", w) or re.fullmatch(r"[ivx]+", w) or w in _ORDINALS)


def compatible(one: tuple[str, ...], other: tuple[str, ...], common: Collection[str] = ()) -> bool:
    """Tell whether two forms may name one thing: the same words in another order, or middle words more.

    Numerals must be the same. "Ada King Lovelace" may be "Ada Lovelace"; "North Korea" is not "Korea", nor is "Arlow
    Bridge" "Arlow": first and last words decide what is meant. Nor is the Royal Geographical Society the Royal Society:
    with one of the `common` words in it a name is no person's, and each of its words counts.
    """
    if numerals(one) != numerals(other):
        return False
    small, large = sorted((one, other), key=len)
    if len(small) < 2:
        return False
    content = [sorted(word for word in name if word not in _SMALL) for name in (small, large)]
    if content[0] == content[1]:
        # A conjunction may stand between equals; "Bank of Orr" and "Orr Bank" are one, "X to Y" and "Y to X" are not.
        return not {"to", "from", "by"} & {*small, *large}
    if (small[0], small[-1]) != (large[0], large[-1]) or {*small, *large} & _SMALL:
        return False
    if any(word in common for word in large):
        return False
    rest = iter(large)
    return all(word in rest for word in small)


def doubtful(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Tell whether two forms are perhaps one thing: all words of one stand in the other, initials for names too."""
    small, large = sorted((set(one) - _SMALL, set(other) - _SMALL), key=len)
    return bool(small) and all(
        word in large or (len(word) == 1 and any(full.startswith(word) for full in large)) for word in small
    )
