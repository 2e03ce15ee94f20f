"""What a cell's text means: a number with its mark, a period, or nothing. What is unclear is None, never a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

#: Spellings of "no value".
NULLS = frozenset({"", "-", "--", "–", "—", "n/a", "n.a.", "na", "nan", "null", "..", "...", "…", ".", "#n/a"})
#: Digits after the point, and before it, that the table of numbers holds exactly, halves included.
PLACES = 7
WHOLE = 18
#: Texts whose reading is remembered: tables repeat them.
CACHE = 1 << 15
_NUMBER = re.compile(
    r"(?P<open>\()?(?P<sign>[-+−])?(?P<money>US\$|[$€£¥]|(?:USD|EUR|GBP|JPY|CHF|INR) )?(?P<after>[-−])?"
    r"(?P<digits>[1-9]\d{0,2}(?:,\d{3})+|0|[1-9]\d*)(?P<point>\.\d+)?(?P<power>[eE][-+]?\d{1,2})?(?P<percent> ?%)?"
    r"(?P<close>\))?(?: ?(?P<note>\*{1,3}|[†‡§]|\[\w{1,2}\]))?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
_QUARTER = re.compile(r"(?P<year>(?:19|20)\d\d)[ -]?Q(?P<quarter>[1-4])|Q(?P<first>[1-4])[ -]?(?P<last>(?:19|20)\d\d)")
_MONTH = re.compile(r"(?P<month>[A-Z][a-z]{2,8})\.?[ -](?P<year>(?:19|20)?\d\d)")
_ISO = re.compile(r"(?P<year>(?:1[5-9]|20)\d\d)-(?P<month>0[1-9]|1[0-2])(?:-(?P<day>0[1-9]|[12]\d|3[01]))?")


@dataclass(frozen=True)
class Number:
    """A number as a cell states it; `mark` is "%" or the currency beside it, `brackets` that it stands in brackets."""

    value: Decimal
    mark: str = ""
    brackets: bool = False


@lru_cache(CACHE)
def null(text: str) -> bool:
    """Tell whether a cell says that there is no value."""
    return text.strip().casefold() in NULLS


@lru_cache(CACHE)
def number(text: str) -> Number | None:
    """Return the number of a cell; None for anything else, and for one that could be read in two ways.

    Numbers with a leading zero are codes; "1,23" and "1.234,5" leave open what the comma is; a raised digit may be
    a note or a power.
    """
    match = _NUMBER.fullmatch(text) if len(text) <= 48 else None
    if match is None or bool(match["open"]) != bool(match["close"]) or (match["sign"] and match["after"]):
        return None
    if match["open"] and (match["sign"] or match["after"]) or (match["percent"] and match["money"]):
        return None
    value = Decimal(match["digits"].replace(",", "") + (match["point"] or "") + (match["power"] or ""))
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > PLACES or value.adjusted() >= WHOLE:
        return None
    if match["open"] or (match["sign"] or match["after"] or "+") in "-−":
        value = -value
    return Number(value, "%" if match["percent"] else (match["money"] or "").strip(), bool(match["open"]))


@lru_cache(CACHE)
def period(text: str) -> tuple[str, int] | None:
    """Return the kind of a period ("year", "quarter", "month", "date") and its place in time; None for others.

    Two digits are a year of 1969 to 2068, as POSIX has it.
    """
    if _YEAR.fullmatch(text):
        return "year", int(text) * 10000
    if match := _QUARTER.fullmatch(text):
        return "quarter", int(match["year"] or match["last"]) * 10000 + 300 * int(match["quarter"] or match["first"])
    if match := _ISO.fullmatch(text):
        kind = "date" if match["day"] else "month"
        return kind, int(match["year"]) * 10000 + int(match["month"]) * 100 + int(match["day"] or 0)
    if (match := _MONTH.fullmatch(text)) and _is_month(match["month"]):
        year = int(match["year"])
        if len(match["year"]) == 2:
            year += 1900 if year >= 69 else 2000
        return "month", year * 10000 + 100 * (_MONTHS.index(match["month"][:3].lower()) + 1)
    return None


_NAMES = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september", "october"),
    *("november", "december"),
)


def _is_month(word: str) -> bool:
    lower = word.lower()
    return lower in _MONTHS or lower in _NAMES or lower == "sept"
