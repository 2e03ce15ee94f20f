"""What a stage minimises, what it does with responses that were cut off, and when it gives up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from qwenlong.core.config.section import Section


class GroupTokenLoss(Section):
    """The paper's loss (Eq. 4): tokens are summed over a group, divided by the group's tokens, groups averaged."""

    kind: Literal["group_token"] = "group_token"
    """Name of the loss."""


class DapoLoss(Section):
    """DAPO's loss (arXiv 2503.14476, Sec. 3.1 and 3.3) by verl: mean over all tokens of the batch, asymmetric clipping.

    Without its dynamic sampling and overlong shaping, which concern data and rewards. With one optimizer step a batch
    the ratio is 1 and no clip binds: what differs from `group_token` is the mean.
    """

    kind: Literal["dapo"] = "dapo"
    """Name of the loss."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The ratio is clipped below 1 - clip_low (DAPO, Sec. 4.1)."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """The ratio is clipped above 1 + clip_high (DAPO, Sec. 4.1)."""
    dual_clip: Annotated[float, Field(gt=1)] = 10.0
    """verl's bound of the ratio where the advantage is negative; DAPO has none, 10 is out of reach."""


class GspoLoss(Section):
    """GSPO's loss (arXiv 2507.18071, Eq. 5) by verl: one ratio per row, mean over rows of the mean over tokens."""

    kind: Literal["gspo"] = "gspo"
    """Name of the loss."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """The row's ratio is clipped below 1 - clip_low (GSPO, Sec. 5.1)."""
    clip_high: Annotated[float, Field(gt=0)] = 4e-4
    """The row's ratio is clipped above 1 + clip_high (GSPO, Sec. 5.1)."""


class ClipCovLoss(Section):
    """Clip-Cov (arXiv 2505.22617, Sec. 4.2) by verl: a few tokens of high covariance lose their gradient.

    The covariance is that of advantage and log-probability over the tokens of a micro-batch. KL-Cov, its sibling, is
    not offered: its penalty is |log ratio|, whose gradient is 0 in strictly on-policy steps.
    """

    kind: Literal["clip_cov"] = "clip_cov"
    """Name of the loss."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The ratio is clipped below 1 - clip_low. [assumed: verl's value]"""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """The ratio is clipped above 1 + clip_high. [assumed: verl's value]"""
    share: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Share of the tokens of a micro-batch that lose their gradient, one token at least (Clip-Cov's r)."""
    covariance_low: float = 1.0
    """They are drawn among tokens of a covariance above this one."""
    covariance_high: float = 5.0
    """They are drawn among tokens of a covariance below this one."""


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Loss = Annotated[
    Annotated[GroupTokenLoss | DapoLoss | GspoLoss | ClipCovLoss, Field(discriminator="kind")], BeforeValidator(_named)
]


class DivergenceConfig(Section):
    """When a stage stops by itself because it has diverged. Bounds are loose: no healthy run seen reached one.

    A stop that was wrong costs the steps since the last checkpoint: none of these values belongs to a checkpoint's
    identity, so the same command goes on from it once they are loosened. A rule that is null never stops. [assumed]
    """

    nonfinite: bool = True
    """Stop at once when loss, gradient norm or an entropy is NaN or infinite; the weights are lost from then on."""
    rollout_correlation: Annotated[float, Field(ge=0, lt=1)] | None = 0.97
    """Stop at once when the probabilities of the rollouts' tokens, the rollout engine's and the policy's, correlate by
    less: it has other weights than the policy. Healthy runs in bfloat16 stayed above 0.99."""
    window: Annotated[int, Field(ge=1)] = 5
    """Steps over which reward, entropy and truncated share are averaged; also the first steps that make the start."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Steps in a row for which a rule must hold before it stops the stage."""
    reward_share: Annotated[float, Field(gt=0, lt=1)] | None = 0.2
    """Stop when the mean reward has fallen below this share of its best mean."""
    reward_floor: Annotated[float, Field(ge=0)] = 0.1
    """The best mean reward must have been at least this; below it a fall is noise."""
    entropy_multiple: Annotated[float, Field(gt=1)] | None = 10.0
    """Stop when the batch entropy is above this multiple of the start's."""
    entropy_floor: Annotated[float, Field(ge=0)] = 1.0
    """And above this, in nats: a policy that began near 0 may rise tenfold in good health."""
    grad_norm: Annotated[float, Field(gt=0)] | None = 1e4
    """Stop when the gradient norm before clipping is above this."""
    truncated_share: Annotated[float, Field(gt=0, le=1)] | None = 0.98
    """Stop when this share of responses is cut off at the limit, unless it was so at the start already."""


Truncated = Literal["keep", "zero_reward", "drop"]
