"""The list of a batch: one question a line with its documents, checked as a whole before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_path, digest_value

#: Faults that a message lists; the rest is counted.
SHOWN = 10
_Said = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Item(BaseModel):
    """A question about documents (paths) or about a text. With `format` the request need not be split in two.

    A path is looked for beside the list, then in the working directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S", coerce_numbers_to_str=True)]
    question: _Said
    document: _Said | tuple[_Said, ...] | None = None
    text: _Said | None = None
    format: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Item:
        if (not self.document) == (self.text is None):
            raise ValueError("give either document (a path or a list of paths) or text")
        return self

    def paths(self, folder: Path) -> list[Path]:
        """Return the item's documents as paths, none for a text; `folder` is the list's."""
        names = () if self.document is None else (self.document,) if isinstance(self.document, str) else self.document
        return [next((p for p in (folder / name, Path(name)) if p.exists()), folder / name) for name in names]

    def digest(self, folder: Path, known: dict[Path, str]) -> str:
        """Return the digest of what is read: names and bytes of the documents, or the text. `known` keeps files'."""
        if self.text is not None:
            return digest_value(["text", self.text])
        paths = self.paths(folder)
        for path in paths:
            if path not in known:
                known[path] = digest_path(path)
        return digest_value([[path.name, known[path]] for path in paths])


def read_items(path: Path) -> list[Item]:
    """Return the items of a list.

    Raises DataError with the line of each fault: no JSON, a key that is unknown, missing or wrong, an id that stood
    before, a document that is not there. A list without items is a fault, too.
    """
    if not path.is_file():
        raise DataError(f"no list {path}; give a file of JSON lines with id, question and document or text")
    items: list[Item] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            item = Item.model_validate_json(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
        except ValidationError as error:
            faults.append(f"line {number}: {_fault(error)}")
            continue
        if item.id in seen:
            faults.append(f"line {number}: id {item.id!r} stands in line {seen[item.id]} already")
        seen.setdefault(item.id, number)
        faults += [f"line {number}: no document {p}" for p in item.paths(path.parent) if not p.exists()]
        items.append(item)
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(faults[:SHOWN]) + more + "; mend them, nothing was asked")
    if not items:
        raise DataError(f"{path} holds no item; give JSON lines with id, question and document or text")
    return items


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    # Which member of a union was tried is no news to who wrote the list.
    unknown = first["type"] == "extra_forbidden"
    parts = [part for part in first["loc"] if unknown or isinstance(part, int) or part in Item.model_fields]
    where = ".".join(map(str, parts))
    if not where:
        return said
    return f"{where}: {said}" if first["type"] == "missing" else f"{where} = {str(first['input'])[:60]!r}: {said}"
