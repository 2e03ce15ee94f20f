"""Parts of a wheelhouse: tar files of at most a given size, each of which says what it is and what is in it.

A part holds the installer, the manifest, `part.json` and pieces of wheels (a whole wheel is one piece).
Any order and any mixture of folders will do to join them; a part of another wheelhouse is told by its id.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from wheels.common import NO_ROOM, NoRoom, Trouble, digest, megabytes, write_text
from wheels.publish import BESIDE

MIB = 1 << 20
#: Bytes of a tar member beside its content: header, a long name's two blocks, padding; and of its line in part.json.
MEMBER = 512 + 1024 + 512
LINE = 400
#: tar fills its end up to this.
END = 10240
#: No piece is shorter, unless it is a file's end.
SLIVER = 1 << 16


@dataclass(frozen=True)
class Piece:
    """Bytes `offset` to `offset + size` of a wheel."""

    file: str
    offset: int
    size: int


def layout(sizes: Mapping[str, int], room: int) -> list[list[Piece]]:
    """Divide files (name to bytes) into parts that hold `room` bytes each, overhead of each piece included.

    Files keep their order; one that does not fit is cut, so that parts are full but for less than SLIVER.
    """
    if room < MEMBER + LINE + SLIVER:
        raise ValueError(f"room {room} is below {MEMBER + LINE + SLIVER}")
    parts: list[list[Piece]] = [[]]
    left = room
    for file, size in sizes.items():
        offset = 0
        while True:
            if left < MEMBER + LINE + min(size - offset, SLIVER):
                parts.append([])
                left = room
            length = min(size - offset, left - MEMBER - LINE)
            parts[-1].append(Piece(file, offset, length))
            left -= length + MEMBER + LINE
            offset += length
            if offset >= size:
                break
    return parts


def cut(out: Path, content: dict[str, Any], identity: str, megabyte: int) -> list[Path]:
    """Write `out/parts`, each part at most `megabyte` MiB; return them. Nothing is done if they are there and whole."""
    beside = {name: (out / name).read_bytes() for name in BESIDE}
    fixed = END + 4096 + sum(len(data) + MEMBER for data in beside.values())
    room = megabyte * MIB - fixed
    if room < 4 * SLIVER:
        least = -(-(fixed + 4 * SLIVER) // MIB)
        raise Trouble(f"PART_MB = {megabyte} has no room beside the manifest; {least} is the least", 2)
    parts = layout({wheel["file"]: wheel["size"] for wheel in content["wheels"]}, room)
    names = [f"wheels-{identity[:8]}-{number:03d}-of-{len(parts):03d}.tar" for number in range(1, len(parts) + 1)]
    folder = out / "parts"
    if _whole(folder, names):
        return [folder / name for name in names]
    need = content["size"] + len(parts) * fixed
    free = shutil.disk_usage(out).free
    if free + sum(path.stat().st_size for path in folder.glob("*.tar")) < need:
        raise NoRoom(f"the parts need {megabytes(need)} more beside {out}; {megabytes(free)} are free")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        for number, name in enumerate(names):
            _write(out, folder / name, beside, parts[number], identity, number + 1, len(parts))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise NoRoom(f"no room for the parts under {folder}; make room and run the same again") from error
    for name in ("install.sh", "install.py", "install_files.py"):
        shutil.copy(out / name, folder / name)
    write_text(folder / "SHA256SUMS", "".join(f"{digest(folder / name)}  {name}\n" for name in names))
    return [folder / name for name in names]


def _whole(folder: Path, names: Sequence[str]) -> bool:
    """Say whether exactly these parts are there with the digests that were written down."""
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    sums = {line[66:]: line[:64] for line in lines}
    there = sorted(path.name for path in folder.glob("*.tar"))
    return there == sorted(names) == sorted(sums) and all(digest(folder / name) == sums[name] for name in names)


def _write(
    out: Path, path: Path, beside: Mapping[str, bytes], pieces: Sequence[Piece], identity: str, number: int, count: int
) -> None:
    """Write one part; its bytes depend on its content alone."""
    lines = []
    for piece in pieces:
        with (out / "wheels" / piece.file).open("rb") as file:
            file.seek(piece.offset)
            sha256 = hashlib.sha256(file.read(piece.size)).hexdigest()
        member = f"pieces/{piece.file}.{piece.offset:012d}"
        lines.append(
            {"file": piece.file, "offset": piece.offset, "size": piece.size, "sha256": sha256, "member": member}
        )
    note = {"id": identity, "part": number, "parts": count, "pieces": lines}
    partial = path.with_name(f".{path.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        _member(archive, "part.json", io.BytesIO(json.dumps(note).encode()), len(json.dumps(note).encode()))
        for name, data in beside.items():
            _member(archive, name, io.BytesIO(data), len(data))
        for piece, line in zip(pieces, lines):  # noqa: B905 - as long as each other
            with (out / "wheels" / piece.file).open("rb") as file:
                file.seek(piece.offset)
                _member(archive, str(line["member"]), file, piece.size)
    partial.replace(path)


def _member(archive: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    item = tarfile.TarInfo(name)
    item.size, item.mode = size, 0o755 if name == "install.sh" else 0o644
    archive.addfile(item, content)
