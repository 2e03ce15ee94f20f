"""SCE of a tensor that is read and written in pieces, on the cores of this machine; bit for bit `sce.merge_tensor`.

Memory does not grow with the tensor: a thread holds one piece of `PIECE` elements of the base and of every expert.
Time grows linearly: the tensors are read twice at select_top = 1, four or five times below it, more
where most variances are nearly equal.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from qwenlong.checkpoints import sce
from qwenlong.checkpoints import sce_kernels as kernels
from qwenlong.checkpoints.deltas import statistics

#: Elements worked on at a time: three float32 copies fit a core's own cache. A multiple of `sce.BLOCK`.
PIECE = 1 << 16
#: Pieces that a thread takes at a time.
TASK = 16
#: Variances held at most while the k-th largest is sought: 32 MiB of float64.
HELD = 1 << 22
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
    mask = _Mask(pieces, select_top)

    def squares(start: int, values: np.ndarray) -> tuple[int, np.ndarray]:
        sums = np.empty((n_experts, -(-values.shape[1] // sce.BLOCK)))
        return kernels.energies(values, *mask.at(start), sums), sums

    parts = list(pieces.each(squares))
    if mask.bad or not all(bool(np.isfinite(sums).all()) for _, sums in parts):
        sce.check(base, experts, select_top, select_mode)
    etas = sce.coefficients([[value for _, sums in parts for value in sums[j].tolist()] for j in range(n_experts)])
    n_selected = sum(selected for selected, _ in parts)
    del parts
    eta = np.array(etas)
    kind = dtype or base.dtype

    def write(start: int, values: np.ndarray) -> tuple[int, int, int]:
        out, bits = pieces.buffers(values.shape[1])
        masked = mask.at(start) if select_mode == "mergekit" else _ALL
        counts: tuple[int, int, int] = kernels.merge(values, eta, *masked, out)
        put(start, _rounded(out, kind, bits))
        return counts

    counts = list(pieces.each(write))
    return statistics(n, etas, n_selected, *(sum(part[number] for part in counts) for number in range(3)))


def _rounded(values: np.ndarray, dtype: torch.dtype, bits: np.ndarray) -> Tensor:
    if dtype == torch.bfloat16:
        fits, rounded = kernels.to_bfloat16(values, bits), torch.from_numpy(bits).view(torch.bfloat16)
    else:
        rounded = torch.from_numpy(values).to(dtype)
        fits = bool(torch.isfinite(rounded).all())
    if not fits:
        raise ValueError(f"the merged tensor overflows {dtype}; write a wider dtype")
    return rounded


#: What the kernels are told where everything is selected: masked, threshold, inclusive, ties.
_ALL = (False, 0.0, False, 0)


class _Pieces:
    """The pieces of a tensor and its experts, as float32, in buffers that a thread keeps."""

    def __init__(self, base: Tensor, experts: Sequence[Tensor], pool: Executor | None) -> None:
        self._tensors = [tensor.detach().reshape(-1) for tensor in (base, *experts)]
        self._n = base.numel()
        self._pool = pool
        self._own = threading.local()

    def _own_buffers(self) -> tuple[Tensor, np.ndarray, np.ndarray]:
        # Kept: memory of this size is mapped and unmapped by every allocation, and threads wait for each other at that.
        if not hasattr(self._own, "buffers"):
            size = min(PIECE, self._n)
            inputs = torch.empty(len(self._tensors), size)
            self._own.buffers = inputs, np.empty(size), np.empty(size, dtype=np.uint16)
        return self._own.buffers  # type: ignore[no-any-return]

    def _load(self, start: int) -> np.ndarray:
        buffer = self._own_buffers()[0]
        stop = min(start + PIECE, self._n)
        for row, tensor in zip(buffer, self._tensors, strict=True):
            row[: stop - start].copy_(tensor[start:stop])
        return buffer.numpy()[:, : stop - start]

    def buffers(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Buffers of n float64 and n uint16; they are overwritten with this thread's next piece."""
        _, wide, narrow = self._own_buffers()
        return wide[:n], narrow[:n]

    def each(self, work: Callable[[int, np.ndarray], Found]) -> Iterable[Found]:
        """Call `work(start, values)` for every piece and return what it returns, in order."""

        def one(start: int) -> Found:
            return work(start, self._load(start))

        starts = range(0, self._n, PIECE)
        if self._pool is None:
            return map(one, starts)
        # A task of one piece would cost more to hand out than to do.
        tasks = [starts[at : at + TASK] for at in range(0, len(starts), TASK)]
        return itertools.chain.from_iterable(self._pool.map(lambda task: [one(start) for start in task], tasks))


