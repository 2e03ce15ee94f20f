"""Bytes per GPU of one training step with FSDP2 and vLLM, from a model's shape: an estimate that shows its terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenlong.core.config import EngineConfig

#: Tokens per chunk of verl's fused head in torch.
_FUSED_CHUNK = 512
#: Entries of the vocabulary per block of the backward pass of verl's fused head in Triton.
_FUSED_BLOCK = 9504


def parameters(shape: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of parameters of a decoder by its config.json: `layer`, `embedding`, `head` and `all`.

    Attention, the experts with their router (or one dense block), norms. Raises KeyError for a size that is missing.
    """
    hidden, layers = int(shape["hidden_size"]), int(shape["num_hidden_layers"])
    heads, kv_heads = int(shape["num_attention_heads"]), int(shape["num_key_value_heads"])
    width = int(shape.get("head_dim") or hidden // heads)
    attention = hidden * width * (2 * heads + 2 * kv_heads) + 2 * width
    experts = int(shape.get("num_experts") or 0)
    inner = int(shape["moe_intermediate_size"] if experts else shape["intermediate_size"])
    block = 3 * hidden * inner * max(1, experts) + hidden * experts
    layer = attention + block + 2 * hidden
    embedding = int(shape["vocab_size"]) * hidden
    head = 0 if shape.get("tie_word_embeddings") else embedding
    return {"layer": layer, "embedding": embedding, "head": head, "all": layers * layer + embedding + head + hidden}


def training_bytes(shape: Mapping[str, Any], engine: EngineConfig, row: int) -> dict[str, float]:
    """Return bytes per GPU of an update whose micro-batch is one row of `row` tokens (or micro_batch_tokens per GPU).

    weights: float32 weights, gradients and Adam's two moments, sharded over all GPUs. layer: the gathered weights of
    two layers and of embedding and head, and one layer's float32 gradient before it is scattered. activations: the
    input of each layer. working: one layer's intermediate values, forward and backward. head: logits, or their chunk.
    """
    count, memory = parameters(shape), engine.memory
    gpus = engine.nodes * engine.gpus_per_node
    wide = 2 if engine.dtype == "bfloat16" else 4
    tokens = max(-(-row // engine.sequence_parallel), engine.micro_batch_tokens)
    hidden, layers, vocabulary = int(shape["hidden_size"]), int(shape["num_hidden_layers"]), int(shape["vocab_size"])
    width = int(shape.get("head_dim") or hidden // int(shape["num_attention_heads"]))
    heads = int(shape["num_attention_heads"]) + 2 * int(shape["num_key_value_heads"])
    per_token = int(shape.get("num_experts_per_tok") or 1)
    inner = int(shape["moe_intermediate_size"] if shape.get("num_experts") else shape["intermediate_size"])
    working = tokens * wide * (2 * hidden + heads * width + per_token * (2 * hidden + 3 * inner))
    kept = working * layers if memory.gradient_checkpointing is False else tokens * hidden * wide * layers
    if memory.head == "fused_torch":
        # Logits, probabilities, one-hot and their difference of one chunk in float32; the head's gradient.
        head = _FUSED_CHUNK * vocabulary * 4 * 4 + vocabulary * hidden * wide
    elif memory.head == "fused_triton":
        # The gradient of one block's logits; the hidden states' and the head's gradients.
        head = tokens * min(_FUSED_BLOCK, vocabulary) * wide + (tokens + vocabulary) * hidden * wide
    else:
        chunk = min(tokens, memory.head_chunk_tokens) if memory.head == "chunked_entropy" else tokens
        # Logits, their quotient by the temperature, their gradient; and float32 copies for the entropy.
        head = tokens * vocabulary * wide * 3 + chunk * vocabulary * 4 * 2
    on_gpu = 0.0 if memory.cpu_offload_policy else 1.0
    return {
        "weights": on_gpu * 16.0 * count["all"] / gpus,
        "layer": float(count["layer"] * (2 * wide + 4) + (count["embedding"] + count["head"]) * wide),
        "activations": 0.0 if memory.activation_offload else float(kept),
        "working": 2.0 * working,
        "head": float(head),
    }


def rollout_bytes(shape: Mapping[str, Any], engine: EngineConfig, row: int) -> dict[str, float]:
    """Return bytes per GPU of vLLM: its weights, and the keys and values of one row of `row` tokens.

    A mixture of experts is split over a replica either way. Keys and values are bfloat16; where a replica has more GPUs
    than key-value heads, heads are repeated.
    """
    tp = engine.tensor_parallel
    count = parameters(shape)
    small = count["embedding"] + count["head"]
    wide = 1 if engine.rollout.precision == "fp8" else 2
    width = int(shape.get("head_dim") or int(shape["hidden_size"]) // int(shape["num_attention_heads"]))
    heads = max(1, -(-int(shape["num_key_value_heads"]) // tp))
    return {
        "weights": ((count["all"] - small) * wide + small * 2) / tp,
        "row": float(row * int(shape["num_hidden_layers"]) * 2 * heads * width * 2),
    }
