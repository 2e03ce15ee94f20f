"""SCE merge of one weight tensor (SPEC section 5): select, calculate, erase. A pure function of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from qwenlong.checkpoints import deltas as shared
from qwenlong.checkpoints.deltas import Deltas, Largest, statistics, store, summed

SelectMode = Literal["reference", "mergekit"]
#: Elements whose squares are summed by halves; the sums of blocks are added exactly. So the result depends on neither
#: the number of threads, the chunks, the device nor how a tensor is stored.
BLOCK = 1 << 10
#: Dtypes that are exact in float32, whose squared differences neither overflow nor vanish in float64.
EXACT = (torch.float32, torch.bfloat16, torch.float16)


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
    check(base, experts, select_top, select_mode)
    work = Deltas(base, experts)
    threshold = None if select_top == 1 else _threshold(work, select_top)
    squares: list[list[float]] = [[] for _ in experts]
    n_selected = 0
    for _start, deltas, mask in _masked(work, threshold):
        n_selected += deltas.shape[1] if mask is None else int(mask.sum())
        chosen = deltas if mask is None else deltas * mask
        for sums, delta in zip(squares, work.scaled(chosen), strict=True):
            sums += block_sums(delta * delta)
    etas = coefficients(squares)

    result = torch.empty(base.numel(), dtype=dtype or base.dtype, device=base.device)
    eta = torch.tensor(etas, dtype=torch.float64, device=base.device)[:, None]
    n_nonzero = n_erased = n_reverted = 0
    for start, deltas, mask in _masked(work, threshold):
        changed = (deltas != 0).any(dim=0)
        if mask is not None and select_mode == "mergekit":
            deltas = torch.where(mask, deltas, 0.0)
        positive = summed(deltas) >= 0
        nonzero = deltas != 0
        survives = nonzero & ((deltas > 0) == positive)
        weights = survives * eta
        divisor = summed(weights)
        n_nonzero += int(nonzero.sum())
        n_erased += int((nonzero & ~survives).sum())
        n_reverted += int((changed & (divisor == 0)).sum())
        # Divided before it is applied: a lone survivor then weighs exactly 1 and is returned as it is.
        weights /= torch.where(divisor == 0, torch.ones_like(divisor), divisor)
        stop = start + deltas.shape[1]
        store(result, start, work.base(start, stop) + summed(weights * deltas))
    return result.reshape(base.shape), statistics(base.numel(), etas, n_selected, n_nonzero, n_erased, n_reverted)


def coefficients(squares: Sequence[Sequence[float]]) -> list[float]:
    """Return eta of each expert from the sums of its selected squared deltas; uniform only where all of them are 0."""
    energies = [math.fsum(sums) for sums in squares]
    total = math.fsum(energies)
    # Where all is 0 there is nothing to weigh by; otherwise no threshold: RL deltas are small and their ratio counts.
    return [energy / total for energy in energies] if total > 0 else [1 / len(squares)] * len(squares)


def block_sums(values: Tensor) -> list[float]:
    """Return the sum of every `BLOCK` values of a vector, each by halves, so that the order is the same everywhere."""
    padded = torch.nn.functional.pad(values, (0, -values.numel() % BLOCK)).reshape(-1, BLOCK)
    width = BLOCK // 2
    while width:
        padded = padded[:, :width] + padded[:, width : 2 * width]
        width //= 2
    return padded[:, 0].tolist()


def check(base: Tensor, experts: Sequence[Tensor], select_top: float, select_mode: str) -> None:
    """Raise ValueError for what `merge_tensor` refuses."""
    if select_mode not in get_args(SelectMode):
        raise ValueError(f"no select mode {select_mode!r}; choose one of {', '.join(get_args(SelectMode))}")
    if not 0 < select_top <= 1:
        raise ValueError(f"select_top = {select_top}; it is a share in (0, 1]")
    shared.check(base, experts)


def _threshold(work: Deltas, select_top: float) -> Largest:
    n_nonzero = sum(int((work.variance(deltas) > 0).sum()) for _, deltas in work)
    return Largest(lambda: (work.variance(deltas) for _, deltas in work), int(select_top * n_nonzero))


def _masked(work: Deltas, threshold: Largest | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield (start, deltas, mask of the selected elements or None for all) in flat order."""
    ties = threshold.ties if threshold else 0
    for start, deltas in work:
        if threshold is None:
            yield start, deltas, None
            continue
        mask, ties = threshold.mask(work.variance(deltas), ties)
        yield start, deltas, mask
