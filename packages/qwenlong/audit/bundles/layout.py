"""The form of a bundle: a folder of runs, the examples they were scored on, the site, and a manifest of digests.

- manifest.json: SHA-256 of every other file
- bundle.json: the runs, and what was left out of them with the reason
- data/<digest>/<benchmark>.parquet: examples with golds, by digest: seeds that share them share the file
- runs/<run>/config.yaml, run.json: configuration, scale, seed, examples, environment
- runs/<run>/…: files of its results folder under their own names; long ones as .gz
- runs/<run>/unfinished/: metrics of trainings that did not end, from their state
- report/: the site
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, read_json, sha256_file, write_json

MANIFEST, INDEX, REPORT, RUNS, DATA = "manifest.json", "bundle.json", "report", "runs", "data"
#: What machines were and how long they were held, below a results folder, where the run says so.
RECORDS = "state/replication"
#: Version of this form.
FORMAT = 1
#: Endings of what is compressed.
LONG = (".jsonl", "scores.json", "MERGE.json")
#: Bytes that one file of a bundle may have when it is unpacked: a small file may claim to be a huge one.
MOST_BYTES = 1 << 30


def pack(data: bytes) -> bytes:
    """Return `data` as a gzip file, the same bytes for the same data: no time, no name, no mark of the system."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def unpacked(file: Path) -> bytes:
    """Return what a .gz file of a bundle holds. Raises DataError when it is broken or too long."""
    inflate = zlib.decompressobj(31)
    try:
        data = inflate.decompress(file.read_bytes(), MOST_BYTES)
    except zlib.error as error:
        raise DataError(f"{file} is no whole gzip file ({error}); restore it") from error
    if not inflate.eof or inflate.unused_data:
        raise DataError(f"{file} is no whole gzip file of at most {MOST_BYTES >> 20} MB; restore it")
    return data


def is_bundle(folder: Path) -> bool:
    """Tell whether a folder is a bundle, whole or not: it has a manifest, or what only bundles have."""
    return (folder / MANIFEST).is_file() or (folder / INDEX).is_file()


def expect_bundle(folder: Path) -> None:
    """Raise DataError for a folder that is no bundle."""
    if not is_bundle(folder):
        raise DataError(f"{folder} is no bundle; make one with `qwenlong audit bundle`")


def files(folder: Path) -> Iterator[str]:
    """Yield the names of all files of a bundle but the manifest, in order.

    Raises DataError for a link: what it names is no part of the bundle.
    """
    for file in sorted(folder.rglob("*")):
        if file.is_symlink():
            raise DataError(f"{file} is a link; a bundle holds plain files")
        if file.is_file() and file != folder / MANIFEST:
            yield file.relative_to(folder).as_posix()


def write_manifest(folder: Path, only: str | None = None) -> None:
    """Write the digests of all files; with `only`, of that folder's: those of all others stay as they were recorded."""
    kept = {} if only is None else {k: v for k, v in read_manifest(folder).items() if not k.startswith(f"{only}/")}
    named = [name for name in files(folder) if only is None or name.startswith(f"{only}/")]
    digests = kept | {name: sha256_file(folder / name) for name in named}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": digests})


def read_manifest(folder: Path) -> dict[str, str]:
    """Return name → SHA-256. Raises DataError when it is missing or of another form."""
    file = folder / MANIFEST
    if not file.is_file():
        raise DataError(f"{file} is missing: nothing says what the bundle's files were; restore it")
    value = read_json(file)
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("files"), dict):
        raise DataError(f"{file} is no manifest of form {FORMAT}; restore it, or bundle the runs again")
    return value["files"]


def read_index(folder: Path) -> dict[str, Any]:
    """Return bundle.json. Raises DataError when it is something else."""
    value = read_json(folder / INDEX)
    if not isinstance(value, dict) or not isinstance(value.get("runs"), list):
        raise DataError(f"{folder / INDEX} names no runs; restore it, or bundle the runs again")
    return value


def differing(folder: Path, recorded: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each file that is not what the manifest says, and how it differs; none without a manifest."""
    present = set(files(folder))
    for name in sorted({*recorded, *present}):
        if name not in present:
            yield name, f"{name}: is missing, expected SHA-256 {recorded[name][:12]}"
        elif recorded and name not in recorded:
            yield name, f"{name}: is in no manifest; remove it, or bundle the runs again"
        elif recorded and (found := sha256_file(folder / name)) != recorded[name]:
            yield name, f"{name}: SHA-256 {found[:12]}, expected {recorded[name][:12]}"


def stored(name: str) -> str:
    """Return the name in the bundle of a file of a run: what its name says to be long is compressed."""
    return f"{name}.gz" if name.endswith(LONG) else name


def put(folder: Path, name: str, data: bytes) -> None:
    """Write one file of a bundle, compressed where its name says that it is long."""
    with atomic_file(folder / stored(name)) as partial:
        partial.write_bytes(pack(data) if name.endswith(LONG) else data)


def unpack_run(folder: Path, name: str, to: Path, examples: Mapping[str, str]) -> list[str]:
    """Write a run of a bundle as a results folder, and return what could not be read, a line each."""
    root, faults = folder / RUNS / name, []
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = file.relative_to(root).as_posix()
        target = to / relative.removesuffix(".gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.write_bytes(unpacked(file) if relative.endswith(".gz") else file.read_bytes())
        except DataError as error:
            faults.append(str(error))
    for benchmark, source in examples.items():
        # Names come from the bundle: none may point out of it.
        inside = (folder / source).resolve()
        if not inside.is_relative_to(folder.resolve()) or not inside.is_file():
            faults.append(f"{RUNS}/{name}/run.json: examples of {benchmark} = {source!r} is not in the bundle")
            continue
        target = to / "synthesis" / f"{Path(benchmark).name}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(inside.read_bytes())
    return faults
