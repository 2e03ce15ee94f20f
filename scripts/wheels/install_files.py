"""Reads a wheelhouse, joins it where it comes in parts, and checks every file; install.py uses it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FORMAT = "qwenlong-wheelhouse-1"
FILE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl$")


class Trouble(Exception):
    """What the user can mend; `code` is the exit code: 1 failed, 2 wrong usage."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def told(work: Callable[[], None]) -> int:
    """Run a command; say in one message what went wrong, and return the exit code."""
    try:
        work()
    except Trouble as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"error: {error}; mend it and run the same again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; run the same again to go on", file=sys.stderr)
        return 130
    return 0


def megabytes(size: float) -> str:
    """Write a size in bytes as people read it."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def listed(lines: list[str], most: int = 12) -> str:
    """Return the first lines, indented, and how many more there are."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *more])


def manifest_of(data: bytes, where: str) -> dict[str, Any]:
    """Read a manifest and refuse names that would lead out of a folder."""
    try:
        content = json.loads(data)
        names = [wheel["file"] for wheel in content["wheels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Trouble(f"the manifest of {where} is damaged ({error}); copy it again") from error
    if content.get("format") != FORMAT:
        raise Trouble(f"{where} is of format {content.get('format')!r}; this installer reads {FORMAT}")
    bad = [name for name in names if not FILE.match(str(name))]
    if bad or len(set(names)) != len(names):
        raise Trouble(f"the manifest of {where} names files that no wheelhouse holds: {bad[:3] or 'one twice'}")
    return dict(content)


Piece = dict[str, Any]


def read_part(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return what a part says of itself, and its manifest."""
    try:
        with tarfile.open(path, "r:") as archive:
            note_file, manifest_file = archive.extractfile("part.json"), archive.extractfile("manifest.json")
            assert note_file is not None and manifest_file is not None
            note, data = json.loads(note_file.read()), manifest_file.read()
            if hashlib.sha256(data).hexdigest() != note["id"]:
                raise Trouble(f"{path.name} is damaged (its manifest is not the one of its id); copy it again")
            for piece in note["pieces"]:
                member = archive.getmember(piece["member"])
                piece["at"], piece["path"] = member.offset_data, path
                if member.size != piece["size"]:
                    raise Trouble(f"{path.name} is damaged ({piece['member']} has another size); copy it again")
    except (tarfile.TarError, KeyError, ValueError, TypeError, AssertionError, EOFError, OSError) as error:
        raise Trouble(f"{path.name} is cut off or damaged ({error}); copy it again") from error
    return note, data


def parts_under(sources: list[Path]) -> list[Path]:
    """Return the parts named, and those in folders named (or in their folder `parts`)."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += sorted([*source.glob("wheels-*-of-*.tar"), *source.glob("parts/wheels-*-of-*.tar")])
        elif source.is_file():
            found.append(source)
        else:
            raise Trouble(f"--from: there is no {source}", 2)
    return list(dict.fromkeys(path.resolve() for path in found))


def read_parts(paths: list[Path]) -> tuple[dict[str, Any], str, dict[str, list[Piece]]]:
    """Return manifest, id, and each wheel's pieces in order of offset; say which parts are missing or strange."""
    notes: dict[str, dict[int, Path]] = {}
    pieces: dict[str, list[Piece]] = {}
    data, count = b"", 0
    for path in paths:
        note, data = read_part(path)
        count = note["parts"]
        seen = notes.setdefault(note["id"], {})
        if note["part"] not in seen:
            for piece in note["pieces"]:
                pieces.setdefault(piece["file"], []).append(piece)
        seen[note["part"]] = path
    if len(notes) > 1:
        lines = [
            f"{identity[:8]}: {', '.join(path.name for path in seen.values())}" for identity, seen in notes.items()
        ]
        raise Trouble(f"these are parts of {len(notes)} wheelhouses; keep those of one:{listed(lines)}")
    ((identity, seen),) = notes.items()
    missing = [str(number) for number in range(1, count + 1) if number not in seen]
    if missing:
        raise Trouble(f"{len(missing)} of {count} parts are not here: {', '.join(missing)} (wheels-{identity[:8]}-…)")
    for line in pieces.values():
        line.sort(key=lambda piece: piece["offset"])
    return manifest_of(data, f"wheels-{identity[:8]}-…"), identity, pieces


def join(content: dict[str, Any], pieces: dict[str, list[Piece]], into: Path) -> None:
    """Put the wheels together; those that are there and whole stay."""
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Trouble(f"cannot make {into} ({error.strerror}); name another folder with --joined") from error
    wanted = [wheel for wheel in content["wheels"] if not whole(into / wheel["file"], wheel)]
    room(into, sum(wheel["size"] for wheel in wanted), "joining the parts")
    for number, wheel in enumerate(wanted, 1):
        partial = into / f".{wheel['file']}.partial"
        state = hashlib.sha256()
        with partial.open("wb") as file:
            for piece in pieces.get(wheel["file"], []):
                with piece["path"].open("rb") as part:
                    part.seek(piece["at"])
                    data = part.read(piece["size"])
                if hashlib.sha256(data).hexdigest() != piece["sha256"]:
                    raise Trouble(f"{piece['path'].name} is damaged ({piece['member']}); copy it again")
                state.update(data)
                file.write(data)
        if state.hexdigest() != wheel["sha256"]:
            partial.unlink()
            raise Trouble(f"the pieces of {wheel['file']} do not make the file of the manifest; copy all parts again")
        partial.replace(into / wheel["file"])
        if number % 50 == 0:
            print(f"{number} of {len(wanted)} wheels joined", flush=True)


def whole(path: Path, wheel: dict[str, Any]) -> bool:
    """Say whether a wheel is there with the manifest's size and digest."""
    if not path.is_file() or path.stat().st_size != wheel["size"]:
        return False
    state = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest() == wheel["sha256"]


def room(folder: Path, need: int, what: str) -> None:
    """Raise if the disk of a folder has less room than needed."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Trouble(f"{what} needs {megabytes(need)} on the disk of {folder}, which has {megabytes(free)} free")


def locate(sources: list[Path], joined: Path) -> tuple[dict[str, Any], str, Path]:
    """Find a wheelhouse, putting parts together in `joined`; return manifest, id and folder of wheels, all checked."""
    ready = [source for source in sources if (source / "manifest.json").is_file() and (source / "wheels").is_dir()]
    if ready:
        data = (ready[0] / "manifest.json").read_bytes()
        content, identity, wheels = (
            manifest_of(data, str(ready[0])),
            hashlib.sha256(data).hexdigest(),
            ready[0] / "wheels",
        )
    else:
        paths = parts_under(sources)
        if not paths:
            raise Trouble(f"no wheelhouse and no parts under {', '.join(map(str, sources))}; name them with --from", 2)
        content, identity, pieces = read_parts(paths)
        print(f"{len(paths)} parts of wheelhouse {identity[:8]}, {megabytes(content['size'])}", flush=True)
        wheels = joined / "wheels"
        join(content, pieces, wheels)
    lines = []
    for wheel in content["wheels"]:
        path = wheels / wheel["file"]
        if not path.is_file():
            lines.append(f"{wheel['file']} is missing")
        elif not whole(path, wheel):
            lines.append(f"{wheel['file']} is damaged ({path.stat().st_size} bytes, expected {wheel['size']})")
    if lines:
        raise Trouble(
            f"{len(lines)} of {len(content['wheels'])} wheels cannot be used; copy them again:{listed(lines)}"
        )
    print(f"{len(content['wheels'])} wheels are whole (sha256)", flush=True)
    return content, identity, wheels
