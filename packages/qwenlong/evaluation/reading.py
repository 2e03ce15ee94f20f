"""Benchmark files of the published schemas: Parquet, JSON (array or lines), CSV, TSV; checked record by record."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
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


#: Suffixes of the files that are read from a folder.
SUFFIXES = (".parquet", ".json", ".jsonl", ".ndjson", ".csv")
_POINTER = re.compile(rb"\s*version \S+\s+oid sha256:[0-9a-f]{64}\s")
_PAGE = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
#: Rows of a Parquet file that are held at a time.
_BATCH = 64


def read_records(path: Path, kind: type[T]) -> list[T]:
    """Return the records of a file, or of the files of a folder in the order of their names.

    Raises DataError naming the file, the record (from 1) and the field at fault.
    """
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.name != "fetched.json"
        )
        if not files:
            raise DataError(f"{path} holds no {', '.join(SUFFIXES)} file; give the benchmark's published file")
        return [record for file in files for record in read_records(file, kind)]
    if not path.is_file():
        raise DataError(f"{path} is no file; give the benchmark's published file")
    found = []
    for number, value in enumerate(_values(path), 1):
        try:
            found.append(kind.model_validate(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the record"
            needed = ", ".join(field.alias or name for name, field in kind.model_fields.items() if field.is_required())
            raise DataError(
                f"{path}, record {number}: {place}: {first['msg']}; the published schema has {needed}"
            ) from error
    if not found:
        raise DataError(f"{path} holds no record; give the benchmark's published file")
    return found


def _values(path: Path) -> Iterator[Any]:
    """Yield the records of a file as they are read: a few at a time, for some files are gigabytes."""
    with path.open("rb") as stream:
        start = stream.read(1024)
    if _POINTER.match(start):
        raise DataError(f"{path} is a pointer of Git LFS, not the file; fetch the file itself (`git lfs pull`)")
    if _PAGE.match(start):
        raise DataError(f"{path} is a web page, not data; download the file itself")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _rows(path)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, "," if suffix == ".csv" else "\t")
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return _array(path) if first == b"[" else _lines(path)


def _rows(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        # A file cut short, bytes that went bad, text that is not UTF-8.
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is no whole Parquet file ({said}); fetch it again") from error


def _csv_rows(path: Path, delimiter: str) -> Iterator[Any]:
    # Fields may hold whole documents; the limit is one of the process.
    before = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.DictReader(
            io.StringIO(_text(path, path.read_bytes()), newline=""), delimiter=delimiter, strict=True
        )
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num}: not as many fields as the header; mend the file")
            yield row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is not CSV ({error}); mend the file") from error
    finally:
        csv.field_size_limit(before)


def _array(path: Path) -> Iterator[Any]:
    yield from _json(path, _text(path, path.read_bytes()), "")


def _lines(path: Path) -> Iterator[Any]:
    place = 0
    with path.open("rb") as stream:
        # Lines of bytes: JSON strings may hold other line separators.
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _json(path, _text(path, line, place), f", line {number}")
            place += len(line)


def _text(path: Path, data: bytes, place: int = 0) -> str:
    try:
        return (data.removeprefix(codecs.BOM_UTF8) if place == 0 else data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {place + error.start}); convert it") from error


def _json(path: Path, text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        if _HALVES.search(text):
            # Two halves are a character; one alone is none, and no tokenizer or file takes it.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise DataError(f"{path}{where}: a string holds half a character (a lone surrogate); mend the file") from error
    except json.JSONDecodeError as error:
        place = where or f", line {error.lineno}"
        raise DataError(f"{path}{place}: is not JSON ({error.msg}); mend the file, or fetch it again") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}{where}: is nested too deeply, or holds too long a number, to be a record") from error


def distinct(items: Sequence[ItemT], path: Path) -> Sequence[ItemT]:
    """Return the items. Raises DataError naming an id that stands twice."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"{path}: the id {item.id!r} stands twice; give every record an id of its own")
        seen.add(item.id)
    return items
