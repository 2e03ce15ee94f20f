"""Adaptive entropy-controlled policy optimisation (SPEC section 3, Sec. 4.4 of the paper): when to mask negatives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qwenlong.training.clipping import row_means


def batch_entropy(entropies: Tensor, response_mask: Tensor) -> float:
    """Return the batch entropy of Eq. 11 in nats: the mean over rows of the row's mean token entropy.

    Args:
        entropies: [N, T] full-vocabulary token entropies; not read where the mask is 0.
        response_mask: [N, T], bool, int or float.

    Rows without response tokens are left out. Raises ValueError when none is left and when the shapes differ.
    """
    if entropies.dim() != 2 or entropies.shape != response_mask.shape:
        raise ValueError(
            f"entropies {tuple(entropies.shape)} and response_mask {tuple(response_mask.shape)} must both be [N, T]"
        )
    present = response_mask.to(entropies.device) != 0
    rows = present.any(dim=1)
    if not bool(rows.any()):
        raise ValueError("no row has response tokens: the batch has no entropy; drop the batch before AEPO")
    means = row_means(entropies, present)[rows].tolist()
    return math.fsum(means) / len(means)


class EntropyController:
    """Hysteresis over the batch entropy: mask above `high`, stop below `low`, hold in between. Starts unmasked."""

    def __init__(self, low: float, high: float) -> None:
        """Take the band in nats; low == high is allowed. Raises ValueError when low > high or one is NaN."""
        low, high = float(low), float(high)
        if math.isnan(low) or math.isnan(high) or low > high:
            raise ValueError(f"the AEPO band low = {low}, high = {high} is not one; low must not be above high")
        self.low, self.high = low, high
        self._masking = False

    @property
    def masking(self) -> bool:
        """Whether negative advantages are masked now."""
        return self._masking

    def update(self, entropy: float) -> bool:
        """Take the entropy of a batch and return whether to mask its negatives. Both bounds are strict.

        Raises ValueError when it is not finite; the state is then what it was.
        """
        value = float(entropy)
        if not math.isfinite(value):
            raise ValueError(f"batch entropy is {value}; look for NaN in the log-probabilities of this step")
        if value > self.high:
            self._masking = True
        elif value < self.low:
            self._masking = False
        return self._masking

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values. The band is not part of it: it belongs to the configuration."""
        return {"masking": self._masking}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; the band stays the constructor's. Raises ValueError for anything else."""
        masking = state.get("masking")
        if not isinstance(masking, bool):
            raise ValueError(
                f"masking = {masking!r} in an AEPO state; it must be true or false, as state_dict writes it"
            )
        self._masking = masking


def keep_rows(advantages: Tensor, entropy: float, low: float, high: float, rewards: Tensor | None = None) -> Tensor:
    """Return which rows the released variant trains on, bool [N] (option `variant: released`).

    It differs from the paper's text: it has no memory (negative rows are dropped only while low < entropy < high,
    strictly), rows of zero advantage are always dropped, and rows of zero reward where `rewards` [N] is given.
    It may keep no row at all: the caller skips the step then.

    Raises ValueError when low > high, the entropy is not finite, or the shapes differ.
    """
    EntropyController(low, high).update(entropy)  # the same refusals
    if advantages.dim() != 1 or (rewards is not None and rewards.shape != advantages.shape):
        raise ValueError(
            f"advantages {tuple(advantages.shape)} and rewards "
            f"{None if rewards is None else tuple(rewards.shape)} must both be [N]"
        )
    keep = advantages != 0
    if low < float(entropy) < high:
        keep = keep & (advantages > 0)
    if rewards is not None:
        keep = keep & (rewards.to(advantages.device) != 0)
    return keep


def released_mask(keep: Tensor, response_mask: Tensor) -> Tensor:
    """Return `keep` [N] times the response mask, float32 [N, T]."""
    return (keep[:, None].to(response_mask.device) & (response_mask != 0)).to(torch.float32)
