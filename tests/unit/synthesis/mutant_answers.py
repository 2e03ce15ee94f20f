"""Wrong answers for mutants: off by one, from the row beside, and documents that give a second answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.synthesis import parse

Documents = dict[str, Document]
LETTERS = "ABCD"
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_YEAR = re.compile(r"\b(1[5-9]\d\d|20\d\d)\b")


def off_by_one(text: str, chance: random.Random) -> str:
    """Return a text whose last number is one more or less in its last place; without a number, another last letter."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        place = max((m.start() for m in re.finditer(r"\w", text)), default=len(text) - 1)
        return f"{text[:place]}{'x' if text[place] != 'x' else 'y'}{text[place + 1 :]}"
    found = numbers[-1]
    whole, dot, decimals = found.group().replace(",", "").partition(".")
    value = int(whole + decimals)
    value += 1 if value == 0 else chance.choice([-1, 1])
    digits = str(value).rjust(len(decimals) + 1, "0")
    split = len(digits) - len(decimals)
    number = f"{int(digits[:split]):,}" if "," in found.group() else digits[:split]
    return f"{text[: found.start()]}{number}{dot}{digits[split:]}{text[found.end() :]}"


def neighbours(sample: Sample, documents: Documents) -> Iterator[str]:
    """Yield answers of the same form that stand beside the right one in the documents with evidence."""
    homes = [documents[span.document] for span in sample.evidence]
    name = sample.template
    if name.startswith("numerical_") and name.endswith(("max@1", "min@1")) or name.startswith(("earlier", "changed")):
        tail = sample.question.rstrip("?").rpartition(": ")[2]
        yield from re.split(r", | or ", tail)
    elif name.startswith("numerical_") and name.endswith("count@1"):
        yield str(int(sample.answers[0]) + 1)
    elif name.startswith("numerical_"):
        yield from (cell.text.split()[0].rstrip("%") for home in homes for cell in parse.cells(home))
    elif name.startswith("called"):
        yield from (str(d.metadata["path"]) for d in map(documents.get, sample.documents) if d and "path" in d.metadata)
    elif name.startswith("speaker@"):
        yield from (said.speaker.title() for home in homes for said in parse.speeches(home))
    elif name.startswith("parameter"):
        found = [said for d in homes for f in parse.functions(d) for said in parse.parameters(d, f)]
        yield from (re.split(r",? \(?optional|\(default|, default", said.text)[0].strip(" ,.") for said in found)
    elif name.startswith("gap"):
        yield from (match[1] for home in homes for match in re.finditer(r"[`*]([A-Za-z][\w .-]+)[`*]", home.text))
    elif name.startswith("common"):
        yield from (cell.item for home in homes for cell in parse.cells(home) if cell.item)
    else:
        for home in homes:
            yield from (said.text for said in (*parse.speeches(home), *parse.messages(home)))
            yield from (text for field in parse.fields(home) if (text := parse.answer_of(field.value, 8)))


def _copy(document: Document, text: str, **metadata: str) -> Document:
    return document.model_copy(
        update={"id": f"{document.id}/copy", "text": text, "metadata": document.metadata | metadata}
    )


def _replaced(document: Document, span: Evidence, old: str, new: str) -> Document | None:
    """Return a copy with the last `old` inside the span made `new`; None when the span does not hold it."""
    said = document.text[span.start : span.end]
    head, found, tail = said.rpartition(old)
    if not found:
        return None
    return _copy(document, document.text[: span.start] + head + new + tail + document.text[span.end :])


def second_answer(sample: Sample, documents: Documents, chance: random.Random) -> tuple[Sample, list[Document]] | None:
    """Add a copy of the evidence's document (both, where the answer needs both) that gives another answer."""
    name = sample.template.partition("@")[0]
    make = next((make for start, make in _SECOND if name.startswith(start)), _text)
    copies = make(sample, documents, chance)
    if not copies:
        return None
    shown = (*sample.documents, *(copy.id for copy in copies))
    return sample.model_copy(update={"documents": shown}), copies


def _last(sample: Sample, documents: Documents) -> tuple[Evidence, Document]:
    return sample.evidence[-1], documents[sample.evidence[-1].document]


