"""Answers to questions about tables, computed anew in Decimal from the tables of the documents shown."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from qwenlong.core.records import Sample
from qwenlong.synthesis.checker.grids import Table, is_period, tables
from qwenlong.synthesis.checker.view import View

_MISSING = {"", "-", "--", "–", "—", "n/a", "n.a.", "na", "nan", "null", "..", "...", "…", ".", "#n/a"}
_NAMES = r'"[^"]*"(?:(?:, | and )"[^"]*")*'
_PLACE = re.compile(
    rf'(?:In the table of "(?P<title>[^"]*)"'
    rf"|Over the tables of all documents that have the columns (?P<columns>{_NAMES})"
    rf'|Over the tables of all documents that have the row "(?P<row>[^"]*)" and the column "(?P<column>[^"]*)")'
    r", (?P<asked>.+)"
)
_ONE = r'whose "[^"]*" is (?:"[^"]*"|(?:above|below) -?[\d.]+(?: \(in [^()]+\))?)'
_ROWS = rf"(?:all rows|the rows (?P<where>{_ONE}(?: and {_ONE})*))"
_CONDITION = re.compile(r'whose "([^"]*)" is (?:"([^"]*)"|(above|below) (-?[\d.]+))')
_UNIT = r" \((?:in (?P<unit>[^()]+)|(?P<bare>no unit is stated))\)"
_V, _L = r'"(?P<value>[^"]*)"', r'"(?P<label>[^"]*)"'
_AB = r'"(?P<one>[^"]*)" %s "(?P<two>[^"]*)"'
_AMONG = rf"(?: among {_ROWS})?"
_ABOVE = r"above (?P<number>-?[\d.]+)"
_ROUND = r" Round to two decimals\."
_RANKS = {"second": 2, "third": 3, "fourth": 4}
_COUNTS = {"two": 2, "three": 3, "four": 4}
#: The questions about rows and columns of a table.
_FORMS = {
    "sum": rf"what is the total of {_V} over {_ROWS}{_UNIT}\?",
    "mean": rf"what is the mean of {_V} over {_ROWS}{_UNIT}\?{_ROUND}",
    "median": rf"what is the median of {_V} over {_ROWS}{_UNIT}\?",
    "maximum": rf"what is the largest {_V} among {_ROWS}{_UNIT}\?",
    "minimum": rf"what is the smallest {_V} among {_ROWS}{_UNIT}\?",
    "count": rf"how many of {_ROWS} have a {_V} above (?P<number>-?[\d.]+){_UNIT}\?",
    "highest": rf"which {_L} has the highest {_V} among {_ROWS}\?",
    "lowest": rf"which {_L} has the lowest {_V} among {_ROWS}\?",
    "rank": rf"which {_L} has the (?P<rank>\w+) highest {_V} among {_ROWS}\?",
    "top": rf"what do the (?P<top>\w+) highest {_V} among {_ROWS} add up to{_UNIT}\?",
    "group_sum": rf"which {_L} has the largest total of {_V} over {_ROWS}\?",
    "group_mean": rf"which {_L} has the largest mean of {_V} over {_ROWS}\?",
    "difference": rf"by how much is {_V} higher where {_L} is {_AB % 'than where it is'}{_AMONG}{_UNIT}\?",
    "ratio": rf"how many times as large is {_V} where {_L} is {_AB % 'as where it is'}{_AMONG}\?{_ROUND}",
    "share": rf'what share of the total of {_V} over {_ROWS} is that where {_L} is "(?P<one>[^"]*)", in %\?{_ROUND}',
    "change": rf"by how many percent did {_V} change from (?:{_L} )?{_AB % 'to'}{_AMONG}\?{_ROUND}",
    "first": rf"in which (?:{_L}|period) was {_V} {_ABOVE}{_UNIT} for the first time{_AMONG}\?",
    "between_sum": rf"what is the total of {_V} from (?:{_L} )?{_AB % 'to'}, both included{_AMONG}{_UNIT}\?",
    "between_mean": rf"what is the mean of {_V} from (?:{_L} )?{_AB % 'to'}, both included{_AMONG}{_UNIT}\?"
    rf"{_ROUND}",
}
#: Those about one row and one period in several documents.
_ACROSS = {
    "highest": rf'which document has the highest {_V} in "[^"]*"\? Answer with its title\.',
    "lowest": rf'which document has the lowest {_V} in "[^"]*"\? Answer with its title\.',
    "sum": rf'what is the total of {_V} in "[^"]*"{_UNIT}\?',
    "mean": rf'what is the mean of {_V} in "[^"]*"{_UNIT}\?{_ROUND}',
}
Pairs = list[tuple[str, Decimal]]


class Unclear(Exception):
    """The question has no one answer over the documents shown."""


@dataclass(frozen=True)
class Asked:
    """Labels with their values in the order of the table, and the question's slots."""

    pairs: Pairs
    slots: dict[str, str]


