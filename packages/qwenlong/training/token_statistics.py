"""Log-probabilities and entropies of tokens, from logits or straight from hidden states in chunks. Pure functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Rows of logits that are alive at a time: 4,096 rows over a vocabulary of 152K are 2.5 GB in float32.
CHUNK = 4096


def token_statistics(logits: Tensor, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """Return log-probability of `labels` [n] and, if asked, entropy (nats, no gradient) under `logits` [n, V]."""
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(-1, labels[:, None]).squeeze(-1)
    if not entropy:
        return chosen, None
    fixed = log_probs.detach()
    return chosen, -(fixed.exp() * fixed).sum(-1)


def linear_statistics(
    hidden: Tensor, weight: Tensor, labels: Tensor, temperature: Tensor, entropy: bool, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy of tokens whose logits are `hidden @ weight.T / temperature`.

    Logits exist for `chunk` rows at a time, forward and backward, whatever n is; the backward pass makes them again.
    Rows whose gradient is 0 are not made again: masked tokens cost a forward pass only.

    Args:
        hidden: [n, d], float32, bfloat16 or float64, with gradient.
        weight: [V, d], same dtype, with gradient.
        labels: [n], ids in [0, V).
        temperature: [n], above 0.
        entropy: whether entropies are wanted (nats, full vocabulary, without gradient); zeros otherwise.
        chunk: rows of logits at a time.

    Both results are [n], float32 (float64 for float64 inputs). Logits are accumulated in that precision too where
    the device can. Raises ValueError for shapes that do not fit and a chunk below 1.
    """
    n = hidden.shape[0]
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be [n, d] and [V, d]")
    if labels.shape != (n,) or temperature.shape != (n,):
        raise ValueError(f"{n} rows, labels {tuple(labels.shape)}, temperature {tuple(temperature.shape)}: give [n]")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}; at least one row of logits is needed at a time")
    chosen, entropies = _LinearStatistics.apply(hidden, weight, labels, temperature, entropy, chunk)
    return chosen, entropies


class _LinearStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: Tensor, entropy: bool, chunk: int
    ) -> tuple[Tensor, Tensor]:
        precision = torch.promote_types(hidden.dtype, torch.float32)
        chosen = torch.empty(len(labels), dtype=precision, device=hidden.device)
        normalisers, entropies = torch.empty_like(chosen), torch.zeros_like(chosen)
        for part in _parts(len(labels), chunk):
            logits = _logits(hidden[part], weight, temperature[part])
            normaliser = torch.logsumexp(logits, dim=-1)
            normalisers[part] = normaliser
            chosen[part] = logits.gather(-1, labels[part, None]).squeeze(-1) - normaliser
            if entropy:
                # H = log Z - E[logit]; in place, so that no third copy of the logits is made.
                shifted = logits.sub_(normaliser[:, None])
                entropies[part] = -(shifted.exp().mul_(shifted)).sum(-1)
        ctx.save_for_backward(hidden, weight, labels, temperature, normalisers)
        ctx.chunk = chunk
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, temperature, normalisers = ctx.saved_tensors
        gradient = gradients[0]
        hidden_gradient = torch.zeros_like(hidden)
        weight_gradient = torch.zeros(weight.shape, dtype=gradient.dtype, device=weight.device)
        live = gradient.nonzero().squeeze(-1)
        for part in _parts(len(live), ctx.chunk):
            rows = live[part]
            logits = _logits(hidden[rows], weight, temperature[rows])
            # d log p(label) / d logits = one-hot - p, over the temperature.
            scale = gradient[rows] / temperature[rows].to(gradient.dtype)
            slope = logits.sub_(normalisers[rows, None]).exp_().mul_(-scale[:, None])
            slope.scatter_add_(1, labels[rows, None], scale[:, None])
            slope = slope.to(weight.dtype)
            hidden_gradient[rows] = (slope @ weight).to(hidden.dtype)
            weight_gradient += slope.T @ hidden[rows]
        return hidden_gradient, weight_gradient.to(weight.dtype), None, None, None, None


def _parts(n: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]


def _logits(hidden: Tensor, weight: Tensor, temperature: Tensor) -> Tensor:
    precision = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        if hidden.is_cuda and hidden.dtype != precision:
            logits = torch.mm(hidden, weight.T, out_dtype=precision)
        else:
            logits = (hidden @ weight.T).to(precision)
    return logits.div_(temperature.to(precision)[:, None])
