"""verl's keys for models of billions of parameters: attention, memory of training, vLLM, timeouts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from qwenlong.core.config import Config, StageConfig
from qwenlong.core.config.fit import model_faults
from qwenlong.core.errors import ConfigError

#: Read by `register` in every process.
COLLECTIVE_TIMEOUT = "QWENLONG_COLLECTIVE_TIMEOUT_MINUTES"
_ACTOR = "actor_rollout_ref.actor"
_MODEL = "actor_rollout_ref.model"
_ROLLOUT = "actor_rollout_ref.rollout"


def attention(config: Config) -> str:
    """Return the attention of training by transformers' name."""
    engine = config.engine
    if engine.attention != "auto":
        return engine.attention
    installed = engine.platform == "cuda" and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if installed else "sdpa"


def keys(config: Config, *, prompt: int, response: int) -> dict[str, Any]:
    """Return the keys for rows of at most `prompt` and `response` tokens."""
    engine = config.engine
    cpu = engine.platform == "cpu"
    memory, rollout = engine.memory, engine.rollout
    checkpointing = not cpu if memory.gradient_checkpointing is None else memory.gradient_checkpointing
    fused = memory.head.startswith("fused_")
    values: dict[str, Any] = {
        # verl multiplies it by the sequence-parallel size; on CPU a row that is longer is taken all the same.
        f"{_MODEL}.override_config.attn_implementation": attention(config),
        f"{_MODEL}.enable_gradient_checkpointing": checkpointing,
        f"{_MODEL}.enable_activation_offload": memory.activation_offload,
        # verl replaces the model's forward by one that never makes all logits, rolls labels before the sequence is cut
        # (Ulysses) and takes one temperature for the batch.
        f"{_MODEL}.use_fused_kernels": fused,
        f"{_MODEL}.fused_kernel_options.impl_backend": "triton" if memory.head == "fused_triton" else "torch",
        f"{_ACTOR}.entropy_from_logits_with_chunking": memory.head == "chunked_entropy",
        f"{_ACTOR}.entropy_from_logits_chunk_size": memory.head_chunk_tokens,
        f"{_ACTOR}.entropy_checkpointing": memory.recompute_entropy,
        f"{_ACTOR}.fsdp_config.param_offload": memory.parameter_offload,
        f"{_ACTOR}.fsdp_config.optimizer_offload": memory.optimizer_offload,
        f"{_ACTOR}.fsdp_config.offload_policy": memory.cpu_offload_policy,
        f"{_ACTOR}.fsdp_config.reshard_after_forward": memory.reshard_after_forward,
        "trainer.ray_wait_register_center_timeout": engine.start_timeout_minutes * 60,
    }
    if engine.experts is not None:
        # Set on the loaded model's configuration, from which transformers chooses at each forward pass.
        values[f"{_MODEL}.override_config._experts_implementation"] = engine.experts
    if not cpu:
        values |= {
            f"{_ROLLOUT}.dtype": "bfloat16",
            f"{_ROLLOUT}.quantization": "fp8" if rollout.precision == "fp8" else None,
            f"{_ROLLOUT}.max_model_len": rollout.max_model_len or prompt + response,
            f"{_ROLLOUT}.max_num_batched_tokens": rollout.max_batched_tokens,
            f"{_ROLLOUT}.max_num_seqs": rollout.max_sequences,
            f"{_ROLLOUT}.enable_chunked_prefill": rollout.chunked_prefill,
            f"{_ROLLOUT}.enable_prefix_caching": rollout.prefix_caching,
            f"{_ROLLOUT}.expert_parallel_size": engine.tensor_parallel if rollout.expert_parallel else 1,
        }
        if rollout.graphs:
            values[f"{_ROLLOUT}.cudagraph_capture_sizes"] = sorted(rollout.graphs)
        own: dict[str, Any] = {}
        if rollout.cache_mb is not None:
            own["kv_cache_memory_bytes"] = rollout.cache_mb * 2**20
        if not rollout.compile:
            own["compilation_config"] = json.dumps({"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"})
        if own:
            values[f"{_ROLLOUT}.engine_kwargs.vllm"] = own
    return values


def check(config: Config, stage: StageConfig, model: Path) -> None:
    """Raise ConfigError when the model in `model` does not fit engine and stage, with every fault in a line."""
    file = model / "config.json"
    try:
        shape = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); give a Hugging Face directory as --model") from error
    faults = model_faults(config.engine, sum(stage.row_limits), shape, str(file))
    if config.engine.sequence_parallel > 1 and attention(config) != "flash_attention_2":
        faults.append(
            f"engine.sequence_parallel = {config.engine.sequence_parallel} exchanges heads inside flash_attention_2 "
            f"only, and engine.attention is {attention(config)}; install flash-attn, or set sequence_parallel to 1"
        )
    if faults:
        raise ConfigError("\n".join(faults))
