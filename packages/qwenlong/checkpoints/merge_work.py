"""The work of a merge: tensors, and the matrices of stacked experts, one by one or in pieces, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints import methods, sce
from qwenlong.checkpoints.experts import is_stack
from qwenlong.checkpoints.shard_file import ShardFile
from qwenlong.checkpoints.weights import Entry, Weights
from qwenlong.core.errors import DataError, UsageError

#: Matrices of more elements are shared by all cores, piece by piece; of the others each core takes whole ones.
SHARED = 1 << 23


@dataclass(frozen=True)
class Matrix:
    """What is merged for itself: a tensor, or the matrix of one expert of a stack."""

    entry: Entry
    number: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.entry.elements // (1 if self.number is None else self.entry.shape[0])

    @property
    def name(self) -> str:
        """The tensor's name, with the expert's number."""
        return self.entry.name if self.number is None else f"{self.entry.name}[{self.number}]"


class Merger:
    """Merges tensors of open models into files; keeps the statistics of each tensor until they are fetched."""

    def __init__(
        self,
        models: Sequence[Weights],
        method: str,
        settings: Mapping[str, Any],
        *,
        cores: int | None = None,
        device: str = "cpu",
        on_tensor: Callable[[str], None] | None = None,
    ) -> None:
        """Take open models, the base first, and a method with all its settings.

        `cores`: threads; None: as many as this process may use.
        """
        self._base, self._experts = models[0], models[1:]
        self._settings = settings if method == "sce" else None
        self._method = methods.function(method, settings)
        self._device = open_device(device)
        self._cores = cores or len(os.sched_getaffinity(0))
        self._on_tensor = on_tensor

    def write(self, entries: Sequence[Entry], file: ShardFile) -> dict[str, dict[str, Any]]:
        """Merge the tensors of a file into it and return their statistics by name.

        Raises DataError naming the tensor.
        """
        found: dict[str, dict[str, Any]] = {}
        with _threads(self._cores) as pool:
            for matrix, stats in self._all(entries, file, pool):
                name = matrix.entry.name
                if matrix.number is None:
                    found[name] = stats
                else:
                    stack = found.setdefault(name, {"elements": matrix.entry.elements, "matrices": []})
                    stack["matrices"].append(stats)
                    if matrix.number < matrix.entry.shape[0] - 1:
                        continue
                if self._on_tensor is not None:
                    self._on_tensor(name)
        return found

    def _all(
        self, entries: Sequence[Entry], file: ShardFile, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Matrix, dict[str, Any]]]:
        """Merge all matrices, in order: runs of small ones side by side, a large one by all threads together."""
        small: list[Matrix] = []

        def run() -> Iterator[tuple[Matrix, dict[str, Any]]]:
            yield from zip(small, pool.map(lambda matrix: self._one(matrix, file, None), small), strict=True)
            small.clear()

        for matrix in matrices(entries):
            if self._device.type == "cpu" and matrix.elements <= SHARED:
                small.append(matrix)
                continue
            yield from run()
            yield matrix, self._one(matrix, file, pool)
        yield from run()

    def _one(self, matrix: Matrix, file: ShardFile, pool: ThreadPoolExecutor | None) -> dict[str, Any]:
        try:
            return self._merge(matrix, file, pool)
        except ValueError as error:
            raise DataError(f"{matrix.name}: {error}") from error

    def _merge(self, matrix: Matrix, file: ShardFile, pool: ThreadPoolExecutor | None) -> dict[str, Any]:
        entry = matrix.entry
        base, *experts = [_read(model, matrix) for model in (self._base, *self._experts)]
        if not entry.dtype.is_floating_point:
            if not all(torch.equal(base, expert) for expert in experts):
                raise ValueError(f"a {entry.dtype} tensor cannot be merged and differs between the models")
            file.put(entry.name, 0, base)
            return {"elements": entry.elements, "kept": True}
        begin = (matrix.number or 0) * matrix.elements

        def put(start: int, values: Tensor) -> None:
            file.put(entry.name, begin + start, values)

        plain = self._device.type == "cpu" and all(tensor.dtype in sce.EXACT for tensor in (base, *experts))
        if plain and self._settings is not None:
            # Compiled code, which checking settings and files need not wait for.
            from qwenlong.checkpoints.sce_stream import merge_pieces

            return merge_pieces(base, experts, put, **self._settings, dtype=entry.dtype, pool=pool)
        moved = [tensor.to(self._device) for tensor in (base, *experts)]
        merged, stats = self._method(matrix.name, moved[0], moved[1:], entry.dtype)
        flat = merged.reshape(-1)
        for start in range(0, flat.numel(), SHARED):
            put(start, flat[start : start + SHARED])
        return stats


def matrices(entries: Sequence[Entry]) -> Iterator[Matrix]:
    """Yield what is merged for itself, in order."""
    for entry in entries:
        if is_stack(entry) and entry.dtype.is_floating_point:
            yield from (Matrix(entry, number) for number in range(entry.shape[0]))
        else:
            yield Matrix(entry)


def open_device(name: str) -> torch.device:
    """Return the device of a name such as "cpu", "cuda" or "cuda:1". Raises UsageError where it cannot be used."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here ({reason}); choose cpu, or cuda with a GPU") from error
    return device


def _read(model: Weights, matrix: Matrix) -> Tensor:
    if matrix.number is None:
        return model.tensor(matrix.entry.name)
    return model.matrix(matrix.entry.name, matrix.number)


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each for work of its own: torch's threads rest; on an error what waits is not begun."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(number, thread_name_prefix="merge")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
