"""Finished turns on disk, so that a killed run goes on where it stopped and a finished one replays without a call.

A file of JSON lines that only grows, each line with a checksum of its own bytes, rather than a database: one item is
written by one process in order and read once, a line stands or falls by itself, thousands of items are thousands of
small files of which only those under way are open, and any tool can read them. A kill costs the line being written;
bytes that went bad cost the turns they hold, which are asked again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import append_line, digest_value
from qwenlong.core.logs import get
from qwenlong.memory_agent.loop import Generate, Messages, Turn

_LOG = get(__name__)
#: Version of the lines; a file of another one is refused.
VERSION = 2
_LINE = re.compile(rb'\{"sum": "([0-9a-f]{8})", (.*\})', re.DOTALL)


def encode(entry: Mapping[str, Any]) -> bytes:
    """Return an entry as a line: its JSON, led by the CRC-32 of the rest of the line."""
    body = json.dumps(entry, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")[1:]
    return b'{"sum": "%08x", %s\n' % (zlib.crc32(body), body)


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line without its end, none when the line is cut short or not what was written."""
    match = _LINE.fullmatch(line)
    if match is None or zlib.crc32(match[2]) != int(match[1], 16):
        return None
    entry: dict[str, Any] = json.loads((b"{" + match[2]).decode("utf-8", "surrogatepass"))
    return entry


def place(folder: Path, belongs_to: Mapping[str, Any]) -> Path:
    """Return where the journal of something stands in a folder of journals: one of 256 folders, so that none is big."""
    digest = digest_value(belongs_to)
    return folder / digest[:2] / f"{digest[:24]}.jsonl"


class Journal:
    """Turns by name, on disk as soon as they are there. One process at a time.

    `belongs_to` says what the turns answer (question, document, model, settings, prompts, as digests or short texts).
    It is the file's first line and part of every key: a file of something else is refused with what differs.
    What a kill left of a last line is dropped. Lines damaged otherwise are passed over with a warning: their turns are
    asked again, the others stand. `replayed` counts the turns that were read instead of asked for.

    Raises UsageError when another process has the file open, DataError when it belongs to something else or is no
    journal, QwenlongError when the disk is full.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.replayed = 0
        self._owner = dict(belongs_to or {})
        self._prefix = digest_value(self._owner)[:12]
        self._turns: dict[str, Turn] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            if not self._load():
                self._append({"journal": VERSION, "belongs_to": self._owner})
                # Without it a power cut may take the name of a file whose bytes are safe.
                _sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.path} is in use by another process; wait for it, or name another folder") from None
        except OSError:
            _LOG.warning("%s is on a file system without locks; run one command on it at a time", self.path)

    def _load(self) -> bool:
        """Read the file; tell whether it says what it belongs to."""
        data = self.path.read_bytes()
        *lines, rest = data.split(b"\n")
        if rest and decode(rest) is not None:
            os.write(self._descriptor, b"\n")
            lines.append(rest)
        elif rest:
            os.ftruncate(self._descriptor, len(data) - len(rest))
            _LOG.warning("%s ended in %d bytes of a line that was never finished; dropped", self.path, len(rest))
        entries = [decode(line) for line in lines]
        damaged = [number for number, entry in enumerate(entries, 1) if entry is None]
        if lines and len(damaged) == len(lines):
            raise DataError(f"{self.path}: no line of it is a journal's; remove it, or name another folder")
        if damaged:
            shown = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
            _LOG.warning(
                "%s: %d of %d lines are not as they were written (line %s); their turns are asked again, others stand",
                *(self.path, len(damaged), len(lines), shown),
            )
        return any([self._take(entry) for entry in entries if entry is not None])

    def _take(self, entry: Mapping[str, Any]) -> bool:
        """Keep what a line says; tell whether it is the one that names the owner."""
        try:
            if "journal" in entry:
                self._check(entry["journal"], entry["belongs_to"])
                return True
            self._turns[entry["key"]] = Turn(**entry["turn"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} was written by another version ({error}); remove it, or name another folder"
            ) from error
        return False

    def _check(self, version: object, owner: Mapping[str, Any]) -> None:
        if version != VERSION:
            raise DataError(f"{self.path} has version {version!r}, not {VERSION}; remove it, or name another folder")
        names = sorted(name for name in {*owner, *self._owner} if owner.get(name) != self._owner.get(name))
        if names:
            there, here = owner.get(names[0]), self._owner.get(names[0])
            raise DataError(
                f"{self.path} belongs to something else: {names[0]} is {str(there)[:80]!r} there and "
                f"{str(here)[:80]!r} here; remove it, or name another folder"
            )

    def __len__(self) -> int:
        return len(self._turns)

    def get(self, key: str) -> Turn | None:
        """Return a stored turn, none when there is none."""
        return self._turns.get(key)

    def put(self, key: str, turn: Turn) -> None:
        """Store a turn; it is on disk when this returns."""
        self._append({"key": key, "turn": asdict(turn)})
        self._turns[key] = turn

    def _append(self, entry: Mapping[str, Any]) -> None:
        append_line(self._descriptor, encode(entry), self.path)

    def wrap(self, generate: Generate, name: str = "") -> Generate:
        """Return `generate` with finished turns read from the journal.

        A turn is known by owner, name, index and prompt: a prompt that changed meets no old turn.
        """

        async def journalled(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
            key = f"{self._prefix}/{name}/{turn_index}/{digest_value([messages, max_tokens])[:16]}"
            stored = self.get(key)
            if stored is not None:
                self.replayed += 1
                return stored
            turn = await generate(messages, max_tokens, turn_index)
            self.put(key, turn)
            return turn

        return journalled

    def close(self, remove: bool = False) -> None:
        """Let go of the file; with `remove`, delete it first."""
        if remove:
            self.path.unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
