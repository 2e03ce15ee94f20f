"""Sections about reinforcement learning: one stage, what overrides it, ablations, engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qwenlong.core.config.section import Section, plain_name


class ClippingConfig(Section):
    """Negative gradient clipping (Eqs. 8-9)."""

    level: Literal["token", "sequence"] = "sequence"
    """Compare each token's entropy, or the row's mean."""
    side: Literal["high", "low"] = "high"
    """Drop above or below the threshold."""
    threshold: Annotated[float, Field(ge=0)] = 1.0
    """Entropy in nats. [assumed: not published]"""


class AEPOConfig(Section):
    """AEPO (SPEC section 3)."""

    low: Annotated[float, Field(ge=0)] = 0.14
    """Negative gradients come back below this batch entropy, in nats. [assumed: not published]"""
    high: Annotated[float, Field(ge=0)] = 0.25
    """Negative gradients are masked above this batch entropy, in nats. [assumed: not published]"""
    denominator: Literal["kept", "surviving"] = "kept"
    """Whether masked rows still count in Eq. 4's denominator; the authors' released snippet removes them."""
    variant: Literal["paper", "released"] = "paper"
    """"released" masks only while low < entropy < high and drops rows of zero advantage too, as the snippet does."""

    @model_validator(mode="after")
    def _band(self) -> AEPOConfig:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; swap them or widen the band")
        return self


class MemoryRLConfig(Section):
    """Memory-agent rollouts (SPEC section 4)."""

    chunk_tokens: Annotated[int, Field(ge=16)] = 32000
    """Document tokens shown per turn."""
    memory_tokens: Annotated[int, Field(ge=8)] = 15000
    """Output limit of one memory update."""
    answer_tokens: Annotated[int, Field(ge=8)] = 12000
    """Output limit of the final answer. [assumed]"""
    max_document_tokens: Annotated[int, Field(ge=16)] = 128000
    """Longer documents are refused."""


class StageConfig(Section):
    """One RL stage, everything resolved (SPEC section 3)."""

    max_input_tokens: Annotated[int, Field(ge=16)] = 20000
    """Prompt limit; samples above it are left out."""
    max_output_tokens: Annotated[int, Field(ge=4)] = 12000
    """Response limit."""
    steps: Annotated[int, Field(ge=1)] = 100
    """Optimizer steps. [assumed: not published per stage]"""
    batch_prompts: Annotated[int, Field(ge=1)] = 128
    """Prompts per batch. [assumed: the paper's 128 counts prompts, not rollouts]"""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts per prompt (G)."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-6
    """Constant learning rate."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm above which the gradient is scaled down. [assumed]"""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Sampling temperature of rollouts."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling of rollouts."""
    balanced: bool = True
    """Task-balanced batches."""
    advantage: Literal["grpo", "batch_std", "task_std"] = "task_std"
    """Advantage estimator (Eqs. 3, 7)."""
    clipping: ClippingConfig | None = None
    """Negative gradient clipping at a fixed threshold; ablations only."""
    aepo: AEPOConfig | None = AEPOConfig()
    """Adaptive entropy-controlled policy optimisation; none: off."""
    memory: MemoryRLConfig | None = None
    """Memory-agent rollouts instead of full-context ones."""
    shuffle_rewards: bool = False
    """Control experiment: rewards are permuted among the rollouts of a batch, so that nothing can be learnt."""
    save_every: Annotated[int, Field(ge=1)] = 5
    """Steps between checkpoints; a killed stage resumes at the last one."""
    log_rollout_groups: Annotated[int, Field(ge=0)] = 4
    """Prompts a step whose rollouts are kept with tokens and text, for people and for ROUGE-L; tasks take turns, and
    prompts with right and wrong rollouts come first. Of all others a digest of the tokens is kept."""

    @model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        if self.clipping is not None and self.aepo is not None:
            raise ValueError("clipping and aepo exclude each other; set one of them to null")
        return self


class StageOverrides(Section):
    """What a stage sets differently from `training`. Keys that are left out are taken from there."""

    max_input_tokens: int | None = None
    """See training."""
    max_output_tokens: int | None = None
    """See training."""
    steps: int | None = None
    """See training."""
    batch_prompts: int | None = None
    """See training."""
    group_size: int | None = None
    """See training."""
    learning_rate: float | None = None
    """See training."""
    max_grad_norm: float | None = None
    """See training."""
    temperature: float | None = None
    """See training."""
    top_p: float | None = None
    """See training."""
    balanced: bool | None = None
    """See training."""
    advantage: Literal["grpo", "batch_std", "task_std"] | None = None
    """See training."""
    clipping: ClippingConfig | None = None
    """See training."""
    aepo: AEPOConfig | None = None
    """See training; null turns AEPO off for this stage."""
    memory: MemoryRLConfig | None = None
    """See training."""
    shuffle_rewards: bool | None = None
    """See training."""
    save_every: int | None = None
    """See training."""
    log_rollout_groups: int | None = None
    """See training."""


class AblationRow(Section):
    """One row of Table 2, 4 or 5: a run from the base model with one thing changed."""

    name: Annotated[str, AfterValidator(plain_name)]
    """Row of the published table (claims.yaml)."""
    tables: tuple[Literal["table2", "table4", "table5", "extra"], ...]
    """Tables in which the row stands; "extra": a row of ours."""
    stage: StageOverrides = StageOverrides()
    """What differs from `ablations.stage` and `training`."""


class AblationsConfig(Section):
    """The ablation branch: each row trained alone from the base model."""

    rows: tuple[str | AblationRow, ...] = ()
    """Files under configs/ablations, or rows in place."""
    stage: StageOverrides = StageOverrides()
    """Lengths and steps of all rows. [assumed: not published]"""
    in_report: bool = True
    """Whether the audit waits for all rows; false: `snakemake ablations` trains them when asked."""


class EngineConfig(Section):
    """What verl, Ray and the rollout run on."""

    platform: Literal["cpu", "cuda"] = "cpu"
    """cpu: FSDP2 over gloo and a Hugging Face rollout; cuda: FSDP2 over NCCL and vLLM."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines per training run."""
    gpus_per_node: Annotated[int, Field(ge=1)] = 1
    """Workers per machine; on cpu, processes."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """vLLM tensor parallelism."""
    sequence_parallel: Annotated[int, Field(ge=1)] = 1
    """Ulysses sequence parallelism in training."""
    micro_batch_tokens: Annotated[int, Field(ge=64)] = 16384
    """Padded tokens per micro-batch, training and log-probabilities."""
    object_store_mb: Annotated[int, Field(ge=80)] = 256
    """Cap of Ray's object store, in MB."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.6
    """vLLM's share of GPU memory."""
    enforce_eager: bool = False
    """vLLM without CUDA graphs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of computation; weights handed between stages are float32."""