class _Mask:
    """The selected elements: those of a variance above a threshold, and some of those at it."""

    def __init__(self, pieces: _Pieces, select_top: float) -> None:
        self._all = select_top == 1
        self.bad = False
        """Whether a variance is not finite; nothing is selected then."""
        if self._all:
            return
        self._threshold, self._inclusive = math.inf, False
        self._ties: dict[int, int] = {}
        counts, nonzero, self.bad = _histogram(pieces)
        k = int(select_top * nonzero)
        if k and not self.bad:
            self._find(pieces, counts, k)

    def _find(self, pieces: _Pieces, counts: np.ndarray, k: int) -> None:
        """Find the k-th largest variance: the bucket it is in, by halves of its bits until that fits into memory."""
        reached = np.cumsum(counts[::-1])
        place = int(np.argmax(reached >= k))
        rank = k - (int(reached[place - 1]) if place else 0)
        prefix, shift = kernels.BUCKETS - 1 - place, 48
        while int(counts[-1 - place]) > HELD and shift:
            shift -= 16
            counts = _narrower(pieces, prefix, shift)
            reached = np.cumsum(counts[::-1])
            place = int(np.argmax(reached >= rank))
            rank -= int(reached[place - 1]) if place else 0
            prefix = prefix << 16 | (kernels.BUCKETS - 1 - place)
        if shift:
            parts = list(pieces.each(lambda start, values: (start, _bucket(pieces, values, prefix, shift))))
            found = np.concatenate([part for _, part in parts])
            found.partition(found.size - rank)
            threshold = self._threshold = float(found[found.size - rank])
            ties = rank - int(np.count_nonzero(found > threshold))
            del found
            equal = [(start, int(np.count_nonzero(part == threshold))) for start, part in parts]
        else:
            threshold = self._threshold = float(np.int64(prefix).view(np.float64))
            ties = rank
            equal = list(pieces.each(lambda start, values: (start, kernels.equal_to(values, threshold))))
        self._inclusive = ties == sum(count for _, count in equal)
        # The first ones: what is left of them where a piece begins.
        for start, count in equal:
            self._ties[start] = ties
            ties = max(ties - count, 0)

    def at(self, start: int) -> tuple[bool, float, bool, int]:
        """What the kernels are told of a piece: masked, threshold, inclusive, ties."""
        if self._all:
            return _ALL
        return True, self._threshold, self._inclusive, self._ties.get(start, 0)


def _histogram(pieces: _Pieces) -> tuple[np.ndarray, int, bool]:
    """Count the variances by their upper 16 bits; return the counts, how many are not 0, whether one is not finite."""
    tables: list[np.ndarray] = []
    own = threading.local()

    def count(start: int, values: np.ndarray) -> tuple[int, int]:
        # A table for each thread: they would wait for each other at one.
        if not hasattr(own, "counts"):
            own.counts = np.zeros((kernels.TABLES, kernels.BUCKETS), dtype=np.int64)
            tables.append(own.counts)
        return kernels.histogram(values, own.counts)  # type: ignore[no-any-return]

    found = list(pieces.each(count))
    total = np.sum(tables, axis=(0, 1)) if tables else np.zeros(kernels.BUCKETS, dtype=np.int64)
    return total, sum(nonzero for nonzero, _ in found), any(bad for _, bad in found)


def _bucket(pieces: _Pieces, values: np.ndarray, prefix: int, shift: int) -> np.ndarray:
    found, _ = pieces.buffers(values.shape[1])
    return found[: kernels.bucket(values, prefix, shift, found)].copy()


def _narrower(pieces: _Pieces, prefix: int, shift: int) -> np.ndarray:
    """Count the variances of a bucket by their next 16 bits: those above `shift`."""
    total = np.zeros(kernels.BUCKETS, dtype=np.int64)
    for found in pieces.each(lambda start, values: _bucket(pieces, values, prefix, shift + 16)):
        total += np.bincount((found.view(np.int64) >> shift) & (kernels.BUCKETS - 1), minlength=kernels.BUCKETS)
    return total
