"""Answers of corpus_numerical, computed anew in plain Python from the question's own words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal

from qwenlong.core.records import Sample
from qwenlong.synthesis.checker.view import View


def members(text: str, known: set[str]) -> list[str] | None:
    """Split "A, B or C" into names that are known; None when it cannot be read in exactly that way."""
    for last in (" or ", " and "):
        if last not in text:
            continue
        for match in re.finditer(re.escape(last), text):
            head, tail = text[: match.start()], text[match.end() :]
            names = head.split(", ")
            if tail in known and all(name in known for name in names):
                return [*names, tail]
            # Names may hold a comma themselves: join neighbours until they are known.
            joined = _joined(names, known)
            if tail in known and joined is not None:
                return [*joined, tail]
    return None


def _joined(parts: Sequence[str], known: set[str]) -> list[str] | None:
    if not parts:
        return []
    for size in range(1, len(parts) + 1):
        name = ", ".join(parts[:size])
        rest = _joined(parts[size:], known) if name in known else None
        if rest is not None:
            return [name, *rest]
    return None


def rounded(value: Decimal) -> str:
    """Return a number with at most two decimals, without trailing zeros."""
    text = f"{value.quantize(Decimal('0.01'), rounding=ROUND_HALF_UP):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def numerical(sample: Sample, shown: View) -> set[str]:
    """Read members and operation off the question and compute over all values of the documents shown.

    A member with several values gives an answer for each of them.
    """
    _, axis, operation = sample.template.partition("@")[0].split("_")
    answers: set[str] = set()
    for values, groups in _readings(sample.question, axis, operation, shown):
        ways = itertools.islice(itertools.product(*values.values()), MAX_WAYS)
        found = {answer for way in ways for answer in _result(operation, dict(zip(values, way, strict=True)), groups)}
        # A value that stands there twice, the same both times, is no second answer; no question is asked of it.
        if len(found) > 1 or all(len(members) == 1 for members in values.values()):
            answers |= found
    return answers


def member_counts(sample: Sample, shown: View) -> set[int]:
    """Return how many members the question names, by each way in which it can be read."""
    _, axis, operation = sample.template.partition("@")[0].split("_")
    return {len(values) for values, _ in _readings(sample.question, axis, operation, shown)}


def _result(operation: str, values: dict[str, tuple[Decimal, str]], groups: dict[str, str | None]) -> set[str]:
    """Return the answer over one value a member: none in several units or another than stated; several for a tie."""
    units = {unit for _, unit in values.values()}
    numbers = {name: number for name, (number, _) in values.items()}
    unit = units.pop()
    if units:
        return set()
    ordered = sorted(numbers.values())
    if operation in ("max", "min"):
        extreme = ordered[-1] if operation == "max" else ordered[0]
        best = {name for name, number in numbers.items() if number == extreme}
        return best if len(best) > 1 or len(set(ordered)) == len(ordered) else set()
    stated = (groups.get("scale") or "").strip()
    if len(set(ordered)) != len(ordered) or stated != unit:
        return set()  # the number means nothing without its unit
    if operation == "count":
        threshold = Decimal(groups["threshold"] or 0)
        return {str(sum(number > threshold for number in ordered))}
    if operation == "difference" and list(numbers.values()) != ordered[::-1]:
        return set()  # "above" the other way round
    total = sum(ordered, Decimal(0))
    results = {"sum": total, "mean": total / len(ordered), "difference": ordered[-1] - ordered[0]}
    return {rounded(results[operation])}


#: Ways to choose among several values of the members that are tried, at most.
MAX_WAYS = 256
#: What a value is multiplied by in words.
_FACTORS = {"twice": Decimal(2), "three times": Decimal(3), "half": Decimal("0.5")}
#: What a slot of a question may hold; {name} and {entity} are replaced by known ones where they are known.
_SLOTS = {
    "name": "(?P<name>.+)",
    "entity": "(?P<entity>.+)",
    "members": "(?P<members>.+?)",
    "one": "(?P<one>.+)",
    "two": "(?P<two>.+?)",
    "threshold": r"(?P<threshold>-?\d+(?:\.\d+)?)(?P<scale>|%.*| .*)\?",
    "unit": r"(?:, in (?P<scale>[^?]+))?\?",
}
#: Words of the questions.
_FORMS = {
    "entity extreme": r"Which has the {extreme} {name}: {members}\?",
    "year extreme": r"When was the {name} of {entity} {extreme}: {members}\?",
    "item extreme": r"Which {name} of {entity} is {extreme}: {members}\?",
    "entity count": r"How many of {members} have a {name} above {threshold}",
    "year count": r"In how many of {members} was the {name} of {entity} above {threshold}",
    "item count": r"In {name} of {entity}, how many of {members} are above {threshold}",
    "entity sum": r"What is the {name} of {members} together{unit}",
    "year sum": r"What is the {name} of {entity} in {members} together{unit}",
    "item sum": r"In {name} of {entity}, what do {members} add up to{unit}",
    "entity mean": r"What is the mean {name} of {members}{unit} Round to two decimals\.",
    "year mean": r"What is the mean {name} of {entity} over {members}{unit} Round to two decimals\.",
    "item mean": r"In {name} of {entity}, what is the mean of {members}{unit} Round to two decimals\.",
    "entity difference": r"By how much is the {name} of {one} above that of {two}{unit}",
    "year difference": r"By how much was the {name} of {entity} higher in {one} than in {two}{unit}",
    "item difference": r"In {name} of {entity}, by how much is {one} above {two}{unit}",
}


def _readings(
    question: str, axis: str, operation: str, shown: View
) -> Iterator[tuple[dict[str, list[tuple[Decimal, str]]], dict[str, str | None]]]:
    """Yield (values by member, what the slots hold) for the ways in which the question can be read over what is known.

    No member is without a value.
    """
    extreme = {"max": "highest", "min": "lowest"}.get(operation, "")
    form = _FORMS.get(f"{axis} {'extreme' if extreme else operation}", "").replace("{extreme}", extreme)
    for label, period in {(label, period) for _, label, period in shown.numbers} if axis == "entity" else {("", "")}:
        spoken = f"{label} in {period}" if period else label
        if spoken not in question:
            continue
        for owner in shown.entities if axis != "entity" else {""}:
            if owner not in question:
                continue
            # Names that are known pin the slots, so that " of " inside a name does no harm.
            known = {"entity": re.escape(owner)} | ({"name": re.escape(spoken)} if axis == "entity" else {})
            pattern = form
            for slot, holds in (_SLOTS | known).items():
                pattern = pattern.replace(f"{{{slot}}}", holds)
            match = re.fullmatch(pattern, question)
            if match is None:
                continue
            groups: dict[str, str | None] = match.groupdict()
            name = groups.get("name") or ""
            keys: dict[str, tuple[str, str, str]]
            if axis == "entity":
                keys = {key[0]: (key[0], label, period) for key in shown.numbers}
            elif axis == "year":
                keys = {key[2]: key for key in shown.numbers if key[0] == owner and key[1] == name}
            else:
                keys = _items(name, owner, shown)
            pair = [groups["one"] or "", groups["two"] or ""] if "one" in groups else None
            named = pair or members(groups["members"] or "", set(keys)) or [""]
            values = {member: shown.numbers.get(keys[member], []) for member in named if member in keys}
            if len(values) == len(named) and all(values.values()):
                yield values, groups


def _items(name: str, owner: str, shown: View) -> dict[str, tuple[str, str, str]]:
    """Return the siblings under a label by their last piece; "… in 2023" names a period."""
    keys = {}
    for key in shown.numbers:
        parent, _, item = key[1].rpartition(" - ")
        spoken = f"{parent} in {key[2]}" if key[2] else parent
        if key[0] == owner and item and spoken == name:
            keys[item] = key
    return keys


def changed_number(sample: Sample, shown: View) -> set[str]:
    """Whichever of two is higher in a field after one value is multiplied."""
    answers = set()
    for owner, label, period in shown.numbers:
        spoken = f"{label} in {period}" if period else label
        head = f"If the {spoken} of {owner} were "
        if not sample.question.startswith(head):
            continue
        for other in shown.entities - {owner}:
            tail = f" what it is, which would have the higher one: {owner} or {other}?"
            factor = _FACTORS.get(sample.question[len(head) :].removesuffix(tail))
            if factor is None or not sample.question.endswith(tail):
                continue
            ours, theirs = shown.numbers[owner, label, period], shown.numbers.get((other, label, period), [])
            found = {
                owner if one * factor > two else other
                for (one, unit), (two, scale) in itertools.product(ours, theirs)
                if unit == scale and one * factor != two
            }
            if len(found) > 1 or len(ours) == len(theirs) == 1:
                answers |= found
    return answers
