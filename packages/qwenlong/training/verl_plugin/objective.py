"""verl's keys of a stage's loss: ours by name, or one of verl's own with its parameters."""

from __future__ import annotations

from typing import Any

from qwenlong.core.config import ClipCovLoss, DapoLoss, GspoLoss, StageConfig

_ACTOR = "actor_rollout_ref.actor"


def loss_keys(stage: StageConfig) -> dict[str, Any]:
    """Return the keys of `stage.loss`.

    `qwenlong_group_token` gets weights that hold Eq. 4's denominator, verl's own losses get advantages and divide by
    `loss_agg_mode`: over the whole batch in both cases, whatever the micro-batches.
    """
    loss = stage.loss
    values: dict[str, Any]
    if isinstance(loss, DapoLoss):
        # "vanilla" is PPO's clipped objective; the mean over all tokens and the higher clip make it DAPO's.
        values = {"policy_loss.loss_mode": "vanilla", "loss_agg_mode": "token-mean", "clip_ratio_c": loss.dual_clip}
    elif isinstance(loss, GspoLoss):
        values = {"policy_loss.loss_mode": "gspo", "loss_agg_mode": "seq-mean-token-mean"}
    elif isinstance(loss, ClipCovLoss):
        values = {
            "policy_loss.loss_mode": "clip_cov",
            "policy_loss.clip_cov_ratio": loss.share,
            "policy_loss.clip_cov_lb": loss.covariance_low,
            "policy_loss.clip_cov_ub": loss.covariance_high,
            "loss_agg_mode": "token-mean",
        }
    else:
        return {f"{_ACTOR}.policy_loss.loss_mode": "qwenlong_group_token"}
    values |= {"clip_ratio": loss.clip_low, "clip_ratio_low": loss.clip_low, "clip_ratio_high": loss.clip_high}
    return {f"{_ACTOR}.{name}": value for name, value in values.items()}
