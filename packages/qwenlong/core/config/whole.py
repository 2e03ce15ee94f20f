"""The whole configuration, and how a stage is put together from it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from qwenlong.core.config.data import CorpusConfig, RunConfig, SelectionConfig, SynthesisConfig, TrackingConfig
from qwenlong.core.config.fit import engine_faults, stage_faults
from qwenlong.core.config.merging import MERGED_MODELS, MergeConfig, MergeRow
from qwenlong.core.config.models import (
    AgentConfig,
    BaseConfig,
    EvaluationConfig,
    LLMConfig,
    NanoTrainingConfig,
)
from qwenlong.core.config.section import Section, plain_name
from qwenlong.core.config.services import ServiceConfig, completed, endpoints, service_fault
from qwenlong.core.config.training import (
    AblationRow,
    AblationsConfig,
    EngineConfig,
    MemoryRLConfig,
    StageConfig,
    StageOverrides,
)

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
    grow: Annotated[float, Field(ge=1)] = 1.5
    """Factor of memory and wall time from one try to the next: a job that was killed for want of either gets more."""
    retries: Annotated[int, Field(ge=0)] | None = None
    """Tries after the first; none: as the profile says, and none without a profile."""
    most_memory_mb: Annotated[int, Field(ge=100)] | None = None
    """Memory beyond which tries do not grow: the largest machine's. none: no bound."""
    most_runtime_minutes: Annotated[int, Field(ge=1)] | None = None
    """Wall time beyond which tries do not grow: the partition's limit. none: no bound."""

    @model_validator(mode="after")
    def _bounds_hold_the_first_try(self) -> ResourceConfig:
        for key in ("memory_mb", "runtime_minutes"):
            first, most = getattr(self, key), getattr(self, f"most_{key}")
            if most is not None and most < first:
                raise ValueError(f"most_{key} = {most} is less than {key} = {first}; raise it, or leave it out")
        return self

    def memory_of(self, attempt: int) -> int:
        """Return the memory in MB of a try, counted from 1."""
        return _grown(self.memory_mb, self.grow, attempt, self.most_memory_mb)

    def minutes_of(self, attempt: int) -> int:
        """Return the wall time in minutes of a try, counted from 1."""
        return _grown(self.runtime_minutes, self.grow, attempt, self.most_runtime_minutes)


def _grown(value: int, factor: float, attempt: int, most: int | None) -> int:
    wanted = math.ceil(value * factor ** (attempt - 1))
    return wanted if most is None else min(wanted, most)


