"""Task arithmetic on one weight tensor (Ilharco et al. 2023): weighted deltas added to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints.deltas import Deltas, check, statistics, store
from qwenlong.checkpoints.methods.settings import require


def merge_tensor(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return base + sum_j w_j (expert_j - base) and what happened. All arithmetic is in float64.

    Args:
        base: any shape, any floating dtype, any device.
        experts: two or more tensors of the shape of `base`.
        weights: one finite number per expert, not all 0; a negative one takes its task away. None: 1 each, so what
            the experts share is added once per expert.
        dtype: of the result; None: that of `base`. The arithmetic does not depend on it.

    Returns:
        The merged tensor and a dict: `elements`, `coefficients` (the weights), `selected` (1: all elements are),
        `erased` (0: none is), `reverted` (share of the elements whose weighted deltas cancel exactly).

    Raises ValueError for fewer than two experts, shapes that differ, weights of another number or not finite,
    non-floating tensors, NaN or infinite values, and a result that overflows its dtype.
    """
    require({"weights": weights}, len(experts))
    check(base, experts)
    given = [1.0] * len(experts) if weights is None else [float(weight) for weight in weights]
    work = Deltas(base, experts)
    result = torch.empty(base.numel(), dtype=dtype or base.dtype, device=base.device)
    n_reverted = 0
    for start, deltas in work:
        moved = torch.zeros_like(deltas[0])
        for weight, delta in zip(given, deltas, strict=True):
            moved += weight * delta
        n_reverted += int(((deltas != 0).any(dim=0) & (moved == 0)).sum())
        store(result, start, work.base(start, start + deltas.shape[1]) + moved)
    n = base.numel()
    return result.reshape(base.shape), statistics(n, given, n, 0, 0, n_reverted)
