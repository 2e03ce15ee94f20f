"""A journal of finished items: one JSON line each, on disk before the next step, so that a kill loses none."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import append_line


class Journal:
    """Lines of {"id", "request", …} in a file; the last line of an id and request counts. `with Journal(path) as j:`.

    What a kill left of a last line is cut off when the file is opened. Raises QwenlongError when another process has
    it open, DataError naming the line when the file is damaged elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        self._lines: list[dict[str, Any]] = []
        self._descriptor = -1

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._load()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def get(self, item: str, request: str) -> dict[str, Any] | None:
        """Return the entry of an item for this very request, None where there is none."""
        return self._entries.get((item, request))

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries in the order in which they were written, those that a later one replaced included."""
        return list(self._lines)

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry and wait until it is on disk. Raises QwenlongError when the disk is full."""
        line = json.dumps(entry, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        append_line(self._descriptor, line, self.path)
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        self._lines.append(entry)
        self._entries[entry["id"], entry["request"]] = entry

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QwenlongError(f"another process writes {self.path}; wait for it or stop it") from None
        except OSError:
            return  # A file system without locks: one run at a time is up to the user.

    def _load(self) -> None:
        data = self.path.read_bytes()
        whole = 0
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                if number < len(lines):
                    raise DataError(
                        f"{self.path}, line {number} is no entry of a journal ({line[:40]!r}…); remove that line, and "
                        "its item is asked again"
                    )
                os.ftruncate(self._descriptor, whole)
                return
            whole += len(line)
            self._take(entry)
        if data and not data.endswith(b"\n"):
            os.write(self._descriptor, b"\n")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    known = isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("request"), str)
    return value if known else None
