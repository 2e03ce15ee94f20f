"""A Hugging Face model that reads a stream of packs: FlexAttention over its blocks, a head that returns statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface

from qwenlong.training import packing
from qwenlong.training.block_mask import flex_mask
from qwenlong.training.token_statistics import linear_statistics

#: Name for `set_attn_implementation`.
ATTENTION = "qwenlong_stream"
# Streams differ in length; with dynamic shapes one compilation serves them all.
_compiled = torch.compile(flex_attention, dynamic=True)


def stream_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within the blocks of `attention_mask` (a BlockMask); query is [1, heads, N, width].

    FlexAttention has no backward pass on CPU; there the same mask is used densely, N x N.
    """
    grouped = query.shape[1] != key.shape[1]
    out: Any
    if query.is_cuda:
        out = _compiled(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=grouped)
    else:
        place = torch.arange(query.shape[2])
        seen = attention_mask.mask_mod(None, None, place[:, None], place[None, :])
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scaling, enable_gqa=grouped
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, stream_attention)


@dataclass
class Request:
    """What the head is asked for next: labels and temperatures [C], and whether entropies."""

    labels: Tensor
    temperatures: Tensor
    entropy: bool


class StatisticsHead(torch.nn.Linear):
    """A language-model head that returns log-probability and entropy, [1, C, 2], where `request` is set.

    Inside the model's own forward pass, because FSDP has the weights together only there.
    """

    request: Request | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return statistics of hidden states [1, C, d], or logits without a request."""
        request, self.request = self.request, None
        if request is None:
            return super().forward(hidden)
        pair = linear_statistics(
            hidden[0].to(self.weight.dtype), self.weight, request.labels, request.temperatures, request.entropy
        )
        return torch.stack(pair, dim=-1)[None]


def prepare(module: Any) -> StatisticsHead:
    """Make a causal language model read streams; return its head.

    The head's class alone changes: parameters, their names and ties stay. Raises NotImplementedError for a head that
    is no plain linear layer.
    """
    module.set_attn_implementation(ATTENTION)
    head = module.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        raise NotImplementedError(
            f"the head is {head!r}; chunked statistics need a Linear without bias: set engine.packed to false"
        )
    head.__class__ = StatisticsHead
    return head  # type: ignore[no-any-return]


def inputs(stream: packing.Stream, device: torch.device) -> dict[str, Any]:
    """Return the model's arguments for a stream whose length is a multiple of `block_mask.BLOCK`."""
    return {
        "input_ids": stream.input_ids[None].to(device),
        "position_ids": stream.position_ids[None].to(device),
        "attention_mask": flex_mask(stream.pack.to(device), stream.row.to(device)),
        "logits_to_keep": stream.places.to(device),
    }
