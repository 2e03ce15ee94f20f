"""What the documents of one sample say, read with parsing of the checker's own, each document once."""

from __future__ import annotations

import re
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, wraps
from typing import TypeVar

from qwenlong.core.records import Document

T = TypeVar("T")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def once(read: Callable[[Document], T]) -> Callable[[Document], T]:
    """Return `read` with a memory of what it gave for each document that is still alive, told apart by identity.

    A document stands in many samples; two documents of one id (one of them tampered with) are two.
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


@dataclass
class View:
    """What the documents of one sample say. Keys are (entity, label, period); values carry their unit."""

    documents: Sequence[Document]
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    numbers: dict[tuple[str, str, str], list[tuple[Decimal, str]]] = field(default_factory=lambda: defaultdict(list))
    borders: list[tuple[str, str, str]] = field(default_factory=list)

    @cached_property
    def entities(self) -> set[str]:
        """Names of what the documents are about."""
        return {entity for entity, _, _ in self.facts} | {entity for entity, _, _ in self.numbers}


def entity(document: Document) -> str:
    """Return what a document is about, as the split sees it."""
    keys = ("parent",) if document.metadata.get("kind") == "code" else ("entity", "parent")
    return next((str(document.metadata[key]) for key in keys if document.metadata.get(key)), document.id)


def view(documents: Sequence[Document]) -> View:
    """Read the documents."""
    result = View(documents)
    for part in map(_read, documents):
        result.facts += part.facts
        result.borders += part.borders
        for key, values in part.numbers.items():
            result.numbers[key] += values
    return result


@once
def _read(document: Document) -> View:
    # The part must not hold its document: what is remembered of one lasts as long as the document does.
    result = View(())
    name = entity(document)
    if document.metadata.get("kind") == "factbook":
        for line in document.text.split("\n"):
            label, colon, value = line.partition(": ")
            if colon and value.strip() and not line.startswith("#") and "note" not in label.split(" - "):
                _read_field(result, name, label, value.strip())
    _read_tables(result, name, document.text)
    return result


@once
def collapsed(document: Document) -> str:
    """Return the text with single blanks."""
    return " ".join(document.text.split())


def _read_field(result: View, name: str, label: str, value: str) -> None:
    parts = label.split(" - ")
    dated = re.fullmatch(r"(.*\S) ((?:19|20)\d\d)", parts[-1])
    period = dated.group(2) if dated else ""
    parts[-1] = dated.group(1) if dated else parts[-1]
    if len(parts) > 1 and parts[-1].lower().startswith(parts[-2].lower()):
        del parts[-2]
    full = " - ".join(parts)
    result.facts.append((name, f"{full} in {period}" if period else full, bare(value)))
    one = _one_number(re.sub(r"(?: \(of [A-Za-z]+\))? \((?:19|20)\d\d(?: est\.)?\)$", "", value))
    if one is not None:
        result.numbers[name, full, period].append(one)
        return
    for member in re.split(r"; |, ", value):
        matched = re.fullmatch(r"(\D+?) ([\d,.]*\d) ?(km|%)", member)
        if matched:
            number = Decimal(matched.group(2).replace(",", ""))
            result.numbers[name, f"{full} - {matched.group(1)}", period].append((number, matched.group(3)))
            if full.endswith("border countries"):
                result.borders.append((name, matched.group(1), f"{number:,f} {matched.group(3)}"))


def _one_number(value: str) -> tuple[Decimal, str] | None:
    """Return (number, unit) of a value that holds one number before its unit."""
    money = value.replace("-$", "$-").startswith("$")
    text = value.replace("-$", "$-").removeprefix("$")
    matched = _NUMBER.match(text)
    if matched is None:
        return None
    rest = text[matched.end() :].strip()
    if re.search(r"\d", rest.replace("/1,000", "")) or "(" in rest:
        return None
    return Decimal(matched.group().replace(",", "")), f"{rest} US dollars".strip() if money else rest


def _read_tables(result: View, name: str, text: str) -> None:
    columns: list[str] = []
    for line in text.split("\n"):
        if not line.strip().startswith("|"):
            columns = []
            continue
        row = [part.strip() for part in line.strip().strip("|").split("|")]
        if not columns:
            columns = row[1:]
            continue
        for column, part in zip(columns, row[1:], strict=False):
            # A cell of 0 may mean "not reported"; no question is asked of it.
            if _NUMBER.fullmatch(part) and Decimal(part.replace(",", "")) != 0:
                result.numbers[name, row[0], column].append((Decimal(part.replace(",", "")), ""))


def bare(value: str) -> str:
    """Return a value without remarks in brackets."""
    return re.sub(r"\s*\([^)]*\)", "", value).strip(" ;,")


def plain(text: str) -> str:
    """Return a text with single spaces and without case, for looking one up in another."""
    return " ".join(text.split()).casefold()