def _text(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    """The answer's words, in the last span, are others: of multiple choice, another option's."""
    span, home = _last(sample, documents)
    gold = sample.answers[0].removeprefix(sample.answer_prefix).strip()
    other = f"{gold} indeed"
    if sample.task == "multiple_choice":
        gold = sample.choices[LETTERS.index(sample.answers[0])]
        other = chance.choice([choice for choice in sample.choices if choice != gold])
    copied = _replaced(home, span, gold, other)
    return [copied] if copied else []


def _speaker(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    span, home = _last(sample, documents)
    gold = sample.choices[LETTERS.index(sample.answers[0])] if sample.choices else sample.answers[0]
    others = [choice for choice in sample.choices if choice != gold] or ["Somebody"]
    said = home.text[span.start : span.end]
    name = next((line[:-1] for line in said.split("\n") if line[:-1].title() == gold), None)
    copied = _replaced(home, span, f"{name}.\n", f"{chance.choice(others).upper()}.\n") if name else None
    return [copied] if copied else []


def _country(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    _, home = _last(sample, documents)
    other = chance.choice(
        [choice for letter, choice in zip(LETTERS, sample.choices, strict=True) if letter not in sample.answers]
    )
    return [_copy(home, home.text, entity=other)]


def _file(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    """The called function is defined in another file too."""
    _, home = _last(sample, documents)
    return [_copy(home, home.text, path="another/place.py", parent="another/place")]


def _neighbour(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    copies = [_replaced(documents[s.document], s, sample.answers[0], "Borduria") for s in sample.evidence]
    return [copy for copy in copies if copy] if all(copies) else []


def _number(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    """One of the values is another, so that the result is."""
    operation = sample.template.partition("@")[0].rpartition("_")[2]
    cells = [_cell(documents[span.document], span, sample) for span in sample.evidence]
    if not all(cells):
        return []
    values = [cell.value for cell in cells if cell]
    place = chance.randrange(len(cells))
    value = max(values) * 10 + 7  # above every other and every threshold
    if operation in ("max", "count"):
        place = values.index(min(values))
    elif operation in ("min", "number"):
        # Below every other; of a changed number, far enough below that no factor makes it the higher one.
        place = values.index(max(values)) if operation == "min" else _winner(sample, [c.entity for c in cells if c])
        value = min(values) / 10 if operation == "number" else min(values) - abs(min(values)) / 2
    elif operation == "difference":
        place = values.index(max(values))
    cell = cells[place]
    assert cell is not None
    home = documents[cell.document]
    written = f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"
    if value < 0 or value == values[place] or (operation == "min" and value <= 0):
        return []
    number = _NUMBER.search(cell.text)
    assert number is not None
    copied = _replaced(home, Evidence(document=home.id, start=cell.start, end=cell.end), number.group(), written)
    return [copied] if copied and _NUMBER.search(written) else []


def _winner(sample: Sample, entities: Sequence[str]) -> int:
    return list(entities).index(sample.answers[0])


def _cell(document: Document, span: Evidence, sample: Sample) -> parse.Cell | None:
    """Return the number of a span; of a table's row the one in the column or year that the question names."""
    found = [cell for cell in parse.cells(document) if (cell.start, cell.end) == (span.start, span.end)]
    named = [cell for cell in found if cell.year in sample.question] if len(found) > 1 else found
    return named[0] if len(named) == 1 and named[0].value > 0 else None


def _year(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    """The later of two dates is the earlier one in the copy."""
    later = [s for s in sample.evidence if str(documents[s.document].metadata["entity"]) != sample.answers[0]]
    span = later[0]
    home = documents[span.document]
    years = _YEAR.findall(home.text[span.start : span.end])
    copied = _replaced(home, span, years[-1], "1501") if len(set(years)) == 1 else None
    return [copied] if copied else []


#: Who makes the second answer, by the beginning of the template's name; the rest have it in words.
def _called(sample: Sample, documents: Documents, chance: random.Random) -> list[Document]:
    """Another function of the same file is called as well: both copies say its name where they said the answer."""
    pattern = rf"(?<!\w){re.escape(sample.answers[0])}(?!\w)"
    homes = dict.fromkeys(span.document for span in sample.evidence)
    other = f"{sample.answers[0]}_too"
    copies = [_copy(documents[name], re.sub(pattern, other, documents[name].text)) for name in homes]
    return [copy for copy, name in zip(copies, homes, strict=True) if copy.text != documents[name].text]


_SECOND: tuple[tuple[str, Callable[[Sample, Documents, random.Random], list[Document]]], ...] = (
    ("numerical_", _number),
    ("changed_number", _number),
    ("speaker_line", _text),
    ("speaker", _speaker),
    ("choice_speaker", _speaker),
    ("choice_country", _country),
    ("called_function", _file),
    ("causal_source", _called),
    ("common_neighbour", _neighbour),
    ("earlier", _year),
)
