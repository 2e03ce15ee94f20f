"""What can be read off a document's text alone: fields, table cells, speeches, dialogue lines, functions, sentences.

Every item keeps the span [start, end) of characters it was read from, so that evidence always points at the text.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import TypeVar

from qwenlong.core.records import Document

_LINE = re.compile(r"^(?P<label>[A-Za-z][^:\n|]{1,89}?): (?P<value>\S.*)$", re.MULTILINE)
_YEAR_LABEL = re.compile(r"^(?P<label>.*\S) (?P<year>(?:19|20)\d\d)$")
#: One quantity and nothing else: sign, currency, number, scale, unit, and the year of the estimate.
_QUANTITY = re.compile(
    r"(?P<sign>-)?(?P<currency>\$)?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?P<percent>%)?(?: (?P<unit>[A-Za-z][A-Za-z/ ()-]*?(?:/1,000 [a-z ]+)?))?"
    r"(?: \((?:of [A-Za-z]+\) \()?(?:(?:19|20)\d\d)(?: est\.)?\))?"
)
_ITEM = re.compile(r"(?P<item>[A-Z][A-Za-z .'()-]{1,40}?) (?P<number>\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?) ?(?P<unit>km|%)")
# A name stands after an empty line, each of its words with a capital: a verse that ends in a full stop is no name.
_SPEAKER = re.compile(
    r"(?:\A|(?<=\n\n))(?P<name>[A-Z][A-Za-z']*(?: (?:of |the |and )?[A-Z][A-Za-z']*){0,3})\.$", re.MULTILINE
)
_MESSAGE = re.compile(r"^(?P<speaker>[A-Z][A-Za-z0-9 ]{0,19}): (?P<text>\S.*)$", re.MULTILINE)
#: Kind of conversations from data sets, "role: content" lines; a content may go on over lines without a role.
CHAT = "chat"
_TURN = re.compile(r"^(?P<speaker>system|developer|user|assistant|human|gpt|tool|function): ", re.MULTILINE)
_FUNCTION = re.compile(r"^(?P<indent> *)(?:async )?def (?P<name>[A-Za-z]\w*)\(", re.MULTILINE)
_DEFINED = re.compile(r"^(?:async )?def (\w+)\(", re.MULTILINE)
_INNER = re.compile(r"^ +(?:async )?(?:def|class) \w", re.MULTILINE)
_PARAMETER = re.compile(r"^(?P<indent> +)(?P<name>[A-Za-z]\w*) ?: (?P<type>[A-Za-z].*)$", re.MULTILINE)


@dataclass(frozen=True)
class Quantity:
    """A number with the unit it is stated in (scale words are part of the unit)."""

    value: Decimal
    unit: str


@dataclass(frozen=True)
class Field:
    """One "label: value" line; `year` is taken from the label, `quantity` is there when the value is one number."""

    document: str
    entity: str
    label: str
    year: int | None
    value: str
    quantity: Quantity | None
    start: int
    end: int


@dataclass(frozen=True)
class Cell:
    """One number with its place: entity, field, what tells it from its neighbours, and how it is written."""

    document: str
    entity: str
    field: str
    item: str
    year: str
    value: Decimal
    unit: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Said:
    """One line of a play or one message of a dialogue."""

    document: str
    speaker: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Function:
    """One definition in a source file with its body as far as the document shows it."""

    document: str
    name: str
    body: str
    start: int
    end: int


T = TypeVar("T")


def once(read: Callable[[Document], T]) -> Callable[[Document], T]:
    """Return `read` with a memory of what it gave for each document that is still alive.

    A pool's documents are read by every template again and again. They are told apart by identity, since hashing a
    text would cost more.
    """
    kept: dict[int, tuple[weakref.ref[Document], T]] = {}

    @wraps(read)
    def cached(document: Document) -> T:
        key = id(document)
        found = kept.get(key)
        if found is not None and found[0]() is document:
            return found[1]
        result = read(document)
        kept[key] = (weakref.ref(document, lambda _: kept.pop(key, None)), result)
        return result

    return cached


def kind(document: Document) -> str:
    """Return the document's kind ("factbook", "finance", "dialogue", "play", "code", "guide", …), "" when unknown."""
    found = str(document.metadata.get("kind", ""))
    return "dialogue" if found == CHAT else found


def entity(document: Document) -> str:
    """Return what a document is about: its entity; for source files the file, since a package is not one subject."""
    if kind(document) == "code":
        return str(document.metadata.get("parent") or document.id)
    return str(document.metadata.get("entity") or document.metadata.get("parent") or document.id)