def tabular(sample: Sample, shown: View) -> set[str]:
    """Read tables and operation off the question, and compute; empty when it can be read in no or in two ways."""
    try:
        operation, asked = _asked(sample, shown)
        return _OPERATIONS[operation](asked)
    except Unclear:
        return set()


def members(sample: Sample, shown: View) -> int:
    """Return how many values the answer rests on, each a cell of evidence; 0 when the question cannot be read."""
    try:
        operation, asked = _asked(sample, shown)
        if operation.startswith("between"):
            return len(_included(asked))
        return 2 if operation == "change" else len(asked.pairs)
    except Unclear:
        return 0


def _asked(sample: Sample, shown: View) -> tuple[str, Asked]:
    place = _PLACE.fullmatch(sample.question)
    family, _, operation = sample.template.partition("@")[0].partition("_")
    forms = _ACROSS if family == "across" else _FORMS
    match = re.fullmatch(forms[operation], place["asked"]) if place else None
    if place is None or match is None:
        raise Unclear
    slots = {name: text for name, text in (match.groupdict() | place.groupdict()).items() if text is not None}
    if family in ("periods", "across"):
        return operation, Asked(_of_periods(slots, shown), slots)
    return operation, Asked(_of_rows(slots, shown, grouped=operation.startswith("group")), slots)


def _meant(slots: dict[str, str], shown: View, fits: Callable[[Table], bool]) -> list[Table]:
    """Return the tables that the question means: of the document named, or one a document."""
    documents = [d for d in shown.documents if "title" not in slots or d.title == slots["title"]]
    if "title" in slots and len(documents) != 1:
        raise Unclear
    found = []
    for document in documents:
        here = [table for table in tables(document) if fits(table)]
        if len(here) > 1:
            raise Unclear
        found += here
    titles = {table.document.title.casefold() for table in found}
    if not found or len(titles) < len(found) or ("title" not in slots and len(found) < 2):
        raise Unclear
    return found


def _of_periods(slots: dict[str, str], shown: View) -> Pairs:
    """Return (period, value) of a row, or (title, value) of a row and a period in several documents."""
    name = slots["value"]
    wanted = {slots[key] for key in ("column", "one", "two") if key in slots}
    tables_ = _meant(
        slots,
        shown,
        lambda t: t.periods and wanted <= set(t.head) and name.casefold() in {row[0].casefold() for row in t.rows},
    )
    pairs = []
    for table in tables_:
        rows = [row for row in table.rows if row[0].casefold() == name.casefold()]
        if len(rows) != 1:
            raise Unclear
        _check_unit(slots, table, [name], rows[0][1:])
        for period, text in zip(table.head[1:], rows[0][1:], strict=True):
            if "column" in slots and period != slots["column"]:
                continue
            # The statements write 0 where nothing was reported.
            value = _number(text)
            if value is None or (value == 0 and table.document.metadata.get("kind") == "finance"):
                raise Unclear
            pairs.append((table.document.title if "column" in slots else period, value))
    return pairs


