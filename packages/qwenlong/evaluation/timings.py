"""Time, tries and server of each response: beside the predictions, since equal runs differ in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from qwenlong.core.files import NO_ROOM, disk_full
from qwenlong.core.records import Prediction


class Timings:
    """Rows of {"id", "seconds", "turns", "requests", "retries", "failures", "server"} that outlive a killed run.

    Kept in `path` as they come; the row that a response had when the model was really asked stands, not that of a
    run which read it from the journal. A line that a kill cut short is passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
            try:
                row = json.loads(line)
                self._rows[row["id"]] = row
            except (ValueError, TypeError, KeyError):
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = path.open("a", encoding="utf-8")
        # Behind what may be half a line.
        self._stream.write("\n")

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row. Raises StorageError when the disk is full."""
        if not row["requests"] and row["id"] in self._rows:
            return
        self._rows[row["id"]] = row
        try:
            self._stream.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")
            self._stream.flush()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise disk_full(self.path, error.strerror) from error
            raise

    def rows(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Return the rows of those predictions that have one, in their order."""
        return [self._rows[one.id] for one in predictions if one.id in self._rows]

    def close(self, remove: bool = False) -> None:
        """Let go of the file; with `remove`, delete it."""
        self._stream.close()
        if remove:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Timings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
