"""Paths over countries, read off the question's words and followed over everything that the documents shown state.

A description that fits several countries gives all of them as answers, so that it is never taken for unambiguous. In
doubt a value fits: any number of it, both ends of a range.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal

from qwenlong.core.records import Sample
from qwenlong.synthesis.checker.numerical import members
from qwenlong.synthesis.checker.view import View

#: Combinations of values that are tried where members have several.
MAX_WAYS = 256
_POWERS = {"": 0, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_AMOUNT = r"(\d[\d,]*(?:\.\d+)?)(?: (thousand|million|billion|trillion)\b)?"


def _amount(digits: str, scale: str | None) -> Decimal:
    return Decimal(digits.replace(",", "")) * 10 ** _POWERS[scale or ""]


def fits(clue: str, value: str) -> bool | None:
    """Tell whether a value may be what a clue says of it; None for a clue that cannot be read."""
    exact = re.fullmatch(r"is (.+)", clue)
    if exact:
        return value.casefold() == exact[1].casefold()
    letter = re.fullmatch(r'begins with "([A-Z])"', clue)
    if letter:
        letters = [c for c in unicodedata.normalize("NFD", value) if c.isalpha()]
        return bool(letters) and letters[0].upper() == letter[1]
    years = [int(year) for year in re.findall(r"\b\d{4}\b", value)]
    decade = re.fullmatch(r"falls in the (\d{3})0s", clue)
    if decade:
        return any(year // 10 == int(decade[1]) for year in years)
    century = re.fullmatch(r"falls in the (\d\d)(?:st|th) century", clue)
    if century:
        return any(100 * (int(century[1]) - 1) <= year <= 100 * int(century[1]) for year in years)
    between = re.fullmatch(rf"lies between {_AMOUNT} and {_AMOUNT}(%.*| .+|)", clue)
    if between is None:
        return None
    low, high = _amount(between[1], between[2]), _amount(between[3], between[4])
    unit = between[5].strip()
    if not (value.startswith(("$", "-$")) if unit == "US dollars" else unit in value):
        return False
    found = re.finditer(rf"(?<![A-Za-z\d.,]){_AMOUNT}", value)
    return any(low <= _amount(match[1], match[2]) <= high for match in found)


def _described(text: str, shown: View) -> Iterator[set[str]]:
    """Yield the countries of a description "whose … and whose …", for each way to read it."""
    for label in {label for _, label, _ in shown.facts if text.startswith(f"whose {label} ")}:
        rest = text[len(f"whose {label} ") :]
        ends = [match.start() for match in re.finditer(" and whose ", rest)]
        for end in [*ends, len(rest)]:
            fitting = [(owner, fits(rest[:end], value)) for owner, name, value in shown.facts if name == label]
            if any(fit is None for _, fit in fitting):
                continue
            own = {owner for owner, fit in fitting if fit}
            if end == len(rest):
                yield own
            else:
                for others in _described(rest[end + len(" and ") :], shown):
                    yield own & others


def _places(text: str, shown: View) -> Iterator[set[str]]:
    """Yield the countries that a name or a description means, for each way to read it."""
    if not text.startswith("the country "):
        yield {text}
        return
    clue = text.removeprefix("the country ")
    yield from _described(clue, shown)
    for pattern in (
        rf"that has a border of between {_AMOUNT} and {_AMOUNT} km with (?P<other>.+)",
        r"that has a (?P<length>[\d,.]+) km border with (?P<other>.+)",
    ):
        match = re.fullmatch(pattern, clue)
        if match is None:
            continue
        exact = match.groupdict().get("length")
        low, high = (exact, exact) if exact else (match[1], match[3])
        ends = [_amount(low, None), _amount(high, None)]
        for around in _places(match["other"], shown):
            yield {name for name, other, length in _borders(shown) if other in around and ends[0] <= length <= ends[1]}


def _borders(shown: View) -> Iterator[tuple[str, str, Decimal]]:
    """Yield (one, other, km) of every border, from both sides."""
    for owner, neighbour, length in shown.borders:
        if length.endswith(" km"):
            kilometres = Decimal(length.removesuffix(" km").replace(",", ""))
            yield owner, neighbour, kilometres
            yield neighbour, owner, kilometres


def _values(owner: str, label: str, shown: View) -> set[str]:
    return {value for name, other, value in shown.facts if (name, other) == (owner, label)}


def _ambiguous(reached: set[str]) -> set[str]:
    """Return countries that a description should have told apart, as answers."""
    return reached if len(reached) > 1 else set()


def vague(sample: Sample, shown: View) -> set[str]:
    """A field of the country that a path of descriptions leads to."""
    answers: set[str] = set()
    for label in {label for _, label, _ in shown.facts}:
        head = f"What is the {label} of "
        if sample.question.startswith(head) and sample.question.endswith("?"):
            for reached in _places(sample.question[len(head) : -1], shown):
                answers |= _ambiguous(reached)
                answers |= {value for name in reached for value in _values(name, label, shown)}
    return answers


def _year(value: str) -> int | None:
    """Return the only number of three digits or more, if it is a year."""
    found = sorted(set(re.findall(r"\d\d\d+", value)))
    return int(found[0]) if len(found) == 1 and 1500 <= int(found[0]) < 2100 else None


def _dates(names: Sequence[str], label: str, shown: View) -> list[tuple[int, ...]]:
    """Return the members' years, for each way to take one of their values; none where one has no clear year."""
    years = [[_year(value) for value in sorted(_values(name, label, shown))] for name in names]
    if any(not found or None in found for found in years):
        return []
    return list(itertools.islice(itertools.product(*([y for y in found if y] for found in years)), MAX_WAYS))


