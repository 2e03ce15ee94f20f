"""Memory of training and settings of the rollout engine: what models of billions of parameters need."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwenlong.core.config.section import Section


class MemoryConfig(Section):
    """What of a training step lies in GPU memory. Each saving costs time; platform cpu needs none of them."""

    gradient_checkpointing: bool | None = None
    """Keep one activation per layer, compute the rest anew in the backward pass (a third more time); none: on cuda."""
    activation_offload: bool = False
    """Keep those activations in host memory, fetched back layer by layer. Needs gradient_checkpointing."""
    parameter_offload: bool = False
    """Parameters and gradients rest in host memory while rollouts are generated."""
    optimizer_offload: bool = False
    """Adam's moments (8 bytes a parameter, over all ranks) rest in host memory but for the optimizer's own step."""
    cpu_offload_policy: bool = False
    """FSDP2's own offload: parameters, gradients and optimizer live in host memory and come layer by layer. Slowest."""
    reshard_after_forward: bool = True
    """Give a layer's gathered parameters back after its forward pass; false saves a gather, costs the whole model."""
    head: Literal["logits", "chunked_entropy", "fused_torch", "fused_triton"] = "logits"
    """How log-probabilities and entropies come about (docs/training.md, Real models).

    logits: all logits at once. chunked_entropy: the same, with float32 copies for the entropy in chunks only.
    fused_torch: hidden states times the head in chunks of 512 tokens, forward and backward; never all logits; entropy
    rounded to the computing dtype. fused_triton: the same in one kernel over blocks of the vocabulary, entropy in
    float32.
    """
    head_chunk_tokens: Annotated[int, Field(ge=1)] = 2048
    """Tokens per chunk of chunked_entropy."""
    recompute_entropy: bool = False
    """With logits or chunked_entropy: keep nothing of the entropy for a backward pass, as an entropy loss has one."""


class RolloutConfig(Section):
    """vLLM; nothing of it is read on platform cpu."""

    precision: Literal["bfloat16", "fp8"] = "bfloat16"
    """fp8: weights are quantised in blocks when they arrive, routers stay bfloat16; half the weight memory, and
    probabilities that differ from the trainer's. [assumed: not published]"""
    max_model_len: Annotated[int, Field(ge=16)] | None = None
    """Longest prompt and response together; none: the stage's limits. More costs memory that no rollout can use."""
    max_batched_tokens: Annotated[int, Field(ge=64)] = 8192
    """Tokens per forward pass of vLLM: chunk of a prompt, or all running responses."""
    max_sequences: Annotated[int, Field(ge=1)] = 256
    """Responses that run at once per replica."""
    agent_workers: Annotated[int, Field(ge=1)] = 8
    """Processes per machine that ask for rollouts and score them; each imports verl at a stage's start."""
    cache_mb: Annotated[int, Field(ge=64)] | None = None
    """Size of the cache of keys and values, in MB; none: what gpu_memory_utilization leaves, as vLLM measures it. Set
    it where other processes use the same GPU: what they take or give back meanwhile upsets the measurement."""
    graphs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Batch sizes for which CUDA graphs are captured; none: vLLM's own list. Few sizes start sooner."""
    compile: bool = True
    """False: no torch.compile, CUDA graphs of decoding alone. Starts sooner, and is a little slower afterwards."""
    chunked_prefill: bool = True
    """Long prompts are read in chunks between decoding steps; off, max_batched_tokens must hold a whole prompt."""
    prefix_caching: bool = True
    """The rollouts of a group read their common prompt once."""
    expert_parallel: bool = False
    """Mixture of experts: whole experts per GPU of a replica instead of a slice of each."""
