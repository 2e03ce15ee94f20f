"""What a killed merge leaves for the next one: finished weight files, each with its digest and its statistics."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong.checkpoints.weights import Entry, Weights, dtype_name
from qwenlong.core import ownership
from qwenlong.core.errors import DataError
from qwenlong.core.files import code_digest, digest_value, read_json, remove_partials, sha256_file, write_json

_PREFIX = "merge-"
_NAME = re.compile(f"{_PREFIX}[0-9a-f]{{16}}")


class State:
    """The finished files of exactly one merge: these inputs, settings, code and plan."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[Weights],
        settings: dict[str, Any],
        entries: Sequence[Entry],
        max_bytes: int,
    ) -> None:
        """Take the folder for this process and remove what other merges left in it.

        Raises QwenlongError when another live process has it.
        """
        folder = Path(folder).resolve()
        ownership.lock(folder.with_name(f"{folder.name}.lock"), "merge", folder)
        # Sizes and times, not digests: reading the inputs once more would cost as much as merging them.
        inputs = [
            [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(model.directory.iterdir())]
            for model in models
        ]
        plan = [(entry.name, list(entry.shape), dtype_name(entry.dtype)) for entry in entries]
        key = digest_value([inputs, settings, plan, max_bytes, code_digest("checkpoints")])[:16]
        self.folder = folder / f"{_PREFIX}{key}"
        for other in folder.glob(f"{_PREFIX}*"):
            # Of such a name, and nothing else: the folder may hold what is no merge's.
            if other != self.folder and _NAME.fullmatch(other.name):
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partials(self.folder)

    def finished(self, file: str) -> dict[str, Any] | None:
        """Return what is known of a finished file, None when it has to be written. Its digest is checked."""
        path, note = self.folder / file, self.folder / f"{file}.json"
        if not (path.is_file() and note.is_file()):
            return None
        try:
            done = read_json(note)
        except DataError:
            return None
        if not isinstance(done, dict) or not {"sha256", "tensors"} <= done.keys():
            return None
        return done if sha256_file(path) == done["sha256"] else None

    def finish(self, file: str, done: dict[str, Any]) -> None:
        """Note that a file, which is in the folder, is finished."""
        write_json(self.folder / f"{file}.json", done)

    def remove(self) -> None:
        """Remove the finished files: the merge is whole."""
        shutil.rmtree(self.folder)