def _of_rows(slots: dict[str, str], shown: View, grouped: bool) -> Pairs:
    """Return (label, value) of the rows for which all conditions hold."""
    conditions = _CONDITION.findall(slots.get("where", ""))
    used = [slots["value"], *([slots["label"]] if "label" in slots else []), *(name for name, *_ in conditions)]
    wanted = set(used) | set(re.findall(r'"([^"]*)"', slots.get("columns", "")))
    found = _meant(slots, shown, lambda table: wanted <= set(table.head))
    rows: list[tuple[str, ...]] = []
    pairs: Pairs = []
    members = {slots[key].casefold() for key in ("one", "two") if key in slots} if "two" in slots else set()
    series = "label" in slots and any(word in slots["asked"] for word in ("both included", "change from"))
    for table in found:
        if any(table.head.count(name) != 1 for name in used):
            raise Unclear
        column = {name: table.head.index(name) for name in used}
        _check_unit(slots, table, [slots["value"]], [row[column[slots["value"]]] for row in table.rows])
        for row in table.rows:
            if not all(_meets(row[column[name]], text, sign, number) for name, text, sign, number in conditions):
                continue
            label = row[column[slots["label"]]] if "label" in slots else ""
            # Two rows are compared whatever the others hold; a series is read from end to end.
            if members and "both included" not in slots["asked"] and label.casefold() not in members:
                continue
            value = _number(row[column[slots["value"]]])
            if value is None or ("label" in slots and label.casefold() in _MISSING):
                raise Unclear
            rows.append(row)
            pairs.append((label, value))
    labels = [label.casefold() for label, _ in pairs]
    if len(set(rows)) != len(rows) or ("label" in slots and not grouped and len(set(labels)) != len(labels)):
        raise Unclear
    if series and not all(is_period(label) for label, _ in pairs):
        raise Unclear
    return pairs


def _meets(text: str, wanted: str, sign: str, number: str) -> bool:
    if text.casefold() in _MISSING:
        raise Unclear
    if not sign:
        if text != wanted and text.casefold() == wanted.casefold():
            raise Unclear
        return text == wanted
    value = _number(text)
    if value is None:
        raise Unclear
    return value > Decimal(number) if sign == "above" else value < Decimal(number)


