"""Linear merge of one weight tensor: the weighted average of the experts."""

from __future__ import annotations

import math
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
    normalize: bool = True,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return sum_j w_j expert_j, divided by sum_j w_j if normalised, and what happened. All arithmetic is in float64.

    Args:
        base: any shape, any floating dtype, any device. Its values do not enter the result, only `reverted`.
        experts: two or more tensors of the shape of `base`.
        weights: one finite number per expert, not all 0; None: the same for all, with a sum of 1.
        normalize: whether the weights are divided by their sum, which must then be above 0.
        dtype: of the result; None: that of `base`. The arithmetic does not depend on it.

    Returns:
        The merged tensor and a dict: `elements`, `coefficients` (the weights that entered, one per expert), `selected`
        (1: all elements are), `erased` (0: none is), `reverted` (share of the elements that equal base though some
        expert changed them).

    Raises ValueError for fewer than two experts, shapes that differ, weights of another number, not finite or of no
    use, non-floating tensors, NaN or infinite values, and a result that overflows its dtype.
    """
    require({"weights": weights, "normalize": normalize}, len(experts))
    check(base, experts)
    given = [1.0] * len(experts) if weights is None else [float(weight) for weight in weights]
    divisor = math.fsum(given) if normalize or weights is None else 1.0
    work = Deltas(base, experts)
    result = torch.empty(base.numel(), dtype=dtype or base.dtype, device=base.device)
    n_reverted = 0
    for start, deltas in work:
        stop = start + deltas.shape[1]
        origin = work.base(start, stop)
        merged = torch.zeros_like(origin)
        for weight, values in zip(given, work.experts(start, stop), strict=True):
            merged += weight * values
        # Divided last: equal experts are returned as they are, which thirds that are summed would not give.
        merged /= divisor
        n_reverted += int(((deltas != 0).any(dim=0) & (merged == origin)).sum())
        store(result, start, merged)
    n = base.numel()
    return result.reshape(base.shape), statistics(n, [weight / divisor for weight in given], n, 0, 0, n_reverted)
