"""Two ways of computing that suit small models on CPU, registered with transformers under the names below.

Both give the results of transformers' own up to float noise; docs/base.md has the measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.moe import ExpertsInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

#: Names for `set_attn_implementation` and `set_experts_implementation`.
ATTENTION = "qwenlong_grouped"
EXPERTS = "qwenlong_dense"
#: Up to this ratio of experts to experts per token it is cheaper to compute all of them than to gather tokens.
_MAX_DENSE_RATIO = 4


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with one query per row without copying the cache once per query head; else as `sdpa`.

    `query` is [rows, heads, 1, width], `key` and `value` [rows, kv heads, columns, width].
    """
    rows, heads, length, width = query.shape
    if length != 1 or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    kv_heads = key.shape[1]
    grouped = query.view(rows, kv_heads, heads // kv_heads, width)
    scores = torch.matmul(grouped, key.transpose(2, 3)) * (width**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = (
            scores.masked_fill(~attention_mask, float("-inf"))
            if attention_mask.dtype == torch.bool
            else scores + attention_mask
        )
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).view(rows, 1, heads, width), None


def dense_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Compute every expert in two matrix products and weigh those that were not chosen with 0.

    `hidden_states` is [tokens, hidden], `top_k_index` and `top_k_weights` [tokens, experts per token].
    """
    tokens = hidden_states.shape[0]
    weights = hidden_states.new_zeros((tokens, self.num_experts)).scatter(
        1, top_k_index, top_k_weights.to(hidden_states.dtype)
    )
    gate_up = torch.nn.functional.linear(hidden_states, self.gate_up_proj.flatten(0, 1))
    gate, up = gate_up.view(tokens, self.num_experts, -1).chunk(2, dim=-1)
    inner = self.act_fn(gate) * up * weights[:, :, None]
    # [experts, hidden, inner] -> [experts x inner, hidden]: the sum over experts happens inside the product.
    return inner.flatten(1) @ self.down_proj.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
ExpertsInterface.register(EXPERTS, dense_experts)


def choose(model: Any, cpu: bool | None = None) -> None:
    """Set how attention and experts are computed: the above on CPU, transformers' own on a GPU.

    `cpu` says where the model will live; without it the place of its parameters decides.
    """
    config = model.config
    if cpu is None:
        cpu = next(model.parameters()).device.type == "cpu"
    if cpu:
        model.set_attn_implementation(ATTENTION)
    experts = getattr(config, "num_experts", None)
    if experts:
        dense = cpu and experts <= _MAX_DENSE_RATIO * config.num_experts_per_tok
        model.set_experts_implementation(EXPERTS if dense else "grouped_mm")
