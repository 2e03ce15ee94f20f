"""Exchanges between ranks that share a row: from some tokens of all heads to all tokens of some heads, and back.

After DeepSpeed-Ulysses (arXiv 2309.14509). All of it is differentiable. Works over NCCL and gloo.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def to_heads(query: Tensor, key: Tensor, value: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return all N tokens of this rank's heads, [1, heads / W, N, width], from N / W tokens of all heads.

    `key` and `value` may have fewer heads than there are ranks W: each rank then gets a copy of the one that it needs.
    Query heads stay with their own key-value head. Raises ValueError for heads that do not divide.
    """
    ranks = dist.get_world_size(group)
    heads, kv_heads = query.shape[1], key.shape[1]
    if heads % ranks or (kv_heads % ranks and ranks % kv_heads):
        raise ValueError(f"{heads} query and {kv_heads} key-value heads do not divide among {ranks} ranks")
    if kv_heads < ranks:
        key, value = (x.repeat_interleave(ranks // kv_heads, dim=1) for x in (key, value))
    sizes = [x.shape[1] // ranks for x in (query, key, value)]
    _, _, tokens, width = query.shape
    # One exchange for all three: [receiver, heads of all three, tokens, width].
    sent = torch.cat([x.reshape(ranks, -1, tokens, width) for x in (query, key, value)], dim=1)
    got = _exchange(sent, group)  # [sender, ...]: senders hold parts of the stream in their order
    whole = got.transpose(0, 1).reshape(1, sum(sizes), ranks * tokens, width)
    first, second, third = whole.split(sizes, dim=1)
    return first, second, third


def to_tokens(out: Tensor, group: Any) -> Tensor:
    """Return N / W tokens of all heads, [1, heads, N / W, width], from all tokens of this rank's heads."""
    ranks = dist.get_world_size(group)
    _, heads, length, width = out.shape
    sent = out.reshape(heads, ranks, length // ranks, width).transpose(0, 1)
    return _exchange(sent, group).reshape(1, ranks * heads, length // ranks, width)


def together(values: Tensor, mine: Tensor, group: Any) -> Tensor:
    """Return the values of all ranks, [C], from those of the places `mine` ([C] bool), which are this rank's.

    Every rank goes on with the same result, so the gradient of `values` is the sum over the ranks' losses: W times that
    of one, which FSDP's mean over all ranks undoes.
    """
    whole = values.new_zeros(len(mine)).masked_scatter(mine, values)
    result: Tensor = _Sum.apply(whole, group)
    return result


def _exchange(sent: Tensor, group: Any) -> Tensor:
    got: Tensor = _Exchange.apply(sent, group)
    return got


class _Exchange(torch.autograd.Function):
    """Part r of the first dimension goes to rank r; gradients take the same way back."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: Any) -> Tensor:
        ctx.group = group
        sent = sent.contiguous()
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=group)
        return got

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _exchange(gradients[0], ctx.group), None


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
