"""Obfuscation: a vaguer description of an entity that still fits it alone (SPEC section 2).

A number becomes a range or an order of magnitude, a date its decade or century, a name its initial. One or two such
clues describe an entity. They fit it alone over every document of the side; what is held against them is read
generously: any number of a value counts, and both ends of a range.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import combinations
from typing import Protocol

from qwenlong.synthesis import facts as facts_of
from qwenlong.synthesis import parse
from qwenlong.synthesis.facts import Facts
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.pool import Pool

#: Fields that name something by whose initial a country can be described.
INITIALS = (
    "Capital - name",
    "Nationality - adjective",
    "Country name - local short form",
    "Country name - former",
    "Elevation - highest point",
    "Ports - key ports",
    "Legislative branch - legislature name",
    "National anthem(s) - title",
)
#: Fields whose value is a date.
DATED = (
    "Independence",
    "Constitution - history",
    "National holiday",
    "Dependency status",
    "National anthem(s) - history",
    "Executive branch - most recent election date",
    "Executive branch - expected date of next election",
    "Legislative branch - most recent election date",
    "Legislative branch - expected date of next election",
)
#: Numbers that are no measure: addresses, telephone numbers, codes.
_NO_MEASURE = re.compile(r"Diplomatic|Internet country|coordinates|time difference|Climate")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?: (?:thousand|million|billion|trillion)\b)?")
#: Clues of one entity that are tried together, and combinations that are looked at.
MAX_CLUES = 14


class Clue(Protocol):
    """One vague property of a field's value."""

    @property
    def words(self) -> str:
        """What follows the field's name in the question."""

    def fits(self, value: str) -> bool:
        """Tell whether a value may have the property, in doubt yes."""


@dataclass(frozen=True)
class Between:
    """A number as a range."""

    low: Decimal
    high: Decimal
    unit: str

    @property
    def words(self) -> str:
        """The range with its unit."""
        return f"lies between {span(self.low, self.high, self.unit)}"

    def fits(self, value: str) -> bool:
        """Any number of the value within the range or on its ends."""
        return any(self.low <= number <= self.high for number in numbers(value))


@dataclass(frozen=True)
class Within:
    """A date as its decade or century."""

    first: int
    last: int

    @property
    def words(self) -> str:
        """The decade's or the century's name."""
        if self.last - self.first < 10:
            return f"falls in the {self.first}s"
        century = self.last // 100
        return f"falls in the {century}{'st' if century == 21 else 'th'} century"

    def fits(self, value: str) -> bool:
        """Any year of the value within it; of a century also the year 1800 that some count to the 19th."""
        return any(self.first <= int(year) <= self.last for year in re.findall(r"(?<!\d)\d{4}(?!\d)", value))


@dataclass(frozen=True)
class Initial:
    """A name as its first letter."""

    letter: str

    @property
    def words(self) -> str:
        """The letter in quotes."""
        return f'begins with "{self.letter}"'

    def fits(self, value: str) -> bool:
        """The first letter, accents left out."""
        return initial(value) == self.letter


@dataclass(frozen=True)
class Exactly:
    """The value itself: what stands where nothing is obfuscated."""

    value: str

    @property
    def words(self) -> str:
        """The value."""
        return f"is {self.value}"

    def fits(self, value: str) -> bool:
        """The same value, in any case of letters."""
        return value.casefold() == self.value.casefold()


@dataclass(frozen=True)
class Described:
    """A country by clues about its fields; `edges` are where they can be read."""

    clues: tuple[tuple[str, Clue], ...]
    edges: tuple[Edge, ...]

    @property
    def words(self) -> str:
        """The description, for "the country …"."""
        return " and ".join(f"whose {label} {clue.words}" for label, clue in self.clues)

    def referents(self, facts: Facts, shown: Collection[str] | None) -> set[str]:
        """Return whom all clues may fit over the documents shown, over the whole side for None."""
        return set.intersection(*(matching(facts, label, clue, shown) for label, clue in self.clues))


def matching(facts: Facts, label: str, clue: Clue, shown: Collection[str] | None) -> set[str]:
    """Return the entities that a clue may fit."""
    found = facts.by_label.get(label, ())
    return {fact.entity for fact in found if (shown is None or fact.document in shown) and clue.fits(fact.value)}


@lru_cache(maxsize=1 << 16)
def numbers(value: str) -> tuple[Decimal, ...]:
    """Return all numbers of a value, scale words applied."""
    found = []
    for match in _NUMBER.finditer(value):
        digits, _, scale = match.group().partition(" ")
        found.append(Decimal(digits.replace(",", "")) * _SCALES.get(scale, 1))
    return tuple(found)


