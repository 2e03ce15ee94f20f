"""Answers of corpus_numerical, computed anew in plain Python from the question's own words."""

from __future__ import annotations

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
    """Read members and operation off the question and compute over all values of the documents shown."""
    _, axis, operation = sample.template.removesuffix("@1").split("_")
    answers: set[str] = set()
    for values, threshold in _readings(sample.question, axis, operation, shown):
        if any(len(found) != 1 for found in values.values()) or len({f[0][1] for f in values.values()}) != 1:
            continue
        numbers = {name: found[0][0] for name, found in values.items()}
        if len(set(numbers.values())) != len(numbers):
            continue
        ordered = sorted(numbers, key=lambda name: numbers[name])
        unit = next(iter(values.values()))[0][1]
        if operation not in ("max", "min") and unit not in sample.question:
            continue  # the number means nothing without its unit
        if operation == "difference" and list(numbers) != ordered[::-1]:
            continue  # "above" the other way round
        total = sum(numbers.values(), Decimal(0))
        if operation in ("max", "min"):
            answers.add(ordered[-1] if operation == "max" else ordered[0])
        elif operation == "count":
            answers.add(str(sum(value > threshold for value in numbers.values())))
        else:
            spread = numbers[ordered[-1]] - numbers[ordered[0]]
            results = {"sum": total, "mean": total / len(numbers), "difference": spread}
            answers.add(rounded(results[operation]))
    return answers


#: What a value is multiplied by in words.
_FACTORS = {"twice": Decimal(2), "three times": Decimal(3), "half": Decimal("0.5")}
#: What a slot of a question may hold; {name} and {entity} are replaced by known ones where they are known.
_SLOTS = {
    "name": "(?P<name>.+)",
    "entity": "(?P<entity>.+)",
    "members": "(?P<members>.+?)",
    "one": "(?P<one>.+)",
    "two": "(?P<two>.+?)",
    "threshold": r"(?P<threshold>-?[\d.]+).*\?",
    "unit": r"(?:, in [^?]+)?\?",
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
    "entity mean": r"What is the mean {name} of {members}{unit} Round.*",
    "year mean": r"What is the mean {name} of {entity} over {members}{unit} Round.*",
    "item mean": r"In {name} of {entity}, what is the mean of {members}{unit} Round.*",
    "entity difference": r"By how much is the {name} of {one} above that of {two}{unit}",
    "year difference": r"By how much was the {name} of {entity} higher in {one} than in {two}{unit}",
    "item difference": r"In {name} of {entity}, by how much is {one} above {two}{unit}",
}


def _readings(
    question: str, axis: str, operation: str, shown: View
) -> Iterator[tuple[dict[str, list[tuple[Decimal, str]]], Decimal]]:
    """Yield (values by member, threshold) for the ways in which the question can be read over what is known."""
    extreme = {"max": "highest", "min": "lowest"}.get(operation, "")
    form = _FORMS[f"{axis} {'extreme' if extreme else operation}"].replace("{extreme}", extreme)
    for labelled in {(label, period) for _, label, period in shown.numbers} if axis == "entity" else {("", "")}:
        label, period = labelled
        spoken = f"{label} in {period}" if period else label
        for owner in shown.entities if axis != "entity" else {""}:
            # Names that are known pin the slots, so that " of " inside a name does no harm.
            known = {"entity": re.escape(owner)} | ({"name": re.escape(spoken)} if axis == "entity" else {})
            pattern = form
            for slot, holds in (_SLOTS | known).items():
                pattern = pattern.replace(f"{{{slot}}}", holds)
            match = re.fullmatch(pattern, question)
            if match is None:
                continue
            groups = match.groupdict()
            keys: dict[str, tuple[str, str, str]]
            if axis == "entity":
                keys = {name: (name, label, period) for name, _, _ in shown.numbers}
            elif axis == "year":
                keys = {key[2]: key for key in shown.numbers if key[0] == owner and key[1] == groups["name"]}
            else:
                keys = _items(groups["name"], owner, shown)
            named = [groups["one"], groups["two"]] if "one" in groups else members(groups["members"], set(keys))
            if named and all(name in keys for name in named):
                yield {name: shown.numbers.get(keys[name], []) for name in named}, Decimal(groups.get("threshold") or 0)


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
        for other in shown.entities - {owner}:
            head = f"If the {spoken} of {owner} were "
            tail = f" what it is, which would have the higher one: {owner} or {other}?"
            if not (sample.question.startswith(head) and sample.question.endswith(tail)):
                continue
            found = [shown.numbers[owner, label, period], shown.numbers.get((other, label, period), [])]
            if any(len(values) != 1 for values in found) or found[0][0][1] != found[1][0][1]:
                continue
            factor = _FACTORS[sample.question[len(head) :].removesuffix(tail)]
            first, second = found[0][0][0] * factor, found[1][0][0]
            if first != second:
                answers.add(owner if first > second else other)
    return answers
