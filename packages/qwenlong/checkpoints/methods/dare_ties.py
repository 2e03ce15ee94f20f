"""DARE-TIES merge of one weight tensor (Yu et al. 2024): drop at random, rescale, elect sign, disjoint mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwenlong.checkpoints.deltas import Deltas, check
from qwenlong.checkpoints.methods.disjoint import merge_kept
from qwenlong.checkpoints.methods.settings import require
from qwenlong.core import seeds
from qwenlong.core.config.merging import MERGE_DENSITIES


def merge_tensor(
    base: Tensor,
    experts: Sequence[Tensor],
    *,
    name: str,
    density: float = MERGE_DENSITIES["dare_ties"],
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the DARE-TIES merge of one weight tensor and what happened in it. All arithmetic is in float64.

    With delta_j = expert_j - base:

    - Drop: each delta is kept with probability `density`, and divided by it.
    - Elect and mean as in TIES, without its trimming: at each element the sign of the sum of the kept deltas (an
      exact zero sum is +), base + scale * the mean over the experts whose kept delta has that sign and is not 0.

    Element i of expert j is kept when the i-th number of Philox4x64 under the key (seed, name, j), as a number in
    [0, 1) of 53 bits, is below `density`. The numbers are drawn on the CPU in flat order and counted from the
    tensor's start: chunk size, threads, device and other tensors do not show in them, and a larger density keeps
    what a smaller one does.

    Args:
        base: any shape, any floating dtype, any device.
        experts: two or more tensors of the shape of `base`.
        name: of the tensor; other names draw other masks.
        density: share of the deltas that is kept, in (0, 1]; the paper drops 90% and more.
        scale: of the mean, above 0.
        seed: of the masks.
        dtype: of the result; None: that of `base`. The arithmetic does not depend on it.

    Returns:
        The merged tensor and a dict as of `disjoint.merge_kept`.

    Raises ValueError for fewer than two experts, shapes that differ, density outside (0, 1], a scale that is not
    positive and finite, non-floating tensors, NaN or infinite values, and a result that overflows its dtype.
    """
    require({"density": density, "scale": scale, "seed": seed}, len(experts))
    check(base, experts)
    work = Deltas(base, experts)
    streams = [
        np.random.Philox(key=seeds.derive(seed, "dare_ties", name, number)) for number in range(1, len(experts) + 1)
    ]
    return merge_kept(base, work, _kept(work, streams, density), divisor=density, scale=scale, dtype=dtype)


def _kept(work: Deltas, streams: Sequence[np.random.Philox], density: float) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (start, deltas, mask of those kept) in flat order."""
    # Whole numbers on both sides: draws below ceil(density * 2^53) are those below density * 2^53, exactly.
    bound = np.uint64(math.ceil(density * 2.0**53))
    for start, deltas in work:
        masks = [torch.from_numpy((stream.random_raw(deltas.shape[1]) >> np.uint64(11)) < bound) for stream in streams]
        yield start, deltas, torch.stack(masks).to(deltas.device)
