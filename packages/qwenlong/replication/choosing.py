"""What of a results folder travels, the most needed first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwenlong.core.config import MODELS, Config
from qwenlong.replication.plan import FOLDER

#: Patterns below a results folder, in three tiers: results, what later stages read, what explains. The corpus stays:
#: what samples use of it lies beside them.
TIERS: tuple[tuple[str, ...], ...] = (
    (
        f"{FOLDER}/**/*",
        "state/configs/*.yaml",
        "evaluation/*/*/*.json*",
        "ablations/*/evaluation/*/*.json*",
        "stages/*/policy/*.json*",
        "stages/*/policy/.snakemake_timestamp",
        "stages/*/score/*.json",
        "ablations/*/policy/*.json*",
        "ablations/*/policy/.snakemake_timestamp",
        # Of what did not end: curves, and how far it got.
        "state/stages/*/*/metrics.jsonl",
        "models/*/*.json",
        "models/*/*.jinja",
        "models/*/.snakemake_timestamp",
        "ablations/*/model/*.json",
        "ablations/*/model/*.jinja",
        "ablations/*/model/.snakemake_timestamp",
        "corpus/*.json",
        "synthesis/*.json",
        "verification/*.json",
        "difficulty/*.json",
        "bins/*.json",
        "tables/**/*",
        "audit/**/*",
    ),
    (
        "tokenizer/*",
        "tokenizer/.snakemake_timestamp",
        "synthesis/*.parquet",
        "verification/*.parquet",
        "difficulty/*.parquet",
        "bins/*.parquet",
        "stages/*/score/*.parquet",
    ),
    (
        "stages/*/policy/*.parquet",
        "ablations/*/policy/*.parquet",
        "benchmarks/**/*.tsv",
        "logs/**/*.log",
        "mlflow.db",
        "data_card/*",
    ),
)


@dataclass(frozen=True)
class Weights:
    """A file of weights and the model that it is packed against, if any."""

    file: Path
    reference: Path | None
    needed: bool
    """Whether something that is still to be made reads it."""


def records(results: Path, tier: int) -> Iterator[Path]:
    """Yield the files of a tier, sorted; each once."""
    found: set[Path] = set()
    for pattern in TIERS[tier]:
        found |= {file for file in results.glob(pattern) if file.is_file() and not _temporary(file)}
    for earlier in range(tier):
        for pattern in TIERS[earlier]:
            found -= set(results.glob(pattern))
    yield from sorted(found)


def _temporary(file: Path) -> bool:
    return file.name.endswith((".lock", "-wal", "-shm")) or file.name == ".lock" or ".partial" in file.name


def unusable(results: Path, config: Config, travels: Callable[[Path], bool]) -> list[Path]:
    """Return the folders with which nothing can go on elsewhere: models that something reads and whose weights do not
    travel, with their policies, and policies that are not converted yet (their shards do not travel).

    A folder that is there counts as made: such a one is kept apart where work goes on.
    """
    found = set()
    for model in [*results.glob("models/*/"), *results.glob("ablations/*/model/")]:
        file = model / "model.safetensors"
        if not travels(file) and _needed(results, config, file):
            found |= {model, policy(model)}
    for trained in [*results.glob("stages/*/policy/"), *results.glob("ablations/*/policy/")]:
        name = trained.parent.name
        model = results / "models" / name if trained.parts[-3] == "stages" else trained.parent / "model"
        if not model.is_dir():
            found.add(trained)
    return sorted(found)


def policy(model: Path) -> Path:
    """Return the folder of the policy that a model was converted from."""
    if model.name == "model":
        return model.parent / "policy"
    return model.parent.parent / "stages" / model.name / "policy"


def weights(results: Path, config: Config, data: Path | None = None) -> list[Weights]:
    """Return the weights of a results folder, those that something still reads first, then the newest.

    `data`: results folder whose base model this one has a copy of; none: `results`.
    """
    shipped = Path(config.base.path or "models/nano") / "model.safetensors"
    base = (data or results) / "models" / "base" / "model.safetensors"
    found = []
    for file in [*results.glob("models/*/model.safetensors"), *results.glob("ablations/*/model/model.safetensors")]:
        if config.base.kind == "nano":
            reference: Path | None = shipped
        else:
            reference = base if base.is_file() and file != base else None
        found.append(Weights(file, reference, _needed(results, config, file)))
    return sorted(found, key=lambda one: (not one.needed, -one.file.stat().st_mtime, str(one.file)))


def _needed(results: Path, config: Config, file: Path) -> bool:
    folder = file.parent
    if folder.name == "model":
        wanted = [folder.parent / "evaluation" / benchmark for benchmark in config.evaluation.benchmarks]
    else:
        name = folder.name
        children = {child for child, parents in config.parents().items() if name in parents}
        children |= {"sce_merge"} if name == config.merge.base else set()
        if any(not (results / "models" / child).is_dir() for child in children & set(MODELS)):
            return True
        wanted = [results / "evaluation" / name / benchmark for benchmark in config.evaluation.benchmarks]
        if name != "naive_grpo":
            wanted += [results / "evaluation" / name / benchmark for benchmark in config.evaluation.agent_benchmarks]
        if name == "base" and any(
            not (results / "ablations" / str(getattr(row, "name", row)) / "model").is_dir()
            for row in config.ablations.rows
        ):
            return True
    return any(not (folder / "predictions.jsonl").is_file() for folder in wanted)