def temporal_extreme(sample: Sample, shown: View) -> set[str]:
    """The country with the first or the last date."""
    answers = set()
    for label in {label for _, label, _ in shown.facts}:
        match = re.fullmatch(rf"Which has the (earliest|latest) {re.escape(label)}: (.+)\?", sample.question)
        if match is None:
            continue
        names = members(match[2], shown.entities) or []
        for years in _dates(names, label, shown) if names else ():
            best = min(years) if match[1] == "earliest" else max(years)
            answers |= {name for name, year in zip(names, years, strict=True) if year == best}
    return answers


def temporal_order(sample: Sample, shown: View) -> set[str]:
    """The countries by their dates."""
    match = re.fullmatch(r"In which order come (.+) by their (.+), the earliest first\?", sample.question)
    names = members(match[1], shown.entities) if match else None
    answers = set()
    for years in _dates(names, match[2], shown) if match and names else ():
        for order in itertools.permutations(zip(years, names or (), strict=True)):
            if all(one[0] <= two[0] for one, two in itertools.pairwise(order)):
                answers.add(", ".join(name for _, name in order))
    return answers


def temporal_years(sample: Sample, shown: View) -> set[str]:
    """The years by which one date comes before another."""
    answers = set()
    for label in {label for _, label, _ in shown.facts}:
        head = f"By how many calendar years is the {label} of "
        if not sample.question.startswith(head):
            continue
        first, _, second = sample.question[len(head) :].removesuffix("?").partition(" earlier than that of ")
        for one, two in itertools.product(_places(first, shown), _places(second, shown)):
            answers |= _ambiguous(one) | _ambiguous(two)
            for pair in itertools.product(one, two):
                answers |= {str(years[1] - years[0]) for years in _dates(pair, label, shown) if years[1] > years[0]}
    return answers


def hypothetical_border(sample: Sample, shown: View) -> set[str]:
    """A field of the neighbour with the longest border, one border left out."""
    match = re.fullmatch(
        r"Suppose (?P<one>.+) and (?P<lost>.+) no longer shared a border\. What is the (?P<label>.+) of the country "
        r"with which (?P=one) would then have its longest border\?",
        sample.question,
    )
    lengths: dict[str, list[Decimal]] = {}
    for one, other, length in _borders(shown) if match else ():
        if match and one == match["one"]:
            lengths.setdefault(other, []).append(length)
    # What is supposed to be gone must be there.
    if match is None or not lengths.pop(match["lost"], None) or not lengths:
        return set()
    least = max(min(found) for found in lengths.values())
    reached = {name for name, found in lengths.items() if max(found) >= least}
    return _ambiguous(reached) | {value for name in reached for value in _values(name, match["label"], shown)}


def hypothetical_field(sample: Sample, shown: View) -> set[str]:
    """A field of a neighbour, which may be the country whose field was changed."""
    match = re.fullmatch(
        r"Suppose the (?P<label>.+) of (?P<one>.+) were that of (?P<two>.+)\. What would then be the (?P=label) of "
        r"(?P<place>the country that has .+)\?",
        sample.question,
    )
    if match is None:
        return set()
    answers: set[str] = set()
    for reached in _places(match["place"], shown):
        answers |= _ambiguous(reached)
        for name in reached:
            answers |= _values(match["two"] if name == match["one"] else name, match["label"], shown)
    return answers


def causal_partner(sample: Sample, shown: View) -> set[str]:
    """The country whose list of partners has the largest share of the one that stops."""
    match = re.fullmatch(
        r"If (?P<partner>.+) no longer (?P<done>bought|sold) anything abroad, which would lose the larg(?:er|est) "
        r"share of its (?P<lost>exports|imports): (?P<members>.+)\?",
        sample.question,
    )
    if match is None or (match["done"] == "bought") != (match["lost"] == "exports"):
        return set()
    names = members(match["members"], shown.entities) or []
    label = f"{match['lost'].capitalize()} - partners"
    answers: set[str] = set()
    for partners in _places(match["partner"], shown):
        answers |= _ambiguous(partners)
        for partner in partners:
            listed = rf"(?:^|[,;] ?){re.escape(partner)} (\d+(?:\.\d+)?)%"
            shares = [
                [Decimal(share) for value in _values(name, label, shown) for share in re.findall(listed, value)]
                for name in names
            ]
            for way in itertools.islice(itertools.product(*shares), MAX_WAYS) if names else ():
                answers |= {name for name, share in zip(names, way, strict=True) if share == max(way)}
    return answers
