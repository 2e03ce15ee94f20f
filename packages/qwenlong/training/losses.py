"""The policy-gradient loss of Eq. 4 and its per-group token weights. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwenlong.training.advantages import labels, members_of


def group_token_weights(lengths: Tensor, groups: Sequence[Any]) -> Tensor:
    """Return the factor of each token of each row in Eq. 4, float64 [N]: 1 / (number of groups x tokens of its group).

    Args:
        lengths: [N] response tokens of each row (a rollout, or a turn of a trajectory), masked rows included.
        groups: N labels of any hashable type, in any order; the rows of one prompt share a label.

    Raises ValueError for an empty batch, lengths that differ in number from the labels, a length that is negative or
    not finite, and a group without tokens.
    """
    tokens, rows_of = _tokens_of_groups(lengths, groups)
    for label, count in tokens.items():
        if count == 0:
            raise ValueError(f"group {label!r} has no response tokens; drop the group before the loss")
    return _spread(tokens, rows_of, lengths)


def surviving_token_weights(lengths: Tensor, groups: Sequence[Any]) -> Tensor:
    """Return the weights of `group_token_weights` for `denominator: surviving`, float64 [N].

    `lengths` counts surviving tokens only. A group of which nothing survives has weight 0 and is not counted as a
    group; when no group is left every weight is 0 (a step with nothing to learn from).
    """
    tokens, rows_of = _tokens_of_groups(lengths, groups)
    return _spread(tokens, rows_of, lengths)


def policy_gradient(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, weights: Tensor, response_mask: Tensor
) -> Tensor:
    """Return the loss of Eq. 4 to be minimised: -sum_it w_i A_i rho_it over the tokens under the mask (a scalar).

    rho_it = exp(log_prob - old_log_prob), which is 1 in value when the step is on-policy.

    Args:
        log_prob: [N, T], with gradient.
        old_log_prob: [N, T]; detached here.
        advantages: [N] or [N, T].
        weights: [N] or [N, T], from `group_token_weights`; for a micro-batch its rows of the whole batch's weights,
            so that micro-batch losses add up to the batch's.
        response_mask: [N, T], bool, int or float: the response mask, or `clipping.negative_mask`'s product with it.
            Where it is 0 nothing is read: NaN there reaches neither the value nor a gradient.

    Computed in float32 or the wider dtype of `log_prob`. With nothing under the mask it is 0, with zero gradients.
    """
    if log_prob.dim() != 2 or log_prob.shape != old_log_prob.shape or log_prob.shape != response_mask.shape:
        raise ValueError(
            f"log_prob {tuple(log_prob.shape)}, old_log_prob {tuple(old_log_prob.shape)} and response_mask "
            f"{tuple(response_mask.shape)} must all be [N, T]"
        )
    dtype = torch.promote_types(log_prob.dtype, torch.float32)
    advantage_NT = _per_token(advantages, log_prob, "advantages")
    weight_NT = _per_token(weights, log_prob, "weights")
    zero = torch.zeros((), dtype=torch.float64, device=log_prob.device)
    masked = response_mask.to(log_prob.device) != 0
    # The product is formed in float64: weights of long groups are near 1e-6 and advantages are float64 already.
    factor = torch.where(masked, advantage_NT, zero) * torch.where(masked, weight_NT, zero)
    # A factor of 0 is as good as a mask: an overflowing ratio there would give 0 * inf.
    active = masked & (factor != 0)
    nothing = torch.zeros((), dtype=dtype, device=log_prob.device)
    # `where` before `exp`: its gradient is 0 for what it does not choose, whereas exp(NaN) * 0 would stay NaN.
    log_ratio = torch.where(active, log_prob.to(dtype), nothing) - torch.where(
        active, old_log_prob.detach().to(dtype), nothing
    )
    terms = log_ratio.exp() * torch.where(active, factor, zero).to(dtype)
    return -terms.sum()


def _per_token(values: Tensor, like: Tensor, name: str) -> Tensor:
    if values.shape not in ((like.shape[0],), like.shape):
        raise ValueError(f"{name} has shape {tuple(values.shape)}; {tuple(like.shape)} log-probs need [N] or [N, T]")
    values = values.detach().to(device=like.device, dtype=torch.float64)
    return values[:, None].expand_as(like) if values.dim() == 1 else values


def _tokens_of_groups(lengths: Tensor, groups: Sequence[Any]) -> tuple[dict[Any, float], dict[Any, list[int]]]:
    group_labels = labels(groups, "groups")
    if lengths.dim() != 1:
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}; give one number per row, shape [N]")
    counts: list[float] = lengths.detach().to(torch.float64).tolist()
    if not counts:
        raise ValueError("the batch is empty; a loss needs at least one group")
    if len(counts) != len(group_labels):
        raise ValueError(f"{len(counts)} lengths and {len(group_labels)} group labels: give one of each per row")
    for row, count in enumerate(counts):
        if not math.isfinite(count) or count < 0:
            raise ValueError(f"lengths[{row}] = {count}; a length is a number of tokens, 0 or more")
    rows_of = members_of(group_labels)
    return {label: math.fsum(counts[row] for row in rows) for label, rows in rows_of.items()}, rows_of


def _spread(tokens: dict[Any, float], rows_of: dict[Any, list[int]], lengths: Tensor) -> Tensor:
    n_groups = sum(count > 0 for count in tokens.values())
    weights = [0.0] * lengths.shape[0]
    for label, rows in rows_of.items():
        for row in rows:
            weights[row] = 1.0 / (n_groups * tokens[label]) if tokens[label] > 0 else 0.0
    return torch.tensor(weights, dtype=torch.float64, device=lengths.device)
