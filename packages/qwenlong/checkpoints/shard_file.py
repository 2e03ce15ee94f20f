"""A safetensors file that is written in pieces, in any order and from any thread, without holding a tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from qwenlong.checkpoints.weights import Entry, header


class ShardFile:
    """An open file of the tensors of `entries`; a context manager. The bytes are those of `weights.write_file`.

    What is never put is zero. The caller provides for atomicity.
    """

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        """Create the file at its full size, header written."""
        text, places, size = header(entries)
        self._places = {entry.name: (entry, places[entry.name]) for entry in entries}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(self._file, size)
            self._write(text, 0)
        except BaseException:
            os.close(self._file)
            raise

    def put(self, name: str, start: int, values: Tensor) -> None:
        """Write a flat piece of a tensor, of its dtype, from its flat index `start` on."""
        entry, place = self._places[name]
        if values.dtype != entry.dtype or start + values.numel() > entry.elements:
            raise AssertionError(f"{values.numel()} values of {values.dtype} at {start} do not fit {entry}")
        if values.numel():
            data = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._write(memoryview(data), place + start * entry.dtype.itemsize)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        # Positioned, so that threads need no order; a write may take less than it was given.
        left = memoryview(data)
        while left:
            written = os.pwrite(self._file, left, at)
            left, at = left[written:], at + written

    def __enter__(self) -> ShardFile:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        os.close(self._file)
