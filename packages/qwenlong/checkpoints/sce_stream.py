"""SCE of a tensor that is read and written in pieces, on the cores of this machine; bit for bit `sce.merge_tensor`.

Memory does not grow with the tensor: a thread holds one piece of `PIECE` elements of the base and of every expert.
Time grows linearly: the tensors are read twice at select_top = 1, seven or eight times below it.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from qwenlong.checkpoints import sce
from qwenlong.checkpoints import sce_kernels as kernels

#: Elements worked on at a time: three float32 copies fit a core's own cache. A multiple of `sce.BLOCK`.
PIECE = 1 << 16
#: Where a merged piece goes: called with the flat index of its first element and the values, from any thread.
Put = Callable[[int, Tensor], None]
Found = TypeVar("Found")


def merge_pieces(
    base: Tensor,
    experts: Sequence[Tensor],
    put: Put,
    select_top: float = 1.0,
    select_mode: str = "reference",
    *,
    dtype: torch.dtype | None = None,
    pool: Executor | None = None,
) -> dict[str, Any]:
    """Merge a tensor piece by piece, hand every piece to `put` once, and return the statistics.

    Args:
        base: any shape, on the CPU, best memory-mapped; of one of `sce.EXACT`.
        experts: two or more tensors of the shape of `base`, of `sce.EXACT`.
        put: takes the merged pieces, in any order.
        select_top: see `sce.merge_tensor`.
        select_mode: see `sce.merge_tensor`.
        dtype: of the pieces; None: that of `base`.
        pool: threads that share the pieces; None: the caller's thread alone. The result does not depend on it.

    Raises ValueError as `sce.merge_tensor` does.
    """
    pieces = _Pieces(base, experts, pool)
    n, n_experts = base.numel(), len(experts)
    # The variances of anything else are no numbers that could be counted by their bits.
    if select_top < 1 and not all(pieces.each(lambda start, values: kernels.finite(values))):
        sce.check(base, experts, select_top, select_mode)
    mask = _Mask(pieces, select_top)

    def squares(start: int, values: np.ndarray) -> tuple[int, np.ndarray]:
        sums = np.empty((n_experts, -(-values.shape[1] // sce.BLOCK)))
        return kernels.energies(values, *mask.at(start), sums), sums

    parts = list(pieces.each(squares))
    if not all(bool(np.isfinite(sums).all()) for _, sums in parts):
        sce.check(base, experts, select_top, select_mode)
    etas = sce.coefficients([[value for _, sums in parts for value in sums[j].tolist()] for j in range(n_experts)])
    n_selected = sum(selected for selected, _ in parts)
    del parts
    eta = np.array(etas)
    kind = dtype or base.dtype

    def write(start: int, values: np.ndarray) -> tuple[int, int, int]:
        out = pieces.result(values.shape[1])
        masked = mask.at(start) if select_mode == "mergekit" else _ALL
        counts: tuple[int, int, int] = kernels.merge(values, eta, *masked, out)
        merged = torch.from_numpy(out).to(kind)
        if not bool(torch.isfinite(merged).all()):
            raise ValueError(f"the merged tensor overflows {kind}; write a wider dtype")
        put(start, merged)
        return counts

    counts = list(pieces.each(write))
    return sce.statistics(n, etas, n_selected, *(sum(part[number] for part in counts) for number in range(3)))


#: What the kernels are told where everything is selected: masked, threshold, inclusive, ties.
_ALL = (False, 0.0, False, 0)


class _Pieces:
    """The pieces of a tensor and its experts, as float32, in buffers that a thread keeps."""

    def __init__(self, base: Tensor, experts: Sequence[Tensor], pool: Executor | None) -> None:
        self._tensors = [tensor.detach().reshape(-1) for tensor in (base, *experts)]
        self._n = base.numel()
        self._pool = pool
        self._own = threading.local()

    def _buffers(self) -> tuple[Tensor, np.ndarray]:
        if not hasattr(self._own, "buffers"):
            size = min(PIECE, self._n)
            self._own.buffers = torch.empty(len(self._tensors), size), np.empty(size)
        return self._own.buffers  # type: ignore[no-any-return]

    def _load(self, start: int) -> np.ndarray:
        buffer, _ = self._buffers()
        stop = min(start + PIECE, self._n)
        for row, tensor in zip(buffer, self._tensors, strict=True):
            row[: stop - start].copy_(tensor[start:stop])
        return buffer.numpy()[:, : stop - start]

    def result(self, n: int) -> np.ndarray:
        """A float64 buffer of n elements; it is overwritten with this thread's next piece."""
        return self._buffers()[1][:n]

    def each(self, work: Callable[[int, np.ndarray], Found]) -> Iterable[Found]:
        """Call `work(start, values)` for every piece and return what it returns, in order."""

        def one(start: int) -> Found:
            return work(start, self._load(start))

        starts = range(0, self._n, PIECE)
        return map(one, starts) if self._pool is None else self._pool.map(one, starts)


class _Mask:
    """The selected elements: those of a variance above a threshold, and some of those at it."""

    def __init__(self, pieces: _Pieces, select_top: float) -> None:
        self._all = select_top == 1
        if self._all:
            return
        counts, nonzero = self._count(pieces, 48, 0)
        k = int(select_top * nonzero)
        self._threshold, self._inclusive = math.inf, False
        self._ties: dict[int, int] = {}
        if not k:
            return
        bits = above = 0
        for shift in (48, 32, 16, 0):
            if shift < 48:
                counts, _ = self._count(pieces, shift, bits >> (shift + 16))
            reached = np.cumsum(counts[::-1]) + above
            place = int(np.argmax(reached >= k))
            above = int(reached[place - 1]) if place else above
            bits |= (kernels.BUCKETS - 1 - place) << shift
        (self._threshold,) = struct.unpack("<d", struct.pack("<q", bits))
        ties = k - above
        self._inclusive = ties == counts[bits & 0xFFFF]
        if not self._inclusive:
            # The first ones: what is left of them where a piece begins.
            found = pieces.each(lambda start, values: (start, kernels.equal_to(values, self._threshold)))
            for start, equal in found:
                self._ties[start] = ties
                ties = max(ties - equal, 0)

    @staticmethod
    def _count(pieces: _Pieces, shift: int, prefix: int) -> tuple[np.ndarray, int]:
        total = np.zeros(kernels.BUCKETS, dtype=np.int64)
        lock = threading.Lock()
        own = threading.local()

        def count(start: int, values: np.ndarray) -> int:
            if not hasattr(own, "counts"):
                own.counts = np.zeros(kernels.BUCKETS, dtype=np.int64)
                with lock:
                    tables.append(own.counts)
            return kernels.histogram(values, shift, prefix, own.counts)  # type: ignore[no-any-return]

        tables: list[np.ndarray] = []
        nonzero = sum(pieces.each(count))
        for counts in tables:
            total += counts
        return total, nonzero

    def at(self, start: int) -> tuple[bool, float, bool, int]:
        """What the kernels are told of a piece: masked, threshold, inclusive, ties."""
        if self._all:
            return _ALL
        return True, self._threshold, self._inclusive, self._ties.get(start, 0)
