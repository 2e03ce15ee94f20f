"""SCE merge of one weight tensor (SPEC section 5): select, calculate, erase. A pure function of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

SelectMode = Literal["reference", "mergekit"]

#: Elements worked on at a time. It bounds memory to some 10 float64 copies of this many, and fixes the order of
#: summation, so that the result depends neither on the number of threads nor on how a tensor is stored.
CHUNK = 1 << 20


def merge_tensor(
    base: Tensor,
    experts: Sequence[Tensor],
    select_top: float = 1.0,
    select_mode: str = "reference",
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the merge of one weight tensor and what happened in it. All arithmetic is in float64.

    With delta_j = expert_j - base:

    - Select: all elements at select_top = 1; below 1 the int(select_top * number of elements of non-zero variance)
      of largest population variance over the experts, ties by lower flat index.
    - Calculate: eta_j = sum of selected delta_j^2 / the same sum over all experts; uniform only when that is 0.
    - Erase: a delta_j survives at an element when it has the sign of the sum over the experts there (an exact zero
      sum counts as +) and is not 0.
    - base + sum of eta_j delta_j / sum of eta_j, over the survivors; base where there are none.

    Args:
        base: any shape, any floating dtype, any device.
        experts: two or more tensors of the shape of `base`.
        select_top: tau, in (0, 1].
        select_mode: "reference": the mask is used for eta only (FuseChat); "mergekit": unselected deltas are also
            zeroed before Erase.
        dtype: of the result; None: that of `base`. The arithmetic does not depend on it.

    Returns:
        The merged tensor and a dict: `elements`, `coefficients` (eta, one per expert), and three shares: `selected`
        (of the elements), `erased` (of the experts' non-zero merged deltas: those of the minority sign), `reverted`
        (of the elements: back at base although some expert changed them).

    Raises ValueError for fewer than two experts, shapes that differ, select_top outside (0, 1], an unknown mode,
    non-floating tensors, NaN or infinite values, and a result that overflows its dtype.
    """
    _check(base, experts, select_top, select_mode)
    work = _Deltas(base, experts)
    threshold = None if select_top == 1 else _Threshold(work, select_top)
    squares: list[list[float]] = [[] for _ in experts]
    n_selected = 0
    for _start, deltas, mask in _masked(work, threshold):
        n_selected += deltas.shape[1] if mask is None else int(mask.sum())
        chosen = deltas if mask is None else deltas * mask
        for sums, delta in zip(squares, work.scaled(chosen), strict=True):
            sums.append(_sum(delta * delta))
    energies = [math.fsum(sums) for sums in squares]
    total = math.fsum(energies)
    # Where all is 0 there is nothing to weigh by; otherwise no threshold: RL deltas are small and their ratio counts.
    etas = [energy / total for energy in energies] if total > 0 else [1 / len(experts)] * len(experts)

    result = torch.empty(base.numel(), dtype=dtype or base.dtype, device=base.device)
    eta = torch.tensor(etas, dtype=torch.float64, device=base.device)[:, None]
    n_nonzero = n_erased = n_reverted = 0
    for start, deltas, mask in _masked(work, threshold):
        changed = (deltas != 0).any(dim=0)
        if mask is not None and select_mode == "mergekit":
            deltas = deltas * mask
        positive = deltas.sum(dim=0) >= 0
        nonzero = deltas != 0
        survives = nonzero & ((deltas > 0) == positive)
        weights = survives * eta
        divisor = weights.sum(dim=0)
        n_nonzero += int(nonzero.sum())
        n_erased += int((nonzero & ~survives).sum())
        n_reverted += int((changed & (divisor == 0)).sum())
        # Divided before it is applied: a lone survivor then weighs exactly 1 and is returned as it is.
        weights /= torch.where(divisor == 0, torch.ones_like(divisor), divisor)
        stop = start + deltas.shape[1]
        merged = work.base(start, stop) + (weights * deltas).sum(dim=0)
        result[start:stop] = merged.to(result.dtype)
        if not bool(torch.isfinite(result[start:stop]).all()):
            raise ValueError(f"the merged tensor overflows {result.dtype}; write a wider dtype")
    n = base.numel()
    stats = {
        "elements": n,
        "coefficients": etas,
        "selected": n_selected / n if n else 0.0,
        "erased": n_erased / n_nonzero if n_nonzero else 0.0,
        "reverted": n_reverted / n if n else 0.0,
    }
    return result.reshape(base.shape), stats


def _check(base: Tensor, experts: Sequence[Tensor], select_top: float, select_mode: str) -> None:
    if len(experts) < 2:
        raise ValueError(f"{len(experts)} expert(s); a merge needs at least two")
    if select_mode not in get_args(SelectMode):
        raise ValueError(f"no select mode {select_mode!r}; choose one of {', '.join(get_args(SelectMode))}")
    if not 0 < select_top <= 1:
        raise ValueError(f"select_top = {select_top}; it is a share in (0, 1]")
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


class _Deltas:
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


class _Threshold:
    """The k-th largest variance of a tensor, found without holding or sorting all variances.

    The bits of a float64 that is not negative order as integers, so the value is found 16 bits at a time by counting;
    each round recomputes the variances chunk by chunk.
    """

    def __init__(self, work: _Deltas, select_top: float) -> None:
        n_nonzero = sum(int((work.variance(deltas) > 0).sum()) for _, deltas in work)
        self.k = int(select_top * n_nonzero)
        self.bits = 0
        above = 0  # elements whose bits so far are larger
        for shift in (48, 32, 16, 0) if self.k else ():
            counts = None
            for _, deltas in work:
                bits = work.variance(deltas).view(torch.int64)
                if shift < 48:
                    bits = bits[(bits >> (shift + 16)) == (self.bits >> (shift + 16))]
                part = torch.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16).cpu()
                counts = part if counts is None else counts + part
            assert counts is not None
            reached = counts.flip(0).cumsum(0) + above
            place = int((reached >= self.k).nonzero()[0])
            above = int(reached[place - 1]) if place else above
            self.bits |= (0xFFFF - place) << shift
        self.ties = self.k - above
        """How many of the elements at the threshold itself are selected, the first ones."""


def _masked(work: _Deltas, threshold: _Threshold | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield (start, deltas, mask of the selected elements or None for all) in flat order."""
    ties = threshold.ties if threshold else 0
    for start, deltas in work:
        if threshold is None:
            yield start, deltas, None
            continue
        if not threshold.k:
            yield start, deltas, torch.zeros_like(deltas[0], dtype=torch.bool)
            continue
        bits = work.variance(deltas).view(torch.int64)
        equal = bits == threshold.bits
        first = equal & (equal.cumsum(0) <= ties)
        ties -= int(first.sum())
        yield start, deltas, (bits > threshold.bits) | first


def _sum(values: Tensor) -> float:
    # numpy sums pairwise in one thread; torch's order of summation depends on the number of threads.
    return float(values.cpu().numpy().sum())
