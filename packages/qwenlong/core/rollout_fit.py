"""Whether a step's rollouts were sampled with the policy's weights, from the metrics that training logs."""

from __future__ import annotations

from collections.abc import Mapping

#: Pearson correlation of the tokens' probabilities, the rollout engine's and the policy's, and their mean difference.
CORRELATION, GAP = "training/rollout_actor_probs_pearson_corr", "training/rollout_probs_diff_mean"
#: Mean difference below which the correlation says nothing: a policy that is sure of all it says.
_LEAST_GAP = 0.005


def foreign(metrics: Mapping[str, float], bound: float) -> bool:
    """Tell whether a step's rollouts came from other weights: they correlate by less than `bound`, and differ."""
    value, gap = metrics.get(CORRELATION), metrics.get(GAP)
    return value is not None and gap is not None and value < bound and gap > _LEAST_GAP
