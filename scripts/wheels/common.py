"""Errors, names and digests that the parts share."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from pathlib import Path

# The installer travels without the rest of this folder, so that what both need stands there.
from wheels.install_files import Trouble, megabytes, told

__all__ = ["Trouble", "megabytes", "told"]

#: Error numbers of a full disk, a quota, and a limit on the size of a file, and how pip words them.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_WORDS = tuple(os.strerror(number) for number in NO_ROOM)


class Hopeless(Trouble):
    """Trouble that every further package would meet too."""


class NoRoom(Hopeless):
    """The disk is full."""


class Unreachable(Hopeless):
    """The registry cannot be reached, or refuses."""


def canonical(name: str) -> str:
    """Return a package's name as registries compare it: lower case, runs of `-_.` as one dash."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest()


def to_json(content: object) -> str:
    """Return JSON with sorted keys: the same content gives the same bytes."""
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoRoom(f"no room to write {path}: {error.strerror}; make room, then run the same again") from error
        raise
    finally:
        if partial.exists():
            partial.unlink()
