"""What must divide what: engine against stage, and against the shape of a model. Pure; each fault names its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenlong.core.config.training import EngineConfig, StageConfig


def engine_faults(engine: EngineConfig) -> list[str]:
    """Return what of the engine's own sizes does not fit together."""
    faults = []
    world, sp, tp = engine.nodes * engine.gpus_per_node, engine.sequence_parallel, engine.tensor_parallel
    if world % sp:
        faults.append(
            f"engine.sequence_parallel = {sp} does not divide {world} = nodes {engine.nodes} x gpus_per_node "
            f"{engine.gpus_per_node}; take a divisor"
        )
    if engine.platform == "cpu":
        if sp > 1:
            faults.append(f"engine.sequence_parallel = {sp}: platform cpu has none; set it to 1")
        if engine.memory.head.startswith("fused_"):
            faults.append(f"engine.memory.head = {engine.memory.head}: platform cpu has logits only; set it to logits")
        return faults
    if sp > 1 and engine.attention == "sdpa" and not engine.packs:
        faults.append(
            f"engine.sequence_parallel = {sp} exchanges heads inside flash_attention_2 only; set engine.attention to "
            "it, or engine.packed to true, or sequence_parallel to 1"
        )
    if engine.gpus_per_node % tp:
        faults.append(
            f"engine.tensor_parallel = {tp} does not divide gpus_per_node {engine.gpus_per_node}; a vLLM replica "
            "lies within one machine, take a divisor"
        )
    memory = engine.memory
    checkpointing = True if memory.gradient_checkpointing is None else memory.gradient_checkpointing
    if memory.activation_offload and not checkpointing:
        faults.append(
            "engine.memory.activation_offload moves the activations that gradient_checkpointing keeps; set both, or "
            "neither"
        )
    if memory.cpu_offload_policy and (memory.parameter_offload or memory.optimizer_offload):
        faults.append(
            "engine.memory.cpu_offload_policy already keeps parameters and optimizer in host memory; "
            "set parameter_offload and optimizer_offload to false"
        )
    return faults


def stage_faults(engine: EngineConfig, stage: StageConfig, name: str) -> list[str]:
    """Return what of a stage does not fit the engine; `name` stands at the head of each fault."""
    faults = []
    ranks = max(1, engine.nodes * engine.gpus_per_node // engine.sequence_parallel)
    rows = stage.batch_prompts * stage.group_size
    # Turns of the memory agent differ in number; their rows are filled up with rows that count for nothing.
    if stage.memory is None and rows % ranks:
        faults.append(
            f"{name}: batch_prompts {stage.batch_prompts} x group_size {stage.group_size} = {rows} rows do not "
            "divide among "
            f"{ranks} data-parallel ranks (nodes x gpus_per_node / sequence_parallel); change batch_prompts or "
            "group_size"
        )
    if engine.platform == "cpu":
        return faults
    longest = sum(stage.row_limits)
    fits = engine.micro_batch_tokens * engine.sequence_parallel
    if fits < longest:
        faults.append(
            f"{name}: a row may have {longest} tokens, a micro-batch holds {fits} = engine.micro_batch_tokens "
            f"{engine.micro_batch_tokens} x sequence_parallel {engine.sequence_parallel}; raise micro_batch_tokens to "
            f"{-(-longest // engine.sequence_parallel)} or more, or sequence_parallel"
        )
    rollout = engine.rollout
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        faults.append(
            f"{name}: a row may have {longest} tokens, engine.rollout.max_model_len is {rollout.max_model_len}; "
            "raise it, or leave it out"
        )
    if not rollout.chunked_prefill and rollout.max_batched_tokens < longest:
        faults.append(
            f"{name}: without chunked_prefill engine.rollout.max_batched_tokens = {rollout.max_batched_tokens} must "
            f"hold a whole row of {longest} tokens; turn chunked_prefill on, or raise it"
        )
    return faults


def model_faults(engine: EngineConfig, longest: int, shape: Mapping[str, Any], source: str) -> list[str]:
    """Return what of a model's shape (its config.json) does not fit engine and the longest row, in tokens."""
    faults = []
    heads = int(shape.get("num_attention_heads") or 1)
    kv_heads = int(shape.get("num_key_value_heads") or heads)
    experts = int(shape.get("num_experts") or shape.get("num_local_experts") or 0)
    window = shape.get("max_position_embeddings")
    sp, tp = engine.sequence_parallel, engine.tensor_parallel
    cuda = engine.platform == "cuda"
    for setting, size in (("sequence_parallel", sp), *([("tensor_parallel", tp)] if cuda else [])):
        if heads % size:
            faults.append(
                f"{source}: {heads} attention heads do not divide by engine.{setting} = {size}; take a divisor"
            )
        if kv_heads % size and size % kv_heads:
            faults.append(
                f"{source}: neither of {kv_heads} key-value heads and engine.{setting} = {size} divides the other"
            )
    if cuda:
        if engine.rollout.expert_parallel and (not experts or experts % tp):
            faults.append(
                f"{source}: {experts} experts do not spread over engine.tensor_parallel = {tp}; set "
                "engine.rollout.expert_parallel to false"
            )
        if engine.rollout.precision == "fp8" and int(shape.get("hidden_size") or 0) % 128:
            faults.append(
                f"{source}: hidden_size {shape.get('hidden_size')} is no multiple of the 128 of an FP8 block; set "
                "engine.rollout.precision to bfloat16"
            )
    # With scaled rotary positions (YaRN and its like) the number says what the model was made with, not what it bears.
    scaling = shape.get("rope_scaling") or shape.get("rope_parameters") or {}
    scaled = scaling.get("rope_type", scaling.get("type", "default")) != "default"
    if window is not None and not scaled and longest > int(window):
        faults.append(
            f"{source}: max_position_embeddings {window} is below the {longest} tokens a row may have; lower the "
            "stage's max_input_tokens or max_output_tokens"
        )
    return faults