def quantity(text: str) -> Quantity | None:
    """Parse a value that is one number with a unit; None for ranges, lists, remarks and words."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number = Decimal(match["number"].replace(",", ""))
    words = (match["unit"] or "").strip()
    if "(" in words or "/" in words and "," in words and "/1,000" not in words:
        return None
    unit = " ".join(part for part in ("%" if match["percent"] else "", words) if part)
    if match["currency"]:
        unit = f"{unit} US dollars".strip()
    return Quantity(-number if match["sign"] else number, unit)


@once
def fields(document: Document) -> Sequence[Field]:
    """Return the "label: value" lines of a factbook document; "Exports - Exports 2024" is field Exports of 2024."""
    if kind(document) != "factbook":
        return []
    found = []
    for match in _LINE.finditer(document.text):
        pieces = match["label"].split(" - ")
        if "note" in pieces:
            continue
        year = _YEAR_LABEL.match(pieces[-1])
        if year:
            pieces[-1] = year["label"]
        if len(pieces) > 1 and pieces[-1].lower().startswith(pieces[-2].lower()):
            del pieces[-2]
        value = match["value"].strip()
        found.append(
            Field(
                document.id,
                entity(document),
                " - ".join(pieces),
                int(year["year"]) if year else None,
                value,
                quantity(value),
                match.start(),
                match.end(),
            )
        )
    return found


#: Values that say that there is none.
_NO_VALUE = frozenset({"", "na", "n/a", "none", "no", "yes", "0", "-"})


def answer_of(value: str, max_words: int) -> str | None:
    """Return a field's value as an answer: without remarks, a span of the text; None when it is none or too long."""
    plain = plain_value(value)
    usable = plain.casefold() not in _NO_VALUE and len(plain.split()) <= max_words
    return plain if usable and plain in value else None


def plain_value(value: str) -> str:
    """Return a field's value without remarks in brackets: "Sofia (Bulgarian)" is "Sofia"."""
    return re.sub(r"\s*\([^)]*\)", "", value).strip(" ;,")


@once
def cells(document: Document) -> Sequence[Cell]:
    """Return the numbers of a document: fields, their siblings ("Alcohol - beer"), lists in a value, table cells."""
    return tuple(_cells(document))


def _cells(document: Document) -> Iterator[Cell]:
    for field in fields(document):
        year = "" if field.year is None else str(field.year)
        if field.quantity is not None:
            parent, _, last = field.label.rpartition(" - ")
            name, item = (parent, last) if parent and not year else (field.label, "")
            value, unit = field.quantity.value, field.quantity.unit
            span = (field.start, field.end, re.sub(r" \(.*", "", field.value))
            yield Cell(document.id, field.entity, name, item, year, value, unit, *span)
        else:
            yield from _listed(document, field)
    yield from _table_cells(document)


def _listed(document: Document, field: Field) -> Iterator[Cell]:
    """Yield the members of a list like "Andorra 55 km; Belgium 556 km"; nothing unless every member is one."""
    parts = re.split(r"; |, ", field.value)
    matches = [_ITEM.fullmatch(part) for part in parts]
    if len(parts) < 2 or not all(matches):
        return
    offset = field.end - len(field.value)
    for part, match in zip(parts, matches, strict=True):
        assert match is not None
        start = document.text.index(part, offset)
        offset = start + len(part)
        number = Decimal(match["number"].replace(",", ""))
        span = (start, start + len(part), f"{match['number']} {match['unit']}")
        yield Cell(document.id, field.entity, field.label, match["item"], "", number, match["unit"], *span)


def _table_cells(document: Document) -> Iterator[Cell]:
    """Yield the cells of markdown tables whose columns are dates; a cell that is no number is left out."""
    columns: list[str] = []
    dated = False
    position = 0
    for line in document.text.splitlines(keepends=True):
        row = line.strip()
        if row.startswith("|") and row.endswith("|"):
            parts = [part.strip() for part in row.strip("|").split("|")]
            if not columns:
                columns = parts[1:]
                dated = all(re.search(r"\d\d$", column) for column in columns)
            elif dated and not set(parts[1]) <= {"-", ":"} or len(parts) < 2:
                for column, text in zip(columns, parts[1:], strict=False):
                    # "0" may stand for "not reported" in the statements: never compared.
                    if re.fullmatch(r"-?\d[\d,]*(?:\.\d+)?", text) and Decimal(text.replace(",", "")) != 0:
                        value = Decimal(text.replace(",", ""))
                        end = position + len(line.rstrip("\n"))
                        yield Cell(document.id, entity(document), parts[0], "", column, value, "", position, end, text)
        else:
            columns = []
        position += len(line)


