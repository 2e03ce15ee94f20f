"""Results in a few files of bounded size, and back: tar files of pieces with digests, beside a list of what is in them.

What is small travels first; weights follow while there is room. Nothing that is left out is left out silently.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, read_json, sha256_file, write_json
from qwenlong.core.logs import get
from qwenlong.core.provenance import git_commit
from qwenlong.replication import choosing, cutting, tensors
from qwenlong.replication.plan import Run

_LOG = get(__name__)

#: Bytes of a piece, and pieces at most unless more are asked for: files of 16 MiB, 64 MiB together with the list.
PIECE, PIECES = 16 * 2**20 - 2**18, 4
#: The list of what was packed, beside the parts; and where unpacking notes what came from elsewhere.
LIST, KNOWN = "pack.json", Path("results/replication/known.json")
#: Weights larger than the whole pack by these factors, alone and against a model near by, would not fit: not tried.
_LARGEST, _LARGEST_NEAR = 2, 8
#: Bytes of records that are packed together: what has no room is left out in such groups.
_GROUP = 4 * 2**20
_LEVEL = 9


def pack(
    runs: Sequence[Run],
    out: Path,
    *,
    everything: bool = False,
    unfinished: bool = False,
    weights: bool = True,
    pieces: int | None = None,
) -> dict[str, Any]:
    """Write the records of runs, and weights while there is room, into `out`; return the list that pack.json holds.

    `everything`: files that were unpacked here, too; `unfinished`: of complete runs only the mark. Weights that
    something still reads come before tables and logs, others after them. `pieces`: parts at most, PIECES where none
    is given. An earlier pack in `out` is replaced.
    """
    known: dict[str, str] = {} if everything or not KNOWN.is_file() else read_json(KNOWN)
    box = _Box(known, PIECE * (pieces or PIECES))
    folders = _folders(runs, unfinished)
    marks = [mark for run in runs if not folders[run.results] and (mark := run.mark).is_file()]
    travel = [folder for folder, whole in folders.items() if whole]
    models = list(_weights(runs, folders)) if weights else []
    for tier in range(len(choosing.TIERS)):
        if tier == len(choosing.TIERS) - 1:
            box.add_weights(one for one in models if one.needed)
        chosen = [file for folder in travel for file in choosing.records(folder, tier)]
        box.add_records(chosen + (marks if tier == 0 else []), f"records-{tier}")
    box.add_weights(one for one in models if not one.needed)
    aside = {
        str(folder)
        for run in runs
        for results in {run.data, run.results}
        if folders.get(results)
        for folder in choosing.unusable(results, run.config, box.travels)
    }
    return _write(out, box, runs, sorted(aside))


class _Box:
    """What goes into a pack, in order, as far as there is room."""

    def __init__(self, known: dict[str, str], room: int) -> None:
        self.known, self.room, self.whole = known, room, room
        self.blobs: list[dict[str, Any]] = []
        self.files: dict[str, str] = {}
        self.omitted: list[str] = []

    def add_records(self, files: Iterable[Path], name: str) -> None:
        """Add files that did not come from elsewhere, some MiB at a time."""
        group: list[tuple[Path, bytes]] = []
        for file in files:
            data = file.read_bytes()
            if self.known.get(str(file)) == hashlib.sha256(data).hexdigest():
                continue
            if group and sum(len(other) for _, other in group) + len(data) > _GROUP:
                self._add(group, name)
                group = []
            group.append((file, data))
        if group:
            self._add(group, name)

    def _add(self, group: Sequence[tuple[Path, bytes]], name: str) -> None:
        digests = {str(file): hashlib.sha256(data).hexdigest() for file, data in group}
        self._put(_archive(group), {"kind": "records", "name": name}, digests)

    def add_weights(self, models: Iterable[choosing.Weights]) -> None:
        """Add weights that did not come from elsewhere and are small enough, and whose reference is there, too."""
        for one in models:
            digest = tensors.digest(one.file)
            if self.known.get(str(one.file)) == digest:
                continue
            near, size = one.reference, one.file.stat().st_size
            if size > self.whole * (_LARGEST if near is None else _LARGEST_NEAR) or str(near) in self.omitted:
                self.omitted.append(str(one.file))
                continue
            entry: dict[str, Any] = {"kind": "weights", "name": str(one.file), "needed": one.needed, "digest": digest}
            entry |= {"reference": None if near is None else str(near), "mtime": one.file.stat().st_mtime}
            self._put(tensors.encode(one.file, near), entry, {str(one.file): digest})

    def travels(self, file: Path) -> bool:
        """Tell whether a file is in the pack, or came from elsewhere."""
        name = str(file)
        return name in self.files or (file.is_file() and self.known.get(name) == tensors.digest(file))

    def _put(self, blob: bytes, entry: dict[str, Any], files: dict[str, str]) -> None:
        if len(blob) > self.room:
            self.omitted += files
            return
        self.room -= len(blob)
        self.blobs.append(entry | {"bytes": blob})
        self.files |= files


def _folders(runs: Sequence[Run], unfinished: bool) -> dict[Path, bool]:
    """Return results folders, and whether their files travel; a folder that others take their data from does."""
    open_ones = {folder for run in runs if not run.complete() for folder in (run.results, run.data)}
    every = {folder: None for run in runs for folder in (run.data, run.results) if folder.is_dir()}
    return {folder: not unfinished or folder in open_ones for folder in every} | {
        run.results: False for run in runs if not run.results.is_dir()
    }


def _weights(runs: Sequence[Run], folders: dict[Path, bool]) -> Iterable[choosing.Weights]:
    found: dict[Path, choosing.Weights] = {}
    for run in runs:
        for folder in (run.data, run.results):
            if folders.get(folder):
                found |= {one.file: one for one in choosing.weights(folder, run.config, run.data)}
    # What others are packed against comes first, needed like them: unpacking goes in this order.
    references = {one.reference for one in found.values() if one.needed}
    return sorted(
        (replace(one, needed=one.needed or one.file in references) for one in found.values()),
        key=lambda one: (one.reference is not None, not one.needed, -one.file.stat().st_mtime, str(one.file)),
    )


def _archive(files: Iterable[tuple[Path, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file, data in files:
            entry = tarfile.TarInfo(file.as_posix())
            entry.size, entry.mtime, entry.mode = len(data), file.stat().st_mtime, 0o644
            archive.addfile(entry, io.BytesIO(data))
    raw = stream.getvalue()
    packed = pa.Codec("zstd", compression_level=_LEVEL).compress(raw, asbytes=True)
    return len(raw).to_bytes(8, "little") + packed


def _write(out: Path, box: _Box, runs: Sequence[Run], aside: Sequence[str]) -> dict[str, Any]:
    blobs = box.blobs
    whole = b"".join(blob["bytes"] for blob in blobs)
    about = [
        {key: value for key, value in blob.items() if key != "bytes"}
        | {"size": len(blob["bytes"]), "sha256": hashlib.sha256(blob["bytes"]).hexdigest()}
        for blob in blobs
    ]
    identity = hashlib.sha256(whole).hexdigest()[:16]
    pieces = [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("part-*.tar"), out / LIST]:
        old.unlink(missing_ok=True)
    for number, piece in enumerate(pieces, 1):
        head = {"id": identity, "number": number, "of": len(pieces), "blobs": about, "aside": aside}
        head["sha256"] = hashlib.sha256(piece).hexdigest()
        with atomic_file(out / f"part-{number}-of-{len(pieces)}.tar") as partial, tarfile.open(partial, "w") as archive:
            for name, data in (("part.json", json.dumps(head, sort_keys=True).encode()), ("piece", piece)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    listed = {
        "id": identity,
        "parts": len(pieces),
        "bytes": len(whole),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "runs": {run.name: run.complete() for run in runs},
        "files": box.files,
        "omitted": box.omitted,
    }
    write_json(out / LIST, listed)
    return listed


def unpack(sources: Sequence[Path], *, remember: bool = True, partial: bool = False) -> dict[str, Any]:
    """Put the files of a pack back in their places below the working directory; return how many, and what.

    `sources` are parts, or folders of parts of one pack. Everything is checked before anything is written. Times keep
    their order but lie in the present, so that no file of a fresh checkout is newer. `remember`: work goes on here:
    note the files, so that the next `pack` leaves them out, and leave out folders that would count as made and are
    not whole. `partial`: of a pack whose last parts are missing, take what is whole; the rest is returned as `cut`.
    Raises DataError where parts are missing or damaged.
    """
    whole, blobs, aside = _joined(sources, partial)
    cut = cutting.cut(blobs, len(whole)) if partial else []
    written: dict[str, float] = {}
    same: list[str] = []
    for blob, data in _cut(whole, blobs, cut):
        if hashlib.sha256(data).hexdigest() != blob["sha256"]:
            raise DataError(f"{blob['name']} in the pack is damaged; copy the parts again")
    if remember and cut:
        aside = [*aside, *cutting.unusable(cut), *_halved(whole, blobs, cut)]
    for blob, data in _cut(whole, blobs, cut):
        if blob["kind"] == "records":
            here, there = _restored(data, aside if remember else ())
            written |= here
            same += there
        else:
            target = _inside(blob["name"])
            if cutting.here(blob):
                same.append(str(target))
                continue
            tensors.decode(data, target, Path(blob["reference"]) if blob["reference"] is not None else None)
            written[str(target)] = blob["mtime"]
    _order(written)
    if remember:
        earlier = read_json(KNOWN) if KNOWN.is_file() else {}
        write_json(KNOWN, earlier | {name: sha256_file(name) for name in [*written, *same]})
    weights = [b["name"] for b in blobs if b["kind"] == "weights" and b not in cut]
    return {"files": len(written), "weights": weights, "cut": cutting.names(cut)}


def _cut(
    whole: bytes, blobs: Sequence[dict[str, Any]], without: Sequence[dict[str, Any]] = ()
) -> Iterator[tuple[dict[str, Any], bytes]]:
    at = 0
    for blob in blobs:
        if blob not in without:
            yield blob, whole[at : at + blob["size"]]
        at += blob["size"]


def _halved(whole: bytes, blobs: Sequence[dict[str, Any]], cut: Sequence[dict[str, Any]]) -> list[str]:
    """Return the folder of the last record before the cut if it may be cut in two and would count as made."""
    last = None
    for blob, data in _cut(whole, blobs, cut):
        if blob["kind"] == "records":
            last = blob["name"], data
    if last is None or not any(one["name"] == last[0] for one in cut):
        return []
    with _opened(last[1]) as archive:
        folder = Path(archive.getnames()[-1]).parent
    # Models and their policies are left out with their weights, which lie behind.
    return [str(folder)] if folder.name == "tokenizer" else []


def _joined(sources: Sequence[Path], partial: bool) -> tuple[bytes, list[dict[str, Any]], list[str]]:
    parts: dict[int, bytes] = {}
    heads: dict[str, dict[str, Any]] = {}
    files = [
        file for source in sources for file in (sorted(source.glob("part-*.tar")) if source.is_dir() else [source])
    ]
    if not files:
        raise DataError(f"no part-*.tar in {', '.join(map(str, sources))}; name the folder that `pack` wrote")
    for file in files:
        try:
            with tarfile.open(file) as archive:
                read = [archive.extractfile(name) for name in ("part.json", "piece")]
                head, piece = json.loads(read[0].read()), read[1].read()  # type: ignore[union-attr]
        except (tarfile.TarError, KeyError, ValueError, AttributeError, OSError) as error:
            raise DataError(f"{file} is no part of a pack ({error}); copy it again") from error
        if hashlib.sha256(piece).hexdigest() != head["sha256"]:
            raise DataError(f"{file} is damaged; copy it again")
        heads[head["id"]] = head
        parts[head["number"]] = piece
    if len(heads) > 1:
        raise DataError(f"parts of {len(heads)} packs ({', '.join(sorted(heads))}); unpack one after the other")
    head = next(iter(heads.values()))
    missing = sorted(set(range(1, head["of"] + 1)) - parts.keys())
    if missing:
        first = missing[0]
        later = [number for number in sorted(parts) if number > first]
        parts = {number: piece for number, piece in parts.items() if number < first}
        remedy = "copy it, too"
        if parts and not partial:
            remedy += ", or take what is whole in the parts before it with --partial"
        if not partial or head["blobs"][0]["size"] > sum(map(len, parts.values())):
            raise DataError(f"part {first} of {head['of']} is missing; {remedy}")
        if later:
            _LOG.warning("part %d of %d is missing; ignored: %s", first, head["of"], ", ".join(map(str, later)))
    return b"".join(parts[number] for number in sorted(parts)), head["blobs"], head.get("aside", [])


def _inside(name: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{name!r} in the pack leaves the working directory; it was not made by `qwenlong replicate`")
    return path


def _opened(blob: bytes) -> tarfile.TarFile:
    raw = pa.decompress(blob[8:], int.from_bytes(blob[:8], "little"), "zstd", asbytes=True)
    return tarfile.open(fileobj=io.BytesIO(raw))


def _restored(blob: bytes, aside: Sequence[str] = ()) -> tuple[dict[str, float], list[str]]:
    """Write an archive's files but those in the folders `aside`; return those written with their times, and those that
    were the same already.
    """
    written: dict[str, float] = {}
    same: list[str] = []
    with _opened(blob) as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.isfile() else None
            if stream is None:
                continue
            target, data = _inside(entry.name), stream.read()
            if any(target.is_relative_to(folder) for folder in aside):
                continue
            if target.is_file() and target.read_bytes() == data:
                same.append(str(target))
                continue
            with atomic_file(target) as partial:
                partial.write_bytes(data)
            written[str(target)] = float(entry.mtime)
    return written, same


def _order(written: dict[str, float]) -> None:
    """Give files times of the present in the order of their own."""
    now, step = time.time(), 0.002
    ranks = {mtime: rank for rank, mtime in enumerate(sorted(set(written.values())))}
    for name, mtime in written.items():
        # Seconds back, so that none lies in the future.
        moment = now - (len(ranks) - ranks[mtime]) * step
        os.utime(name, (moment, moment))
