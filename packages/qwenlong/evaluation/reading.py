"""Benchmark files of the published schemas: Parquet, JSON (array or lines), CSV, TSV; checked record by record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qwenlong.core.errors import DataError
from qwenlong.evaluation.interface import Item

T = TypeVar("T", bound="Published")
ItemT = TypeVar("ItemT", bound=Item)


class Published(BaseModel):
    """Base of the published schemas: what a benchmark needs of a record; other fields are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


def read_records(path: Path, kind: type[T]) -> list[T]:
    """Return the records of a file. Raises DataError naming the file, the record (from 1) and the field at fault."""
    if not path.is_file():
        raise DataError(f"{path} is no file; give the benchmark's published file")
    found = []
    for number, value in enumerate(_values(path), 1):
        try:
            found.append(kind.model_validate(value))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the record"
            needed = ", ".join(field.alias or name for name, field in kind.model_fields.items() if field.is_required())
            raise DataError(
                f"{path}, record {number}: {place}: {first['msg']}; the published schema has {needed}"
            ) from error
    if not found:
        raise DataError(f"{path} holds no record; give the benchmark's published file")
    return found


def _values(path: Path) -> Iterable[Any]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is no Parquet file that can be read ({error})") from error
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); convert it") from error
    if path.suffix in (".csv", ".tsv"):
        return csv.DictReader(io.StringIO(text, newline=""), delimiter="," if path.suffix == ".csv" else "\t")
    return _json_values(path, text)


def _json_values(path: Path, text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            return list(json.loads(text))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: is not JSON ({error.msg})") from error
    values = []
    # Not splitlines: JSON strings may hold other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: is not JSON ({error.msg})") from error
    return values


def distinct(items: Sequence[ItemT], path: Path) -> Sequence[ItemT]:
    """Return the items. Raises DataError naming an id that stands twice."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"{path}: the id {item.id!r} stands twice; give every record an id of its own")
        seen.add(item.id)
    return items
