"""Initial weights that already copy: the first two layers of a Qwen3 model begin as an induction circuit.

Retrieval does not form by itself in the few hundred thousand tokens that two CPU cores can train on in a minute or
two (docs/base.md). So heads of layer 0 begin by writing the previous tokens beside each token, and heads of layer 1
by looking for the place where the same tokens stood before and copying what came next. All other weights are random,
everything is trained afterwards, and nothing here knows any question or answer.

The residual stream is divided: content (the embedding), `back` blocks (projections of the tokens 1, 2, … before),
and one constant that position heads read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Tokens back that are matched; three tell most places of a text apart, digits included.
_BACK = 3
#: Weight of the match of the current token and of those before it.
_MATCH = (1.0, 0.8, 0.65)
#: Gains of the query and key norms: how sharply position heads and matching heads look.
_POSITION_GAIN, _MATCH_GAIN = 1.5, 1.2
#: Scale of the copied embedding relative to the current token's own.
_COPY_GAIN = 8.0
#: Frequencies (radians per token) that position heads use, and the largest that matching can bear over a window.
_FAST, _SLOW = 0.05, 1.5e-3


def _rotated(width: int, theta: float) -> list[float]:
    """Return the rotary frequency of each pair (n, n + width / 2) of a head."""
    return [theta ** (-n / (width // 2)) for n in range(width // 2)]


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a matrix [rows, columns] whose shorter side is orthonormal."""
    matrix = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(matrix)[0]
    return (q if rows >= columns else q.T).float()


@torch.no_grad()
def initialise(model: Any, seed: int) -> bool:
    """Set embedding, layer 0 and layer 1 of a Qwen3 or Qwen3-MoE model in place; the rest is left as it is.

    Returns False, and changes nothing, where the model is too small for the circuit (fewer than two layers, or heads
    without slowly rotating dimensions).
    """
    config = model.config
    width, heads, kv_heads, hidden = (
        config.head_dim,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.hidden_size,
    )
    frequencies = _rotated(width, config.rope_parameters["rope_theta"])
    half = width // 2
    fast = [n for n, f in enumerate(frequencies) if f >= _FAST]
    slow = [n + side for side in (0, half) for n, f in enumerate(frequencies) if f <= _SLOW]
    back = min(_BACK, heads, hidden // 32)
    block = min(len(slow), width) // max(back, 1)
    if config.num_hidden_layers < 2 or back < 1 or block < 4 or not fast:
        return False
    generator = torch.Generator().manual_seed(seed % 2**63)
    content = hidden - back * block - 1
    constant = hidden - 1
    projection = _orthogonal(block, content, generator)

    def columns(n: int) -> slice:
        """Residual dimensions of the block for the token n before; 0 is the current token's content."""
        return slice(content + (n - 1) * block, content + n * block)

    embedding = model.model.embed_tokens.weight
    embedding[:, content:] = 0
    embedding[:, :content] = torch.randn(embedding.shape[0], content, generator=generator) * 0.05
    embedding[:, constant] = 0.05

    # Layer 0: query head h looks h + 1 tokens back, by rotary phase alone, and writes that token's projection.
    attention = model.model.layers[0].self_attn
    group = heads // kv_heads
    q, k, v, o = (getattr(attention, f"{name}_proj").weight for name in "qkvo")
    for weight in (q, k, v, o):
        weight.mul_(0.1)
    for kv in range(kv_heads):
        rows = slice(kv * width, (kv + 1) * width)
        k[rows] = 0
        for n in fast:
            k[kv * width + n, constant] = 1.0
        v[kv * width : kv * width + block] = 0
        v[kv * width : kv * width + block, :content] = projection * math.sqrt(content / block)
    for head in range(back):
        q[head * width : (head + 1) * width] = 0
        for n in fast:
            # The key's phase at distance d is -d * f: this query is in phase with it at d = head + 1.
            q[head * width + n, constant] = math.cos(-(head + 1) * frequencies[n])
            q[head * width + half + n, constant] = math.sin(-(head + 1) * frequencies[n])
        o[:, head * width : head * width + block] = 0
        for n in range(block):
            o[columns(head + 1).start + n, head * width + n] = 0.05
    attention.q_norm.weight.fill_(_POSITION_GAIN)
    attention.k_norm.weight.fill_(_POSITION_GAIN / 2)

    # Layer 1: the first head of each group compares (token, token before, …) with (token before, …) of every place.
    attention = model.model.layers[1].self_attn
    q, k, v, o = (getattr(attention, f"{name}_proj").weight for name in "qkvo")
    for weight in (q, k, v, o):
        weight.mul_(0.1)
    values = _orthogonal(kv_heads * width, content, generator)
    v.zero_()
    v[:, :content] = values
    for kv in range(kv_heads):
        q_rows, k_rows = kv * group * width, kv * width
        q[q_rows : q_rows + width] = 0
        k[k_rows : k_rows + width] = 0
        for n in range(back):
            dims = slow[n * block : (n + 1) * block]
            for m, dim in enumerate(dims):
                if n == 0:
                    q[q_rows + dim, :content] = _MATCH[0] * projection[m] * math.sqrt(content / block)
                else:
                    q[q_rows + dim, columns(n).start + m] = _MATCH[n]
                k[k_rows + dim, columns(n + 1).start + m] = 1.0
        first = kv * group * width
        o[:, first : first + width] = 0
        o[:content, first : first + width] = values[kv * width : (kv + 1) * width].T * 0.05 * _COPY_GAIN
    attention.q_norm.weight.fill_(_MATCH_GAIN)
    attention.k_norm.weight.fill_(_MATCH_GAIN)
    return True