@once
def messages(document: Document) -> Sequence[Said]:
    """Return the messages of a dialogue in order; those of a chat may hold line ends."""
    if kind(document) != "dialogue":
        return []
    text = document.text
    if document.metadata.get("kind") == CHAT:
        turns = list(_TURN.finditer(text))
        stops = [turn.start() for turn in turns[1:]] + [len(text)]
        spans = [
            (turn, turn.end() + len(text[turn.end() : stop].rstrip())) for turn, stop in zip(turns, stops, strict=True)
        ]
        return [Said(document.id, t["speaker"], text[t.end() : end].strip(), t.start(), end) for t, end in spans]
    return [Said(document.id, m["speaker"], m["text"].strip(), m.start(), m.end()) for m in _MESSAGE.finditer(text)]


@once
def speeches(document: Document) -> Sequence[Said]:
    """Return each verse line of a play with its speaker; lines before the first named speaker are nobody's."""
    if kind(document) != "play":
        return []
    found = []
    names = list(_SPEAKER.finditer(document.text))
    for number, match in enumerate(names):
        stop = names[number + 1].start() if number + 1 < len(names) else len(document.text)
        # A speech ends at the first empty line; stage directions follow it.
        body = document.text[match.end() : stop]
        blank = body.find("\n\n")
        body = body if blank < 0 else body[:blank]
        for line in re.finditer(r"[^\n]+", body):
            text = line.group().strip()
            if text and not re.search(r"[\[\]_{}]", text):
                start = match.end() + line.start()
                found.append(Said(document.id, match["name"].strip(), text, start, start + len(line.group())))
    return found


@once
def functions(document: Document) -> Sequence[Function]:
    """Return the top-level definitions of a source file's section; a body ends where the next one starts."""
    if kind(document) != "code":
        return []
    found = []
    matches = [match for match in _FUNCTION.finditer(document.text) if not match["indent"]]
    for match in matches:
        # The body lasts while lines are indented or empty; the signature's own lines may close with ")".
        after = re.compile(r"^(?=[^\s)])", re.MULTILINE).search(document.text, match.end())
        stop = after.start() if after else len(document.text)
        end = document.text.find("\n", match.start())
        end = len(document.text) if end < 0 else end
        found.append(Function(document.id, match["name"], document.text[match.end() : stop], match.start(), end))
    return found


@once
def defined(document: Document) -> frozenset[str]:
    """Return the names of all top-level definitions of a source file, private and short ones too."""
    return frozenset(_DEFINED.findall(document.text)) if kind(document) == "code" else frozenset()


def code_of(function: Function) -> str:
    """Return a function's body with its docstrings blanked, every character in its place."""
    return re.sub(r'r?"""(?:.|\n)*?(?:"""|\Z)', lambda match: " " * len(match.group()), function.body)


def parameters(document: Document, function: Function) -> list[Said]:
    """Return the documented parameters of a function: `speaker` holds the name, `text` the type.

    What stands under a function inside it is that one's.
    """
    body_start = document.text.find(function.body)
    found: list[Said] = []
    # An example in a docstring defines nothing.
    inner = _INNER.search(code_of(function))
    own = function.body[: inner.start()] if inner else function.body
    section = re.search(r"^ *Parameters\n *-{3,}\n", own, re.MULTILINE)
    if section is None:
        return []
    stop = re.compile(r"^ *(?:Returns|Yields|Raises|See Also|Notes|Examples)\n *-{3,}", re.MULTILINE)
    last = stop.search(own, section.end())
    part = own[section.end() : last.start() if last else len(own)]
    matches = list(_PARAMETER.finditer(part))
    for match in matches:
        if match["indent"] != matches[0]["indent"]:
            continue  # a line of a description
        start = body_start + section.end() + match.start()
        found.append(Said(document.id, match["name"], match["type"].strip(), start, start + len(match.group())))
    return found


@once
def sentences(document: Document) -> Sequence[tuple[int, int]]:
    """Return the spans of prose sentences of a guide: one paragraph line each side of a full stop, no directives."""
    if kind(document) != "guide":
        return []
    found = []
    for paragraph in re.finditer(r"(?:^(?! |\.\.|[-=~^*+#|]{2,}|>>>).+\n?)+", document.text, re.MULTILINE):
        offset = 0
        for piece in re.split(r"(?<=[.!?])\s+", paragraph.group()):
            start = paragraph.start() + paragraph.group().index(piece, offset)
            offset = start - paragraph.start() + len(piece)
            if piece.strip() and piece.rstrip().endswith("."):
                found.append((start, start + len(piece.rstrip())))
    return found
