"""Sections about models: the base model, endpoints, the memory agent, evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from qwenlong.core.config.section import Section


class ScratchConfig(Section):
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


class NanoTrainingConfig(Section):
    """Training of the nano policy from nothing (docs/nano.md): `qwenlong train nano`. Lengths are prompt tokens."""

    vocabulary: Annotated[int, Field(ge=300, le=8192)] = 6144
    """Entries of the byte-level BPE tokenizer."""
    hidden_size: Annotated[int, Field(ge=16)] = 256
    """Width."""
    layers: Annotated[int, Field(ge=1)] = 6
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
    expert_size: Annotated[int, Field(ge=8)] = 256
    """Width of an expert."""
    rope_theta: Annotated[float, Field(gt=1)] = 10000.0
    """Rotary base."""
    tokens: Annotated[int, Field(ge=1)] = 180_000_000
    """Tokens trained on, prompts included, every pass counted."""
    first_length: Annotated[int, Field(ge=96)] = 192
    """Bound of the first rounds' prompts."""
    last_length: Annotated[int, Field(ge=96)] = 768
    """Bound to which prompts grow."""
    growth: Annotated[float, Field(gt=1)] = 1.25
    """Factor by which the bound grows when the gate opens."""
    gate: Annotated[float, Field(gt=0)] = 0.35
    """Mean loss of copying, reading, multi-hop and memory updates (nats a token) below which the bound grows."""
    gives_up: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Greatest share of questions that the examples give up though they could be answered: the longer, the more."""
    gives_up_after: Annotated[float, Field(ge=0, le=1)] = 0.72
    """Share of the tokens that are trained on before any example gives up: reading is learnt first."""
    pools: Annotated[int, Field(ge=1)] = 64
    """Pools of documents per round."""
    passes: Annotated[int, Field(ge=1)] = 3
    """Times that a round's examples are trained on."""
    batch_tokens: Annotated[int, Field(ge=1024)] = 65536
    """Padded tokens per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate (cosine over the tokens)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's weight decay of matrices."""
    prompt_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the language-model loss at every eighth prompt token, beside the loss on responses."""
    rise: Annotated[int, Field(ge=1)] = 200
    """Steps of linear learning-rate growth."""
    workers: Annotated[int, Field(ge=1)] = 15
    """Processes that make examples."""
    measure_pools: Annotated[int, Field(ge=1)] = 140
    """Pools of held-out names and values from which exercises are taken."""
    measure_per_kind: Annotated[int, Field(ge=1)] = 500
    """Exercises of each kind."""
    measure_batch_tokens: Annotated[int, Field(ge=1024)] = 400_000
    """Rows times tokens of one batch when measured."""


class WarmupConfig(Section):
    """Supervised warm-up of a pretrained base model on training samples, until it answers in the required format."""

    steps: Annotated[int, Field(ge=1)] = 400
    """Steps at most; the learning rate falls over them (cosine)."""
    batch_tokens: Annotated[int, Field(ge=64)] = 65536
    """Padded tokens per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    rise: Annotated[int, Field(ge=1)] = 10
    """Steps of linear learning-rate growth."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's weight decay of matrices."""
    prompt_weight: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the language-model loss at every eighth prompt token, beside the loss on responses."""
    memory_every: Annotated[int, Field(ge=1)] = 4
    """One sample in so many gives memory-agent turns as well."""
    measure_every: Annotated[int, Field(ge=1)] = 20
    """Steps between two measurements of accuracy, on training samples that the warm-up does not see."""
    measure_samples: Annotated[int, Field(ge=1)] = 160
    """Training samples kept for that, all tasks alike; a quarter of all at most."""
    stop_above: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Accuracy there at which the warm-up ends: enough for groups with right and wrong answers, and room to learn."""
    expected: tuple[float, float] = (0.1, 0.6)
    """Accuracy within which the base model is to lie; outside, base.json says so and a warning is printed."""
    save_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Seconds between two states from which an interrupted warm-up goes on."""


class BaseConfig(Section):
    """The base model: a setting, any causal model works in its place."""

    kind: Literal["nano", "nano-scratch", "smollm2", "hf"] = "nano"
    """nano: the trained policy that comes with a clone (models/nano); nano-scratch: made by the run; smollm2:
    SmolLM2-135M-Instruct from its package (dequantised from Q4); hf: `path`."""
    path: str | None = None
    """Hugging Face directory or id, for kind hf; for kind nano a folder of `qwenlong train nano`, none: models/nano."""
    revision: str | None = None
    """Hub revision, for kind hf."""
    window: Annotated[int, Field(ge=64)] = 1024
    """Window of the model in tokens, prompt and response."""
    scratch: ScratchConfig = ScratchConfig()
    """For kind nano-scratch."""
    warmup: WarmupConfig | None = None
    """Supervised warm-up of the model taken, for all kinds but nano-scratch, which has its own; none: as it comes."""

    @model_validator(mode="after")
    def _has_path(self) -> BaseConfig:
        if self.kind == "hf" and not self.path:
            raise ValueError("kind hf needs path: a Hugging Face directory or id")
        if self.kind == "nano-scratch" and self.warmup is not None:
            raise ValueError("kind nano-scratch is warmed up by base.scratch; leave base.warmup out")
        return self


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint."""

    base_url: str
    """Address, up to and with /v1; service:NAME for a service of this run (`services`)."""
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
    deadline_seconds: Annotated[float, Field(gt=0)] | None = None
    """All tries of one request together, with the pauses and waits for limits between them; none: no limit."""
    patience_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """In training: time for one verdict, the wait for a turn, tries and pauses together. The rollout is dropped after
    it, so that a judge that hangs holds up a step for no longer."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most requests that this process starts in any 60 seconds, tries counted; none: no limit."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most tokens, prompt and completion, in any 60 seconds; before a reply it is an estimate. none: no limit."""
    price_per_million_prompt: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million prompt tokens, in whatever currency the account has; 0 for a server of one's own."""
    price_per_million_completion: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million completion tokens, in the same currency."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest reply asked for, in tokens, where a path would ask for more; for servers with a small window or none to
    spare. none: as each path says."""
    structured_output: Literal["json_schema", "json_object", "none"] = "json_schema"
    """What the server can be held to when JSON is wanted: a schema, any object, or nothing (the prompt asks for it).
    What comes back is validated in each case."""


class LLMConfig(Section):
    """Endpoints. None of them is needed on a laptop."""

    generator: EndpointConfig | None = None
    """Writes and filters (synthesis)."""
    reward_judge: EndpointConfig | None = None
    """Decides equivalence where the reward rule fails."""
    evaluation_judge: EndpointConfig | None = None
    """Judges benchmark answers."""


#: The gains of mode fast.
FAST = {
    "skip": True,
    "early_exit": True,
    "recall_tokens": 1024,
    "recall_chunks": True,
    "parallel": 4,
    "order": "question_first",
    "repair": True,
}


class AgentConfig(Section):
    """Memory agent. Sizes are [assumed: not published]; the gains are ours (docs/memory_agent.md)."""

    chunk_tokens: Annotated[int, Field(ge=16)] = 32000
    """Document tokens per chunk."""
    memory_tokens: Annotated[int, Field(ge=8)] = 15000
    """Output limit of one memory update; memory and plan together keep to it."""
    answer_tokens: Annotated[int, Field(ge=8)] = 12000
    """Output limit of the final answer."""
    mode: Literal["paper", "fast"] = "paper"
    """paper: one call per chunk, in order, no gain on. fast: gains on (FAST), those given beside it as given."""
    skip: bool = False
    """The model may say that a chunk has nothing to add; memory and plan then stay, for a handful of tokens."""
    early_exit: bool = False
    """The model may say that it has all it needs; refused for questions that count, list or compare."""
    recall_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of earlier memory sentences shown again where they match question and plan; 0 is off."""
    recall_chunks: bool = False
    """Recall also keeps sentences of chunks that match question and plan, whatever the memory made of them."""
    parallel: Annotated[int, Field(ge=1, le=1024)] = 1
    """Groups of consecutive chunks read at the same time, their memories then merged; 1 reads in order."""
    order: Literal["question_first", "section_first"] = "question_first"
    """What comes first in an update's prompt. section_first lets many questions share the prefix of a chunk."""
    repair: bool = False
    """An unusable reply is asked for once more; if that fails too, the last good memory stays."""
    prompts: str = ""
    """Folder of templates that replace built-in ones of the same name; empty: none."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        fast = isinstance(values, dict) and values.get("mode") == "fast"
        return FAST | values if fast else values

    @model_validator(mode="after")
    def _paper_is_plain(self) -> Self:
        off = {name: type(self).model_fields[name].default for name in FAST}
        for name, value in off.items():
            if self.mode == "paper" and getattr(self, name) != value:
                raise ValueError(f"{name} = {getattr(self, name)!r} is no part of the paper's loop; set mode: fast")
        return self


#: Tables of scores in the paper.
PaperTable = Literal["table2", "table4", "table5", "table7", "table8", "table9", "table10", "table11", "table12"]


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
    samples: Annotated[int, Field(ge=1)] | None = None
    """Responses per item; none: as many as the paper asks of the benchmark (32 of AIME, 1 of most)."""
    concurrency: Annotated[int, Field(ge=1)] = 32
    """Items under way for each server; a model that the job loads is asked in blocks of so many. No response depends on
    it."""
    benchmarks: tuple[str, ...] = ("heldout",)
    """Benchmarks run full-context on every checkpoint."""
    agent_benchmarks: tuple[str, ...] = ("heldout_long",)
    """Benchmarks run through the memory agent on every checkpoint but naive_grpo."""
    mrcr_tokens: str = "auto"
    """What counts the lengths of MRCR's items, by which its subsets are made: `auto` (o200k where tiktoken and its
    ranks are stored, else characters / 4), `o200k`, `chars`, or a folder with a tokenizer.json. [assumed]"""
    mrcr_render: Literal["chat", "flat"] = "chat"
    """How MRCR's chats are shown: as their own messages, or as text in one message. [assumed]"""
    server: str | None = None
    """Service with whose settings each checkpoint is served while benchmarks ask it; none: each job loads it."""
    bfcl_environment: str = ""
    """Folder of the environment with the official harness of BFCL (scripts/bfcl_env.sh); its prompts, memories and loop
    are then used, as for the paper's numbers. Empty: the project's own. [assumed: prompted mode]"""
    tables: tuple[PaperTable, ...] = ()
    """Tables of the paper whose cells are run besides; `snakemake table_7` runs one table's, named here or not."""
    data: dict[str, str] = {}
    """Published files by benchmark, each a file or a folder; what is not named here is fetched from the hub."""

    @model_validator(mode="after")
    def _one_way_each(self) -> EvaluationConfig:
        both = sorted({*self.benchmarks} & {*self.agent_benchmarks})
        if both:
            raise ValueError(
                f"{both[0]!r} stands in benchmarks and in agent_benchmarks, whose scores would share a folder; leave "
                "it in one of them"
            )
        return self
