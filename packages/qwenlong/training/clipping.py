"""Negative gradient clipping: the 0/1 indicator of Eqs. 8 and 9. Pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def negative_mask(
    advantages: Tensor, entropies: Tensor, response_mask: Tensor, level: str, side: str, threshold: float
) -> Tensor:
    """Return the indicator of Eq. 9 times the response mask, float32 [N, T] of 0 and 1.

    A token is dropped when its row's advantage is below 0 and its entropy (`token` level), or its row's mean entropy
    (`sequence` level), lies beyond the threshold: above it for side `high`, below it for `low`. Equality keeps, and
    an advantage of 0 is not negative.

    Args:
        advantages: [N].
        entropies: [N, T] in nats; not read where the mask is 0.
        response_mask: [N, T], bool, int or float.
        level: "token" or "sequence".
        side: "high" or "low".
        threshold: in nats.

    Entropies narrower than float32 are widened, means are taken in float64; threshold and entropy are then compared
    in float32 (float64 for float64 entropies), so that a float32 entropy of 0.3 equals a threshold of 0.3.

    Raises ValueError for an unknown level or side, a threshold that is NaN, and shapes that do not fit.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f"no clipping level {level!r}; choose token or sequence")
    if side not in ("high", "low"):
        raise ValueError(f"no clipping side {side!r}; choose high or low")
    if math.isnan(threshold):
        raise ValueError("the clipping threshold is NaN; give an entropy in nats")
    if entropies.dim() != 2 or entropies.shape != response_mask.shape or advantages.shape != entropies.shape[:1]:
        raise ValueError(
            f"advantages {tuple(advantages.shape)}, entropies {tuple(entropies.shape)} and response_mask "
            f"{tuple(response_mask.shape)} must be [N], [N, T] and [N, T]"
        )
    precision = torch.float32 if entropies.is_floating_point() and entropies.element_size() <= 4 else torch.float64
    present = response_mask.to(entropies.device) != 0
    if level == "token":
        measured = entropies.detach().to(precision)
    else:
        # Rows without response tokens have no mean; whatever stands there, all their entries are 0 in the result.
        measured = row_means(entropies, present).to(precision)[:, None].expand_as(entropies)
    bound = torch.tensor(threshold, dtype=precision, device=entropies.device)
    beyond = measured > bound if side == "high" else measured < bound
    negative = (advantages.detach().to(entropies.device) < 0)[:, None]
    return (present & ~(negative & beyond)).to(torch.float32)


def row_means(entropies: Tensor, present: Tensor) -> Tensor:
    """Return the mean of each row over its present entries, float64 [N]; NaN for a row that has none.

    `entropies` and the boolean `present` are [N, T]; entries that are not present are never read.
    """
    zero = torch.zeros((), dtype=entropies.dtype, device=entropies.device)
    total = torch.where(present, entropies.detach(), zero).sum(dim=1, dtype=torch.float64)
    return total / present.sum(dim=1).to(torch.float64)
