"""What training documents are made of: real names, fields, tables, messages, verses, source files and guides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_value, read_json, write_json
from qwenlong.core.records import Document
from qwenlong.synthesis import parse
from qwenlong.synthesis.graph import BORDERS

#: Longest value of a field, in characters: what a small window can hold several of.
MAX_VALUE = 70
_NAME = re.compile(r"[A-Z][\w'’.-]+(?: (?:and |of |the )?[A-Z][\w'’.-]+){0,2}")


class Material(BaseModel):
    """Pieces of one side of the split, each list sorted, so that the same documents give the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    """Names of countries and places, by which facts are asked for."""
    fields: Mapping[str, tuple[str, ...]]
    """Values by label line ("Exports 2023"), as the documents state them."""
    sections: Mapping[str, tuple[str, ...]]
    """Labels by the heading under which they stand."""
    symbols: tuple[str, ...]
    """Companies."""
    tables: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    """(heading, columns, rows' items) of each statement."""
    messages: tuple[str, ...]
    """Messages of dialogues."""
    scenes: tuple[str, ...]
    """Titles of scenes."""
    speakers: tuple[str, ...]
    """Speakers of plays."""
    verses: tuple[str, ...]
    """Lines of plays."""
    documents: tuple[Document, ...]
    """Source files and guides, shown as they are."""

    @property
    def digest(self) -> str:
        """Digest of everything."""
        return digest_value(self.model_dump(mode="json"))[:16]


def collect(documents: Sequence[Document]) -> Material:
    """Return the pieces of documents. Raises DataError when there is no country, company, dialogue or play."""
    names: set[str] = set()
    fields: dict[str, set[str]] = defaultdict(set)
    sections: dict[str, set[str]] = defaultdict(set)
    symbols: set[str] = set()
    tables: set[tuple[str, tuple[str, ...], tuple[str, ...]]] = set()
    messages: set[str] = set()
    scenes: set[str] = set()
    speakers: set[str] = set()
    verses: set[str] = set()
    shown = []
    for document in documents:
        kind = parse.kind(document)
        heading = str(document.metadata.get("heading", ""))
        if kind == "factbook":
            names.add(parse.entity(document))
            for field in parse.fields(document):
                line = document.text[field.start : field.end]
                label, _, value = line.partition(": ")
                if field.label == BORDERS:
                    names |= {cell.item for cell in parse.cells(document) if cell.field == BORDERS}
                elif len(value) <= MAX_VALUE:
                    fields[label].add(value.strip())
                    sections[heading or "Facts"].add(label)
                    plain = parse.plain_value(value)
                    if label in ("Capital - name",) or (len(plain) < 24 and _NAME.fullmatch(plain)):
                        names.add(plain)
        elif kind == "finance":
            symbols.add(parse.entity(document))
            table = _table(document)
            if table:
                tables.add((heading, *table))
        elif kind == "dialogue":
            messages |= {said.text for said in parse.messages(document) if len(said.text) <= 2 * MAX_VALUE}
        elif kind == "play":
            scenes.add(document.title)
            said = parse.speeches(document)
            speakers |= {line.speaker for line in said}
            verses |= {line.text for line in said}
        else:
            shown.append(document)
    # A label that has one value only could be known by heart.
    usable = {label: tuple(sorted(values)) for label, values in sorted(fields.items()) if len(values) >= 2}
    made = Material(
        names=tuple(sorted(names)),
        fields=usable,
        sections={
            heading: kept
            for heading, labels in sorted(sections.items())
            if len(kept := tuple(sorted(labels & usable.keys()))) >= 2
        },
        symbols=tuple(sorted(symbols)),
        tables=tuple(sorted(tables)),
        messages=tuple(sorted(messages)),
        scenes=tuple(sorted(scenes)),
        speakers=tuple(sorted(speakers)),
        verses=tuple(sorted(verses)),
        documents=tuple(sorted(shown, key=lambda d: d.id)),
    )
    for name in ("names", "sections", "messages", "verses"):
        if not getattr(made, name):
            raise DataError(f"{len(documents)} documents hold no {name} for the nano policy; add sources to the corpus")
    return made


def _table(document: Document) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return (columns, items) of the first table of a document."""
    cells = [cell for cell in parse.cells(document) if cell.year]
    columns = tuple(dict.fromkeys(cell.year for cell in cells))
    items = tuple(dict.fromkeys(cell.field for cell in cells))
    return (columns, items) if len(columns) >= 2 and items else None


def save(material: Material, path: str | Path) -> None:
    """Write the pieces as JSON."""
    write_json(path, material.model_dump(mode="json"))


def load(path: str | Path) -> Material:
    """Read what `save` wrote."""
    return Material.model_validate(read_json(path))
