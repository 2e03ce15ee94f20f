"""Faults of weight files as files: index, headers, sizes and digests. Nothing but headers is read, and digests on top.

A safetensors file is eight bytes with the length of its header, the header (JSON: dtype, shape and byte range of each
tensor), and the tensors without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.checkpoints.weights import DTYPES, INDEX
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json, sha256_file

#: Reports that conversion and merge leave beside the weights, with `files`: SHA-256 by file name.
REPORTS = ("CONVERT.json", "MERGE.json")
_HEADER_LIMIT = 100_000_000


@dataclass
class Findings:
    """What is wrong with the files: `broken` keeps the weights from being read, `faults` do not."""

    broken: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    n_digests: int = 0


def examine(directory: Path) -> Findings:
    """Return what is wrong with the weight files of a directory, one sentence each."""
    found = Findings()
    present = sorted(path.name for path in directory.glob("*.safetensors"))
    index = directory / INDEX
    mapped = _index(index, found) if index.exists() else None
    if not present and mapped is None and not found.broken:
        found.broken.append(f"{directory} has no *.safetensors file")
    if mapped is None and not index.exists() and present and present != ["model.safetensors"]:
        found.faults.append(f"there is no {INDEX} beside {', '.join(present[:3])}; loaders look for model.safetensors")
    where: dict[str, str] = {}
    stale: list[str] = []
    size = elements = 0
    for file in sorted({*present, *(mapped or {}).values()}):
        if file not in present:
            names = sorted(name for name, place in (mapped or {}).items() if place == file)
            found.broken.append(f"{INDEX} names {file} for {len(names)} tensors, and it is missing")
            continue
        try:
            header = _header(directory / file)
        except ValueError as error:
            found.broken.append(f"{file} {error}")
            continue
        if mapped is not None and file not in mapped.values():
            stale.append(f"{INDEX} does not name {file}; remove the stale file, or mend the index")
            continue
        for name, (n_elements, n_bytes) in header.items():
            if name in where:
                found.broken.append(f"{name} is in {where[name]} and in {file}")
            where[name] = file
            size, elements = size + n_bytes, elements + n_elements
    _compare(mapped, where, found)
    if mapped is not None and not found.broken:
        found.faults += stale
        found.faults += _totals(read_json(index).get("metadata"), size, elements)
    _digests(directory, present, found)
    return found


def _index(index: Path, found: Findings) -> dict[str, str] | None:
    try:
        content = read_json(index)
    except DataError as error:
        found.broken.append(str(error))
        return None
    mapped = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        found.broken.append(f"{INDEX} has no weight_map")
        return None
    for name, file in mapped.items():
        if not isinstance(file, str) or Path(file).name != file:
            found.broken.append(f"{INDEX} puts {name} into {file!r}, which is not a plain file name")
            return None
    return mapped


def _compare(mapped: dict[str, str] | None, where: dict[str, str], found: Findings) -> None:
    if mapped is None or found.broken:
        return
    lacking = sorted(name for name, file in mapped.items() if where.get(name) != file)
    extra = sorted(where.keys() - mapped.keys())
    for names, text in ((lacking, "lacks {}, which the index puts there"), (extra, "has {}, which the index has not")):
        if names:
            file = mapped.get(names[0], where.get(names[0]))
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            found.broken.append(f"{file} {text.format(names[0])}{more}")


def _header(path: Path) -> dict[str, tuple[int, int]]:
    """Return elements and bytes by tensor. Raises ValueError that says what is wrong with the file."""
    total = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8:
            raise ValueError(f"has {total} bytes, too few for a safetensors file")
        if length > total - 8:
            raise ValueError(f"says that its header has {length:,} bytes, more than the file holds ({total:,})")
        if length > _HEADER_LIMIT:
            raise ValueError(f"has a header of {length:,} bytes, more than readers take ({_HEADER_LIMIT:,})")
        raw = stream.read(length)
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"has a header that is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("has a header that is no JSON object")
    content.pop("__metadata__", None)
    tensors = {name: _tensor(name, value) for name, value in content.items()}
    position = 0
    for name, (_, begin, end) in sorted(tensors.items(), key=lambda item: item[1][1:]):
        if begin != position:
            raise ValueError(f"puts {name} at byte {begin:,} of its data instead of {position:,}")
        position = end
    held = total - 8 - length
    if held < position:
        raise ValueError(f"is cut short: it holds {held:,} bytes of tensors where its header says {position:,}")
    if held > position:
        raise ValueError(f"has {held - position:,} bytes after its last tensor")
    return {name: (elements, end - begin) for name, (elements, begin, end) in tensors.items()}


def _tensor(name: str, value: Any) -> tuple[int, int, int]:
    try:
        code, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
            raise ValueError("no counts")
        elements = math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"has no dtype, shape and byte range for {name}") from error
    if code not in DTYPES:
        raise ValueError(f"has {name} in dtype {code}, which is not known here")
    wanted = elements * DTYPES[code].itemsize
    if end - begin != wanted:
        raise ValueError(f"gives {name} {end - begin:,} bytes, where {list(shape)} in {code} takes {wanted:,}")
    return elements, begin, end


def _totals(metadata: Any, size: int, elements: int) -> Iterator[str]:
    stated = metadata if isinstance(metadata, dict) else {}
    for key, value in (("total_size", size), ("total_parameters", elements)):
        if key in stated and stated[key] != value:
            yield f"{INDEX} says {key} {stated[key]}, the files hold {value}"


def _digests(directory: Path, present: list[str], found: Findings) -> None:
    for report in REPORTS:
        path = directory / report
        if not path.exists():
            continue
        try:
            content = read_json(path)
        except DataError as error:
            found.faults.append(str(error))
            continue
        files = content.get("files") if isinstance(content, dict) else None
        if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
            found.faults.append(f"{report} has no digests of files")
            continue
        for file in sorted(files.keys() ^ set(present)):
            there = "is there, and not in it" if file in present else "is in it, and not there"
            found.faults.append(f"{report} is of other files: {file} {there}")
        for file in sorted(files.keys() & set(present)):
            found.n_digests += 1
            if sha256_file(directory / file) != files[file]:
                found.faults.append(f"{file} is not the file that {report} tells of: its SHA-256 differs")
