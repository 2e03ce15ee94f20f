"""Sign election and disjoint mean: what TIES and DARE-TIES do with the deltas that they keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints.deltas import Deltas, statistics, store, summed


def merge_kept(
    base: Tensor,
    work: Deltas,
    kept: Iterator[tuple[int, Tensor, Tensor]],
    *,
    divisor: float,
    scale: float,
    dtype: torch.dtype | None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return base + scale * the disjoint mean of the kept deltas, and what happened.

    At each element the sign of the sum of the kept deltas is elected (an exact zero is +); the mean is over the
    experts whose kept delta has that sign and is not 0, and is 0 where there are none.

    Args:
        base: the tensor whose deltas `work` holds.
        work: the deltas.
        kept: in flat order (start, deltas [experts, chunk], mask of those kept). The deltas are overwritten.
        divisor: of kept deltas, before anything else.
        scale: of the mean.
        dtype: of the result; None: that of `base`.

    The dict: `elements`, `coefficients` (mean weight of each expert over the elements that are moved; equal parts of
    `scale` when none is), `selected` (share of the elements at which some expert's delta is kept), `erased` (of the
    kept deltas that are not 0: those of the minority sign), `reverted` (of the elements: back at base although some
    expert changed them). Raises ValueError when the result overflows its dtype.
    """
    result = torch.empty(base.numel(), dtype=dtype or base.dtype, device=base.device)
    n_selected = n_nonzero = n_erased = n_reverted = n_moved = 0
    shares: Tensor | None = None  # [experts, survivors at an element]: counts, so that no chunk size shows in sums
    for start, deltas, mask in kept:
        changed = (deltas != 0).any(dim=0)
        n_selected += int(mask.any(dim=0).sum())
        deltas.masked_fill_(~mask, 0.0)
        if divisor != 1:
            deltas /= divisor
        positive = summed(deltas) >= 0
        nonzero = deltas != 0
        survives = nonzero & ((deltas > 0) == positive)
        survivors = survives.sum(dim=0)
        n_nonzero += int(nonzero.sum())
        n_erased += int((nonzero & ~survives).sum())
        n_reverted += int((changed & (survivors == 0)).sum())
        n_moved += int((survivors > 0).sum())
        found = [torch.bincount(survivors[row], minlength=len(deltas) + 1) for row in survives]
        shares = torch.stack(found).cpu() + (0 if shares is None else shares)
        mean = summed(deltas.masked_fill_(~survives, 0.0)) / survivors.clamp(min=1)
        store(result, start, work.base(start, start + deltas.shape[1]) + scale * mean)
    coefficients = _coefficients(shares, n_moved, scale, work.n_experts)
    return result.reshape(base.shape), statistics(
        base.numel(), coefficients, n_selected, n_nonzero, n_erased, n_reverted
    )


def _coefficients(shares: Tensor | None, n_moved: int, scale: float, n_experts: int) -> list[float]:
    if shares is None or not n_moved:
        return [scale / n_experts] * n_experts
    return [scale * sum(n / k for k, n in enumerate(row[1:], 1)) / n_moved for row in shares.tolist()]