def initial(value: str) -> str:
    """Return the first letter of a value without its accent, as a capital; "" for none."""
    plain = unicodedata.normalize("NFKD", value)
    return next((letter.upper() for letter in plain if letter.isalpha()), "")


def span(low: Decimal, high: Decimal, unit: str) -> str:
    """Return "300 and 400 km", "50 million and 60 million", "10 and 20%"."""
    return f"{spoken(low)} and {spoken(high)}{unit if unit.startswith('%') or not unit else f' {unit}'}"


def spoken(number: Decimal) -> str:
    """Return a number with its scale word from a million on."""
    for word in ("trillion", "billion", "million"):
        if number >= _SCALES[word]:
            return f"{(number / _SCALES[word]).normalize():f} {word}"
    return f"{number.normalize():,f}"


def ranges(number: Decimal) -> list[tuple[Decimal, Decimal]]:
    """Return ranges that hold a positive number inside: its order of magnitude, then its leading digit's step."""
    power = Decimal(10) ** number.adjusted()
    digit = int(number / power)
    found = [(power, power * 10), (power * digit, power * (digit + 1))]
    return [(low, high) for low, high in found if low < number < high]


@lru_cache(maxsize=1 << 16)
def clues(label: str, value: str) -> tuple[Clue, ...]:
    """Return the vague properties of a field's value, the vaguest first; none for a value that reads in two ways."""
    quantity = parse.quantity(value)
    if label in DATED:
        year = year_of(value)
        return () if year is None else tuple(_times(year))
    if quantity is not None and not _NO_MEASURE.search(label):
        amounts = numbers(value)
        unit = re.sub(r"^(?:thousand|million|billion|trillion)\b ?", "", quantity.unit)
        if len(amounts) == 1 and quantity.value > 0 and "less than" not in unit:
            return tuple(Between(low, high, unit) for low, high in ranges(amounts[0]))
        return ()
    letter = initial(value)
    return (Initial(letter),) if label in INITIALS and letter.isascii() and letter else ()


def _times(year: int) -> Iterator[Clue]:
    """Yield a century and a decade. A year that both ends of a century claim gives none, "the 1900s" are no decade."""
    if year % 100:
        yield Within(year // 100 * 100, year // 100 * 100 + 100)
    if year % 100 >= 10:
        yield Within(year // 10 * 10, year // 10 * 10 + 9)


def year_of(value: str) -> int | None:
    """Return the one year (from 1500 to 2099) of a value; None when any other number of three digits stands there."""
    found = set(re.findall(r"\d{3,}", value))
    year = found.pop() if len(found) == 1 else ""
    return int(year) if re.fullmatch(r"1[5-9]\d\d|20\d\d", year) else None


def describe(
    pool: Pool, entity: str, edges: Sequence[Edge], randomness: random.Random, avoid: Collection[str] = ()
) -> Described | None:
    """Return a description, by one clue or two, that fits the entity alone on the side; None when there is none.

    `edges` are the entity's facts that may serve; fields of `avoid` stay out. One clue is tried before two, and the
    order within is random.
    """
    facts = facts_of.of(pool)
    usable = [
        (edge, clue)
        for edge in edges
        if edge.relation not in avoid
        for clue in clues(edge.relation, edge.target.removeprefix("value:"))
    ]
    randomness.shuffle(usable)
    # Kinds of clues take turns: most facts are numbers, and dates and names would hardly ever be asked.
    turns = Counter[str]()
    ranked = []
    for edge, clue in usable:
        ranked.append((turns[type(clue).__name__], edge, clue))
        turns[type(clue).__name__] += 1
    usable = [(edge, clue) for _, edge, clue in sorted(ranked, key=lambda item: item[0])]
    fits: list[tuple[Edge, Clue, set[str]]] = []
    for edge, clue in usable[:MAX_CLUES]:
        label = edge.relation
        both = pool.memo("fits", label, clue, make=lambda: matching(facts, label, clue, None))  # noqa: B023
        if both == {entity}:
            return Described(((label, clue),), (edge,))
        if entity in both:
            fits.append((edge, clue, both))
    for one, two in combinations(fits, 2):
        if one[0].relation != two[0].relation and one[2] & two[2] == {entity}:
            return Described(((one[0].relation, one[1]), (two[0].relation, two[1])), (one[0], two[0]))
    return None
