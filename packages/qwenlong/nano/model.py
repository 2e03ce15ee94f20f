"""The nano policy's model: a Qwen3-MoE of at most ten million parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenlong.core.config import NanoTrainingConfig
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer


def build(plan: NanoTrainingConfig, tokenizer: Tokenizer, window: int, seed: int) -> Any:
    """Return a freshly initialised, seeded model. MoE learnt more than a dense model of its size: docs/nano.md."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    pad = tokenizer.token_id("<|endoftext|>")
    config = Qwen3MoeConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=plan.hidden_size,
        intermediate_size=plan.expert_size * plan.experts_per_token,
        moe_intermediate_size=plan.expert_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.kv_heads,
        head_dim=plan.head_dim,
        num_experts=plan.experts,
        num_experts_per_tok=plan.experts_per_token,
        norm_topk_prob=True,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": plan.rope_theta},
        eos_token_id=tokenizer.eos_id,
        pad_token_id=pad,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "nano", "weights") % 2**63)
        model = Qwen3MoeForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=1.0, eos_token_id=tokenizer.eos_id, pad_token_id=pad)
    return model


def save(model: Any, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors in bfloat16, half of float32's size."""
    import torch

    model.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    for file in folder.iterdir():
        file.chmod(0o644)  # transformers writes weights for their owner alone