class ResourcesConfig(Section):
    """Resources by kind of work."""

    light: ResourceConfig = ResourceConfig()
    """Corpus, synthesis, bins, scoring, audit; evaluation of served models."""
    ask: ResourceConfig | None = None
    """Agents, triples, SQL: jobs that wait for the generator's replies. none: as light."""
    generate: ResourceConfig = ResourceConfig()
    """Evaluation, and selection where it has no entry of its own."""
    select: ResourceConfig | None = None
    """Verification, difficulty, selection by the model: what RL waits for. none: as generate. With selection.server the
    job asks and needs no GPU."""
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
    nano: NanoTrainingConfig = NanoTrainingConfig()
    """Training of the policy of base.kind nano; no rule of the workflow reads it."""
    training: StageConfig = StageConfig()
    """Defaults of all RL stages."""
    stages: dict[StageName, StageOverrides] = Field(default_factory=dict)
    """What each stage sets differently."""
    engine: EngineConfig = EngineConfig()
    """verl, Ray, rollout."""
    llm: LLMConfig = LLMConfig()
    """Endpoints."""
    services: dict[Annotated[str, AfterValidator(plain_name)], ServiceConfig] = Field(default_factory=dict)
    """Models that the run serves itself, by name; an endpoint asks one with base_url: service:NAME."""
    merge: MergeConfig = MergeConfig()
    """SCE, or another merge."""
    agent: AgentConfig = AgentConfig()
    """Memory agent at evaluation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Benchmarks."""
    ablations: AblationsConfig = AblationsConfig()
    """Tables 2, 4, 5, and other merges for Table 10."""
    resources: ResourcesConfig = ResourcesConfig()
    """Scheduler."""

    def parents(self) -> dict[str, tuple[str, ...]]:
        """Return what each model of the recipe, and each other merge, is made from."""
        made: dict[str, tuple[str, ...]] = {model: (parent,) for model, parent in PARENTS.items()}
        return made | dict.fromkeys(["sce_merge", *(row.name for row in self.ablations.merges)], MERGED_MODELS)

    @property
    def scale(self) -> str:
        """What the run is a seed of, beside others in a bundle."""
        return self.run.scale or self.base.kind

    @model_validator(mode="before")
    @classmethod
    def _service_addresses(cls, values: Any) -> Any:
        # An address that names its folder can be followed by processes that do not know this configuration.
        run = values.get("run") if isinstance(values, dict) else None
        results = run.get("results") if isinstance(run, dict) else getattr(run, "results", None)
        return completed(values, str(results or RunConfig().results)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _services_exist(self) -> Config:
        faults = [fault for key, one in endpoints(self) if (fault := service_fault(key, one, self.services))]
        for key in ("evaluation", "selection"):
            server = getattr(self, key).server
            if server is not None and server not in self.services:
                known = ", ".join(sorted(self.services)) or "none"
                faults.append(f"{key}.server = {server!r} is no service; services has {known}")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @model_validator(mode="after")
    def _stages_resolve(self) -> Config:
        resolved = {f"stages.{name}": self.stage(name) for name in RL_STAGES}
        for row in self.ablations.rows:
            if isinstance(row, AblationRow):
                resolved[f"ablations.{row.name}"] = self.ablation(row.name)
        faults = engine_faults(self.engine)
        for name, stage in resolved.items():
            faults += stage_faults(self.engine, stage, name)
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @model_validator(mode="after")
    def _merges_have_names_of_their_own(self) -> Config:
        taken = {*MODELS, *(row.name for row in self.ablations.rows if isinstance(row, AblationRow))}
        for row in self.ablations.merges:
            if row.name in taken:
                raise ValueError(
                    f"ablations.merges: {row.name!r} is the name of a model or another row; take another one"
                )
            taken.add(row.name)
        return self

    @model_validator(mode="after")
    def _generation_has_endpoints(self) -> Config:
        mase, extract, nl2sql = self.synthesis.mase, self.synthesis.extract, self.synthesis.nl2sql
        for name, enabled, own in (
            ("mase", mase.enabled, mase.proposer),
            ("extract", extract.enabled, extract.endpoint),
            ("nl2sql", nl2sql.enabled, nl2sql.endpoint),
        ):
            if enabled and own is None and self.llm.generator is None:
                key = "proposer" if name == "mase" else "endpoint"
                raise ValueError(
                    f"synthesis.{name}.enabled = true, but neither synthesis.{name}.{key} nor llm.generator is set; "
                    "name an endpoint {base_url, model}, or set it to false"
                )
        return self

    def for_data(self) -> Config:
        """Return the configuration with `run.data_seed` as its seed: that of all before the first RL stage's data."""
        return self.model_copy(update={"run": self.run.model_copy(update={"seed": self.run.seed_of_data})})

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

    def merge_row(self, name: str) -> MergeRow:
        """Return a row of `ablations.merges`. Raises ValueError for an unknown one."""
        for row in self.ablations.merges:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.ablations.merges)
        raise ValueError(f"no merge {name!r}; ablations.merges has {names or 'none'}")


# What the recipe itself fixes for a stage, unless the configuration says otherwise.
_STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "memory_rl": {"aepo": None, "balanced": False, "advantage": "grpo", "memory": MemoryRLConfig().model_dump()},
    "naive_grpo": {"aepo": None, "balanced": False, "advantage": "grpo"},
}


_MERGED = {"aepo", "divergence"}


def _overlay(base: StageConfig, fixed: dict[str, Any], *layers: StageOverrides | None) -> StageConfig:
    values = base.model_dump() | fixed
    for layer in layers:
        if layer is not None:
            # Only keys that were written: null is a value ("off"), absence is not. So too within the sections of which
            # a stage may change one key.
            given = layer.model_dump(include=layer.model_fields_set)
            for key in _MERGED & given.keys():
                section = getattr(layer, key)
                if section is not None and values[key] is not None:
                    given[key] = values[key] | section.model_dump(exclude_unset=True)
            values |= given
    return StageConfig.model_validate(values)
