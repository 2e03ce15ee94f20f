"""What arithmetic and memory traffic alone would take for a step, from a model's config.json and a card's data sheet.

Floating-point operations of a forward pass, tokens and lengths from metrics.jsonl, a prompt that a group's rows share
computed once:

    F = 2 · N · tokens + 4 · L · A · pairs + 2 · H · response tokens

N: weights of the layers' matrix products that a token meets (of a mixture, active experts and router), L layers,
A heads times head width, pairs of a token and one that it attends to, H weights of the head. An update is 3 F (forward
once, backward twice); MFU = 3 F / (seconds · cards · peak).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Dense bfloat16 FLOP/s and bytes/s of memory, by what a card's name holds (NVIDIA's data sheets, SXM).
CARDS = {"H100": (989e12, 3.35e12), "H200": (989e12, 4.8e12)}


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes: weights as numbers, widths in elements."""

    body: int
    head: int
    layers: int
    attention: int
    keys: int
    """Width of the keys of a token in one layer."""


@dataclass(frozen=True)
class Load:
    """What a step worked on: `prompts` of `prompt` tokens that were computed, `rows` of `response` tokens."""

    prompts: float
    prompt: float
    rows: float
    response: float


def shape(config: Mapping[str, Any]) -> Shape | None:
    """Return the sizes of a Llama- or Qwen-like model from its config.json; none where they are not all there."""
    try:
        hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        width = config.get("head_dim") or hidden // heads
        keys = config.get("num_key_value_heads", heads) * width
        experts = config.get("num_experts") or config.get("num_local_experts") or 0
        inner = 3 * hidden * config["intermediate_size"]
        if experts:
            inner = config["num_experts_per_tok"] * 3 * hidden * config["moe_intermediate_size"] + hidden * experts
        body = layers * (2 * hidden * heads * width + 2 * hidden * keys + inner)
        return Shape(body, hidden * config["vocab_size"], layers, heads * width, keys)
    except (KeyError, TypeError):
        return None


def forward(of: Shape, load: Load) -> tuple[float, float, float]:
    """Return the FLOPs of one forward pass: the layers' products, attention, the head over response tokens."""
    tokens = load.prompts * load.prompt + load.rows * load.response
    pairs = load.prompts * load.prompt**2 / 2 + load.rows * (load.response * load.prompt + load.response**2 / 2)
    return (
        2.0 * of.body * tokens,
        4.0 * of.layers * of.attention * pairs,
        2.0 * of.head * load.rows * load.response,
    )


def card(name: str) -> tuple[float, float] | None:
    """Return a card's FLOP/s and bytes/s; none for one that is not listed, and for several kinds."""
    found = [value for part, value in CARDS.items() if part in name]
    return found[0] if len(found) == 1 else None


def floors(of: Shape, load: Load, peak: float, bandwidth: float) -> dict[str, float]:
    """Return the least seconds of each part of a step on one card.

    gen: prompts at the peak, then for each token the weights once and all running keys and values, in 2 bytes each.
    old_log_prob: one forward pass. update_actor: forward and backward, attention back two and a half times (its scores
    are made again), the head's logits once more.
    """
    layers, attention, head = forward(of, load)
    prefill, looked_at, _ = forward(of, Load(load.prompts, load.prompt, 0.0, 0.0))
    row = 2 * 2 * of.layers * of.keys * (load.prompt + load.response / 2)
    decode = load.response * (2 * (of.body + of.head) + load.rows * row) / bandwidth
    return {
        "gen": (prefill + looked_at) / peak + decode,
        "old_log_prob": (layers + attention + head) / peak,
        "update_actor": (3 * layers + 3.5 * attention + 4 * head) / peak,
    }
