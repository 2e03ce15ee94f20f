"""The policy loss: the trainer has folded advantage, mask and Eq. 4's denominator into one weight per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_policy_loss

from qwenlong.training.losses import policy_gradient

NAME = "qwenlong_group_token"


@register_policy_loss(NAME)
def group_token_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """Return −Σ ρ·w over the tokens of a micro-batch [n, T], times the data-parallel size, and metrics.

    `advantages` carries w = A_i / (groups × tokens of the group) (`training.batch.plan`), which sums over the whole
    batch, so micro-batches add up; the factor undoes FSDP's mean over ranks. The ratio ρ is 1 in value on-policy.
    """
    dp_size = config.global_batch_info.get("dp_size", 1) if config is not None else 1
    loss = policy_gradient(log_prob, old_log_prob, advantages, torch.ones(len(advantages)), response_mask) * dp_size
    with torch.no_grad():
        mask = response_mask.to(torch.bool)
        deviation = (log_prob - old_log_prob)[mask].exp().sub(1).abs().max() if mask.any() else torch.zeros(())
    return loss, {"actor/ratio_deviation": deviation.item()}
