"""A Hugging Face model that reads a stream of packs: FlexAttention over its blocks, a head that returns statistics.

Over several GPUs that share a row (sequence parallelism), each holds a part of the stream; for attention they change
over to all tokens of some heads, as in DeepSpeed-Ulysses (arXiv 2309.14509), and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface

from qwenlong.training import packing, sequence_parallel
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
    """Attend within the blocks of `attention_mask` (a BlockMask of the whole stream); query is [1, heads, N, width].

    Where the module has a `sequence_group` of W ranks, query, key and value hold N / W tokens of it, and so does the
    result. FlexAttention has no backward pass on CPU; there the same mask is used densely, N x N.
    """
    group = getattr(module, "sequence_group", None)
    if group is not None:
        query, key, value = sequence_parallel.to_heads(query, key, value, group)
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
    if group is not None:
        out = sequence_parallel.to_tokens(out, group)
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


def prepare(module: Any, group: Any = None) -> StatisticsHead:
    """Make a causal language model read streams, or its rank's part of them in a `group`; return its head.

    The head's class alone changes: parameters, their names and ties stay. Raises NotImplementedError for a head that
    is no plain linear layer.
    """
    for part in module.modules():
        part.sequence_group = group
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


def part_of_inputs(whole: dict[str, Any], rank: int, ranks: int) -> tuple[dict[str, Any], Tensor]:
    """Return one rank's part of `inputs`, and which of the response tokens are predicted in it, [C] bool.

    The mask stays that of the whole stream. Raises ValueError when the stream does not divide by the ranks.
    """
    length = whole["input_ids"].shape[1]
    if length % ranks:
        raise ValueError(f"a stream of {length} tokens does not divide among {ranks} ranks; pad it")
    size = length // ranks
    own = slice(rank * size, (rank + 1) * size)
    places = whole["logits_to_keep"]
    mine = (places >= own.start) & (places < own.stop)
    part = {name: whole[name][:, own] for name in ("input_ids", "position_ids")}
    return whole | part | {"logits_to_keep": places[mine] - own.start}, mine
