"""Sections about reinforcement learning: one stage, what overrides it, ablations, engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qwenlong.core.config.merging import MergeRow
from qwenlong.core.config.objectives import DivergenceConfig, GroupTokenLoss, Loss, Truncated
from qwenlong.core.config.parallel import MemoryConfig, RolloutConfig
from qwenlong.core.config.ray import RayConfig
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
    loss: Loss = GroupTokenLoss()
    """Eq. 4's loss, or for comparison one of verl's own: a name (dapo, gspo, clip_cov) or {kind: ..., parameters}."""
    clipping: ClippingConfig | None = None
    """Negative gradient clipping at a fixed threshold; ablations only."""
    aepo: AEPOConfig | None = AEPOConfig()
    """Adaptive entropy-controlled policy optimisation; none: off."""
    memory: MemoryRLConfig | None = None
    """Memory-agent rollouts instead of full-context ones."""
    truncated: Truncated = "keep"
    """Trajectories with a response cut off at its limit: keep the rule's reward, give 0, or drop them as after a judge
    outage. [assumed: keep]"""
    divergence: DivergenceConfig | None = DivergenceConfig()
    """When to stop by itself; none: never."""
    shuffle_rewards: bool = False
    """Control experiment: rewards are permuted among the rollouts of a batch, so that nothing can be learnt."""
    save_every: Annotated[int, Field(ge=1)] = 5
    """Steps between checkpoints; a killed stage resumes at the last one."""
    log_rollout_groups: Annotated[int, Field(ge=0)] = 4
    """Prompts a step whose rollouts are kept with tokens and text, for people and for ROUGE-L; tasks take turns, and
    prompts with right and wrong rollouts come first. Of all others a digest of the tokens is kept."""

    @property
    def row_limits(self) -> tuple[int, int]:
        """Longest prompt and response of a row, in tokens; a turn of the memory agent is a row."""
        # A turn shows problem, memory with plan, and one chunk; the template and its tags come on top.
        memory = self.memory
        response = self.max_output_tokens if memory is None else max(memory.memory_tokens, memory.answer_tokens)
        return self.max_input_tokens, response

    @model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        if self.clipping is not None and self.aepo is not None:
            raise ValueError("clipping and aepo exclude each other; set one of them to null")
        if self.loss.kind != "group_token" and self.aepo is not None and self.aepo.denominator == "surviving":
            raise ValueError(
                f"aepo.denominator = surviving belongs to loss group_token; with loss {self.loss.kind} set it to kept"
            )
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
    loss: Loss | None = None
    """See training."""
    clipping: ClippingConfig | None = None
    """See training."""
    aepo: AEPOConfig | None = None
    """See training; null turns AEPO off for this stage, keys that are left out are training's."""
    memory: MemoryRLConfig | None = None
    """See training."""
    truncated: Truncated | None = None
    """See training."""
    divergence: DivergenceConfig | None = None
    """See training; null turns early stopping off for this stage, keys that are left out are training's."""
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
    """The ablation branch: each row trained alone from the base model, and merges under other settings."""

    rows: tuple[str | AblationRow, ...] = ()
    """Files under configs/ablations, or rows in place."""
    stage: StageOverrides = StageOverrides()
    """Lengths and steps of all rows. [assumed: not published]"""
    merges: tuple[MergeRow, ...] = ()
    """Other merges of the models that the recipe merges, evaluated beside its own; nothing is trained for them."""
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
    """Ulysses sequence parallelism in training: GPUs that share one row. Needs packed, or flash_attention_2."""
    packed: bool | None = None
    """Rows of a group behind one copy of their prompt, logits in chunks (docs/training.md). It excludes other heads;
    false: verl's own engine; none: packed unless sequence_parallel or another head is set. Always so on cpu."""
    attention: Literal["auto", "flash_attention_2", "sdpa"] = "auto"
    """Attention in verl's own engine; auto: flash_attention_2 where the package is installed, else sdpa."""
    experts: Literal["grouped_mm", "batched_mm", "eager"] | None = None
    """How transformers computes a mixture of experts; none: its own choice. verl's FSDP2 shards experts like any other
    parameter, trains the router, adds no load-balancing loss, and has no replay of the rollout's routes."""
    micro_batch_tokens: Annotated[int, Field(ge=64)] = 16384
    """Tokens per GPU and micro-batch, training and log-probabilities; a row of sequence_parallel times as many fits.
    On cpu a whole row is taken even if it is longer."""
    object_store_mb: Annotated[int, Field(ge=80)] = 256
    """Cap of Ray's object store, in MB."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.6
    """vLLM's share of GPU memory."""
    release_rollout_memory: bool = True
    """vLLM gives its memory back while the policy is trained. False saves the time where both fit at once."""
    enforce_eager: bool = False
    """vLLM without CUDA graphs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of computation; weights handed between stages are float32."""
    collective_timeout_minutes: Annotated[int, Field(ge=1)] = 10
    """How long a rank waits for the others in one collective before the run fails; torch's value. Raise it with the
    model: rank 0 alone reads the weights from disk while the rest wait, and steps on long rows differ."""
    start_timeout_minutes: Annotated[int, Field(ge=1)] = 5
    """How long verl waits for its workers to come up on all nodes."""
    memory: MemoryConfig = MemoryConfig()
    """Memory of training."""
    rollout: RolloutConfig = RolloutConfig()
    """vLLM."""
    ray: RayConfig = RayConfig()
    """Ray over several machines, network settings."""

    @model_validator(mode="after")
    def _rows(self) -> EngineConfig:
        if self.platform == "cuda" and self.packed and self.memory.head != "logits":
            raise ValueError(
                f"packed rows have a chunked head of their own (memory.head = {self.memory.head}); "
                "leave packed or memory.head out"
            )
        return self

    @property
    def packs(self) -> bool:
        """Whether rows are packed."""
        if self.platform == "cpu":
            return True
        if self.packed is None:
            return self.sequence_parallel == 1 and self.memory.head == "logits"
        return self.packed
