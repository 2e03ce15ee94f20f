"""TIES merge of one weight tensor (Yadav et al. 2023): trim, elect sign, disjoint mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints.deltas import Deltas, Largest, check
from qwenlong.checkpoints.methods.disjoint import merge_kept
from qwenlong.checkpoints.methods.settings import require
from qwenlong.core.config.merging import MERGE_DENSITIES


def merge_tensor(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    density: float = MERGE_DENSITIES["ties"],
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the TIES merge of one weight tensor and what happened in it. All arithmetic is in float64.

    With delta_j = expert_j - base:

    - Trim: of each expert the int(density * number of elements) deltas of largest magnitude are kept, at least one,
      ties by lower flat index; the others count as 0.
    - Elect: at each element the sign of the sum of the kept deltas (an exact zero sum is +).
    - base + scale * the mean over the experts whose kept delta has that sign and is not 0; base where there are none.

    Args:
        base: any shape, any floating dtype, any device.
        experts: two or more tensors of the shape of `base`.
        density: share of each expert's deltas that is kept, in (0, 1]; the paper's own is 0.2.
        scale: lambda, above 0.
        dtype: of the result; None: that of `base`. The arithmetic does not depend on it.

    Returns:
        The merged tensor and a dict as of `disjoint.merge_kept`.

    Raises ValueError for fewer than two experts, shapes that differ, density outside (0, 1], a scale that is not
    positive and finite, non-floating tensors, NaN or infinite values, and a result that overflows its dtype.
    """
    require({"density": density, "scale": scale}, len(experts))
    check(base, experts)
    work = Deltas(base, experts)
    n = base.numel()
    k = min(n, max(1, int(density * n)))
    trims = None if k == n else [_trim(Deltas(base, [expert]), k) for expert in experts]
    return merge_kept(base, work, _kept(work, trims), divisor=1.0, scale=scale, dtype=dtype)


def _trim(own: Deltas, k: int) -> Largest:
    return Largest(lambda: (deltas[0].abs() for _, deltas in own), k)


def _kept(work: Deltas, trims: Sequence[Largest] | None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (start, deltas, mask of those kept) in flat order."""
    ties = [trim.ties for trim in trims or ()]
    for start, deltas in work:
        mask = torch.ones_like(deltas, dtype=torch.bool)
        for number, trim in enumerate(trims or ()):
            mask[number], ties[number] = trim.mask(deltas[number].abs(), ties[number])
        yield start, deltas, mask
