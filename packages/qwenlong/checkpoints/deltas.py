"""What all merges of one tensor share: checks, deltas from the base by chunk in float64, the k largest of a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

#: Elements worked on at a time: it bounds memory to some 10 float64 copies of this many, and changes no result.
CHUNK = 1 << 20


def check(base: Tensor, experts: Sequence[Tensor]) -> None:
    """Raise ValueError for fewer than two experts, and for shapes, dtypes and values that cannot be merged."""
    if len(experts) < 2:
        raise ValueError(f"{len(experts)} expert(s); a merge needs at least two")
    for name, tensor in (("base", base), *((f"expert {number}", expert) for number, expert in enumerate(experts, 1))):
        if tensor.shape != base.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, base {tuple(base.shape)}; they must be equal")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}; only floating-point weights can be merged")
        # By chunk: a mask as large as an embedding would be needed otherwise.
        if not all(bool(torch.isfinite(part).all()) for part in _parts(tensor)):
            raise ValueError(f"{name} has NaN or infinite values; convert or train that checkpoint anew")


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        yield part if part.element_size() > 1 else part.float()  # isfinite knows no float8


class Deltas:
    """The deltas of a tensor, chunk by chunk in float64."""

    def __init__(self, base: Tensor, experts: Sequence[Tensor]) -> None:
        self._base = base.detach().reshape(-1)
        self._experts = [expert.detach().to(base.device).reshape(-1) for expert in experts]
        self._unit = 1.0
        if any(tensor.dtype == torch.float64 for tensor in (base, *experts)):
            # Squares of float32 values fit into float64, those of float64 values need not: scale by a power of two.
            largest = max((float(deltas.abs().max()) for _, deltas in self), default=0.0)
            if not math.isfinite(largest):
                raise ValueError(
                    "the difference of an expert and the base overflows float64; the weights are no model's"
                )
            if largest > 0:
                self._unit = math.ldexp(1.0, max(min(math.frexp(largest)[1], 1000), -1000))

    def base(self, start: int, stop: int) -> Tensor:
        """Base values [start, stop) in float64."""
        return self._base[start:stop].to(torch.float64)

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return len(self._experts)

    def experts(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield each expert's values [start, stop) in float64."""
        for part in self._experts:
            yield part[start:stop].to(torch.float64)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (start, deltas [experts, chunk])."""
        for start in range(0, self._base.numel(), CHUNK):
            base = self.base(start, start + CHUNK)
            yield start, torch.stack([part[start : start + CHUNK].to(torch.float64) - base for part in self._experts])

    def scaled(self, deltas: Tensor) -> Tensor:
        """Deltas whose squares neither overflow nor vanish; one factor for the whole tensor."""
        return deltas / self._unit if self._unit != 1.0 else deltas

    def variance(self, deltas: Tensor) -> Tensor:
        """Population variance over the experts up to one factor for the whole tensor, float64 [chunk].

        From the pairwise differences, sum_{i<j} (d_i - d_j)^2 = J^2 var: it is 0 exactly where the experts agree,
        and equal variances come out equal, so that ties are ties. Through a mean, 1/3 and 2/3 would break them.
        """
        scaled = self.scaled(deltas)
        total = torch.zeros_like(scaled[0])
        for number, first in enumerate(scaled):
            for second in scaled[number + 1 :]:
                total += (first - second) ** 2
        return total


class Largest:
    """The k largest of a stream of non-negative values, ties by lower position; the stream is never held or sorted.

    The bits of a float64 that is not negative order as integers, so the k-th largest is found 16 bits at a time by
    counting; each round asks for the values again.
    """

    def __init__(self, values: Callable[[], Iterator[Tensor]], k: int) -> None:
        """Find the k largest of what `values()` yields: chunks of float64, not negative, at least k in all."""
        self.k = k
        self._bits = 0
        above = 0  # elements whose bits so far are larger
        for shift in (48, 32, 16, 0) if k else ():
            counts = None
            for chunk in values():
                bits = chunk.view(torch.int64)
                if shift < 48:
                    bits = bits[(bits >> (shift + 16)) == (self._bits >> (shift + 16))]
                part = torch.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16).cpu()
                counts = part if counts is None else counts + part
            assert counts is not None
            reached = counts.flip(0).cumsum(0) + above
            place = int((reached >= k).nonzero()[0])
            above = int(reached[place - 1]) if place else above
            self._bits |= (0xFFFF - place) << shift
        self.ties = k - above
        """How many of the elements at the threshold itself are selected, the first ones."""

    def mask(self, chunk: Tensor, ties: int) -> tuple[Tensor, int]:
        """Return which values of a chunk are selected, and the ties left for later chunks of the `ties` given."""
        if not self.k:
            return torch.zeros_like(chunk, dtype=torch.bool), 0
        bits = chunk.view(torch.int64)
        equal = bits == self._bits
        first = equal & (equal.cumsum(0) <= ties)
        return (bits > self._bits) | first, ties - int(first.sum())


def store(result: Tensor, start: int, values: Tensor) -> None:
    """Write float64 values into a flat result of any floating dtype. Raises ValueError when one overflows it."""
    part = result[start : start + values.numel()]
    part.copy_(values)
    if not bool(torch.isfinite(part if part.element_size() > 1 else part.float()).all()):
        raise ValueError(f"the merged tensor overflows {result.dtype}; write a wider dtype")


def summed(rows: Tensor) -> Tensor:
    """Return the sum of the rows of [experts, chunk], one row after the other.

    torch's own order depends on their number and the device.
    """
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def statistics(
    n: int, coefficients: list[float], selected: int, nonzero: int, erased: int, reverted: int
) -> dict[str, Any]:
    """Return what a merge tells of a tensor of n elements, from counts (erased of the non-zero deltas)."""
    return {
        "elements": n,
        "coefficients": coefficients,
        "selected": selected / n if n else 0.0,
        "erased": erased / nonzero if nonzero else 0.0,
        "reverted": reverted / n if n else 0.0,
    }
