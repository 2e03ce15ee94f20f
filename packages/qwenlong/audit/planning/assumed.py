"""The assumptions of the plan, read from assumptions.yaml and files of its form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qwenlong.audit.planning.arithmetic import Range, Speed
from qwenlong.core.errors import ConfigError

FILE = Path(__file__).with_name("assumptions.yaml")


def _range(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Range(float(value), float(value), float(value))
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value):
        return Range(*map(float, value))
    if isinstance(value, Range):
        return value
    raise ValueError(f"{value!r} is neither a number nor [low, typical, high]")


Amount = Annotated[Range, BeforeValidator(_range)]
Positive = Annotated[float, Field(gt=0)]
Table = dict[Positive, Amount]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Card(_Data):
    """The processor that rates are of."""

    name: str
    memory_gb: Positive
    flops: Positive
    bytes_per_second: Positive
    source: str


class Efficiency(_Data):
    """Shares of a card's peak."""

    prefill: Amount
    decode: Amount
    train: Amount


class Model(_Data):
    """Rates of one model on one processor."""

    match: str
    parameters: Positive
    active: Positive
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    weight_bytes: Positive
    replica_gpus: Annotated[int, Field(ge=1)]
    core: bool = False
    """Whether the processor is a CPU core."""
    efficiency: Efficiency | None = None
    prefill: Annotated[Table, Field(min_length=1)]
    decode: Annotated[Table, Field(min_length=1)]
    train: Table = {}
    source: str

    @property
    def speed(self) -> Speed:
        """Return the rates in order of lengths."""
        return Speed(*(tuple(sorted(table.items())) for table in (self.prefill, self.decode, self.train)))


class Kinds(_Data):
    """A quantity on GPUs and on CPU cores."""

    gpu: Amount
    core: Amount


class Scaling(_Data):
    """What more processors give."""

    reference: Annotated[int, Field(ge=1)]
    per_doubling: Amount
    source: str


class Lengths(_Data):
    """Lengths in tokens, and shares of limits."""

    response_share: Amount
    memory_share: Amount
    answer_share: Amount
    question: Amount
    characters_per_token: Amount
    source: str


class Data(_Data):
    """The corpus, and shares of samples kept."""

    documents: Positive
    tokens: Positive
    tokens_source: str
    packages_documents: Positive
    packages_tokens: Positive
    kept_by_filters: Amount
    made: Amount
    verified: Amount
    binned: Amount
    source: str


class Calls(_Data):
    """Requests to generator and judges."""

    tries: Amount
    generated: Amount
    judged_rollouts: Amount
    judged_responses: Amount
    judge_prompt: Amount
    judge_response: Amount
    source: str


class Overheads(_Data):
    """Seconds; `stream` in tokens a second, `tail` a share."""

    train_start: Kinds
    generate_start: Kinds
    stream: Kinds
    tail: Amount
    step: Kinds
    light: Amount
    per_billion_parameters: Amount
    per_sample: Amount
    per_gib: Amount
    base: Amount
    source: str


class Disk(_Data):
    """Bytes."""

    parameter_model: Positive
    parameter_policy: Positive
    parameter_checkpoint: Positive
    checkpoints: Positive
    text_token: Amount
    response_token: Amount
    source: str


class BenchmarkSize(_Data):
    """What a benchmark asks."""

    items: Positive
    samples: Annotated[int, Field(ge=1)] = 1
    prompt: Positive
    response: Amount | None = None
    judged: Literal["no", "failed", "every"] = "no"


class Asked(_Data):
    """Cells of a table: models of the recipe and rows of the ablations, on benchmarks."""

    models: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    benchmarks: tuple[str, ...]


class Assumptions(_Data):
    """All of a file."""

    card: Card
    models: tuple[Model, ...]
    scaling: Scaling
    lengths: Lengths
    data: Data
    calls: Calls
    overheads: Overheads
    disk: Disk
    benchmarks: Mapping[str, BenchmarkSize]
    benchmarks_source: str
    tables: Mapping[str, tuple[Asked, ...]]
    ablation_tables: tuple[str, ...]
    agent_benchmarks: tuple[str, ...]

    def model(self, name: str, key: str) -> Model:
        """Return the first entry that a model's name holds. Raises ConfigError naming `key`, where the name stands."""
        for entry in self.models:
            if entry.match.casefold() in name.casefold():
                return entry
        known = ", ".join(entry.match for entry in self.models)
        raise ConfigError(
            f"{key} = {name!r}: there are no rates for it, only for {known}; give a file with an entry of `models` "
            f"whose `match` stands in the name, --assumptions FILE (the form of {FILE.name})"
        )


def read(more: Path | None = None) -> Assumptions:
    """Read the assumptions that come along, with those of `more` before or instead.

    `models` of `more` are looked at first; in sections its keys replace. Raises ConfigError naming file, key and value.
    """
    values = _values(FILE)
    if more is not None:
        values = _overlay(values, _values(more))
    try:
        return Assumptions.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{more or FILE}: {'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise ConfigError("\n".join(lines) + f"\nthe form is that of {FILE.name}") from error


def _values(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); name a file of assumptions") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {str(error).splitlines()[0]}; mend that place") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds {type(values).__name__}, not a table of sections; its form is {FILE.name}'s")
    return values


def _overlay(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in more.items():
        old = merged.get(key)
        if key == "models" and isinstance(value, list) and isinstance(old, list):
            merged[key] = [*value, *old]
        elif isinstance(value, dict) and isinstance(old, dict) and not {"gpu", "core"} & old.keys():
            merged[key] = _overlay(old, value)
        else:
            merged[key] = value
    return merged