_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _number(text: str) -> Decimal | None:
    """Return the number of a cell without currency, percent sign or footnote mark; brackets are a minus."""
    bare = re.sub(r"(?<=[\d)%])\s?(?:\*{1,3}|[†‡§]|\[\w{1,2}\])$", "", text)
    negative = bare.startswith("(") and bare.endswith(")")
    bare = bare.strip("()") if negative else bare
    bare = re.sub(r"US\$|[$€£¥]|USD |EUR |GBP |JPY |CHF |INR | ?%$", "", bare).replace("−", "-")
    sign = -1 if negative or bare.startswith("-") else 1
    bare = bare.lstrip("+-")
    return sign * Decimal(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None


def _check_unit(slots: dict[str, str], table: Table, names: Sequence[str], cells: Sequence[str]) -> None:
    """Refuse a stated unit that the table does not state, and none where it states one."""
    said = " ".join([*names, *cells, table.around])
    if "unit" in slots and not all(word in said for word in slots["unit"].replace(", in ", " ").split()):
        raise Unclear
    marked = any(sign in cell for cell in cells for sign in "%$€£¥") or any("%" in name for name in names)
    if "bare" in slots and (marked or re.search(r"\bin (?:thousands|millions|billions)\b", table.around, re.I)):
        raise Unclear
    if len({sign for cell in cells for sign in re.findall("[%$€£¥]", cell)}) > 1:
        raise Unclear


def _text(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _two(value: Decimal) -> str:
    return _text(value.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))


def _values(asked: Asked, least: int = 2) -> list[Decimal]:
    values = [value for _, value in asked.pairs]
    if len(values) < least:
        raise Unclear
    return values


def _best(pairs: Pairs, highest: bool = True) -> set[str]:
    if not pairs:
        raise Unclear
    best = (max if highest else min)(value for _, value in pairs)
    return {label for label, value in pairs if value == best}


def _rank(asked: Asked) -> set[str]:
    ordered = sorted(_values(asked), reverse=True)
    wanted = _RANKS[asked.slots["rank"]]
    if len(ordered) < wanted:
        raise Unclear
    return {label for label, value in asked.pairs if value == ordered[wanted - 1]}


def _top(asked: Asked) -> set[str]:
    wanted = _COUNTS[asked.slots["top"]]
    ordered = sorted(_values(asked, wanted), reverse=True)
    return {_text(sum(ordered[:wanted], Decimal(0)))}


def _median(asked: Asked) -> set[str]:
    ordered = sorted(_values(asked))
    n = len(ordered)
    return {_text((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)}


def _mean(values: Sequence[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


def _group(asked: Asked, total: bool) -> set[str]:
    groups: dict[str, list[Decimal]] = defaultdict(list)
    for label, value in asked.pairs:
        groups[label].append(value)
    if len(groups) < 2 or len({label.casefold() for label in groups}) != len(groups):
        raise Unclear
    return _best([(label, sum(found, Decimal(0)) if total else _mean(found)) for label, found in groups.items()])


def _two_of(asked: Asked) -> tuple[Decimal, Decimal]:
    known = dict(asked.pairs)
    try:
        return known[asked.slots["one"]], known[asked.slots["two"]]
    except KeyError:
        raise Unclear from None


def _difference(asked: Asked) -> set[str]:
    one, two = _two_of(asked)
    return {_text(one - two)} if one > two else set()


def _ratio(asked: Asked) -> set[str]:
    one, two = _two_of(asked)
    return {_two(one / two)} if one > two > 0 else set()


def _change(asked: Asked) -> set[str]:
    one, two = _two_of(asked)
    return {_two((two - one) * 100 / one)} if one > 0 and two > 0 and one != two else set()


def _share(asked: Asked) -> set[str]:
    values, known = _values(asked), dict(asked.pairs)
    if asked.slots["one"] not in known or min(values) < 0 or sum(values) <= 0:
        raise Unclear
    return {_two(known[asked.slots["one"]] * 100 / sum(values))}


def _moment(text: str) -> tuple[int, int, int]:
    """Return (year, month, day) of a period; a quarter counts as its last month."""
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    word = re.match(r"[A-Za-z]{3,}", text)
    if word:
        year = numbers[0] if numbers[0] > 99 else numbers[0] + (1900 if numbers[0] >= 69 else 2000)
        return year, months.index(word[0][:3].lower()) + 1, 0
    if "q" in text.lower():
        year, quarter = sorted(numbers, reverse=True)
        return year, 3 * quarter, 0
    year, month, day = [*numbers, 0, 0][:3]
    return year, month, day


def _ordered(asked: Asked) -> list[tuple[str, Decimal]]:
    ordered = sorted(asked.pairs, key=lambda pair: _moment(pair[0]))
    if len({_moment(label) for label, _ in ordered}) != len(ordered):
        raise Unclear
    return ordered


def _first(asked: Asked) -> set[str]:
    above = [label for label, value in _ordered(asked) if value > Decimal(asked.slots["number"])]
    return set(above[:1])


def _included(asked: Asked) -> list[Decimal]:
    low, high = _moment(asked.slots["one"]), _moment(asked.slots["two"])
    labels = {label for label, _ in asked.pairs}
    if not {asked.slots["one"], asked.slots["two"]} <= labels:
        raise Unclear
    return [value for label, value in _ordered(asked) if low <= _moment(label) <= high]


def _between(asked: Asked, total: bool) -> set[str]:
    values = _included(asked)
    return {_text(sum(values, Decimal(0))) if total else _two(_mean(values))}


_OPERATIONS: dict[str, Callable[[Asked], set[str]]] = {
    "sum": lambda asked: {_text(sum(_values(asked), Decimal(0)))},
    "mean": lambda asked: {_two(_mean(_values(asked)))},
    "median": _median,
    "maximum": lambda asked: {_text(max(_values(asked)))},
    "minimum": lambda asked: {_text(min(_values(asked)))},
    "count": lambda asked: {str(sum(value > Decimal(asked.slots["number"]) for value in _values(asked)))},
    "highest": lambda asked: _best(asked.pairs),
    "lowest": lambda asked: _best(asked.pairs, highest=False),
    "rank": _rank,
    "top": _top,
    "group_sum": lambda asked: _group(asked, total=True),
    "group_mean": lambda asked: _group(asked, total=False),
    "difference": _difference,
    "ratio": _ratio,
    "share": _share,
    "change": _change,
    "first": _first,
    "between_sum": lambda asked: _between(asked, total=True),
    "between_mean": lambda asked: _between(asked, total=False),
}
#: Templates that are derived here, by name without version.
NAMES = (
    *(f"table_{operation}" for operation in _OPERATIONS),
    *(f"tables_{operation}" for operation in _OPERATIONS),
    *(
        f"{family}_{name}"
        for family in ("series", "periods")
        for name in ("change", "first", "between_sum", "between_mean")
    ),
    *(f"across_{name}" for name in _ACROSS),
)
