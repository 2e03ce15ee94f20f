"""An append-only file of finished turns, so that a killed run goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from qwenlong.core.errors import UsageError
from qwenlong.core.files import digest_value
from qwenlong.memory_agent.loop import Generate, Messages, Turn


class Journal:
    """Turns by name, on disk. One process at a time; a line that a kill cut short is dropped when it is read.

    The file belongs to one question, document, model and set of settings: put their digest into its name.
    Raises UsageError when another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replayed = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise UsageError(f"{path} is in use by another process; wait for it, or name another folder") from error
        self._turns = self._read()

    def _read(self) -> dict[str, Turn]:
        self._stream.seek(0)
        turns: dict[str, Turn] = {}
        whole = 0
        for line in self._stream.read().splitlines(keepends=True):
            try:
                entry = json.loads(line)
                turns[entry["key"]] = Turn(**entry["turn"])
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            whole += len(line)
        # What follows the last whole line would spoil the next one.
        self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)
        return turns

    def __len__(self) -> int:
        return len(self._turns)

    def get(self, key: str) -> Turn | None:
        """Return a stored turn, none when there is none."""
        return self._turns.get(key)

    def put(self, key: str, turn: Turn) -> None:
        """Store a turn; it is on disk when this returns."""
        line = json.dumps({"key": key, "turn": asdict(turn)}, ensure_ascii=False)
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._turns[key] = turn

    def wrap(self, generate: Generate, name: str = "") -> Generate:
        """Return `generate` with finished turns read from the journal; a turn is known by name, index and prompt."""

        async def journalled(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
            key = f"{name}/{turn_index}/{digest_value([messages, max_tokens])[:16]}"
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
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
