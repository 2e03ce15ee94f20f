"""A plan: runs of the workflow in the order in which they are wanted, each a configuration, a seed and targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from qwenlong.audit.bundles import layout
from qwenlong.core import config_files
from qwenlong.core.config import Config
from qwenlong.core.config.section import Section, plain_name
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import digest_value, read_json, write_json

#: Folder of marks and records of this package, below the state of a results folder.
FOLDER = layout.RECORDS
#: Folders that runs of one data seed share; in the order in which they are made.
SHARED = ("corpus", "tokenizer", "synthesis", "models/base", "verification", "difficulty", "bins")


class PlannedRun(Section):
    """Runs of one configuration to the same targets."""

    name: Annotated[str, AfterValidator(plain_name)]
    """Name of the experiment."""
    config: str
    """Configuration file."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (17,)
    """Values of run.seed, each with a results folder of its own: <run.results>/seed_<seed>."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    """Targets of the workflow; {results} is the results folder."""


class PlanFile(Section):
    """A list of experiments, the most wanted first."""

    runs: Annotated[tuple[PlannedRun, ...], Field(min_length=1)]
    """Experiments in order."""


@dataclass(frozen=True)
class Run:
    """One run of the workflow. Paths are relative to the working directory, as the workflow names them."""

    name: str
    file: str
    seed: int
    results: Path
    targets: tuple[str, ...]
    config: Config

    @property
    def overrides(self) -> str:
        """What `snakemake --config` is given."""
        return f"run={{seed: {self.seed}, results: {self.results}}}"

    @property
    def data(self) -> Path:
        """Results folder whose data the run shares; its own where its seed is that of the data."""
        return self.results.parent / f"seed_{self.config.run.seed_of_data}"

    @property
    def mark(self) -> Path:
        """File that says that the run is complete."""
        return self.results / FOLDER / f"{self.name}.json"

    @property
    def digest(self) -> str:
        """Digest of what the run is asked for."""
        values = self.config.model_dump(mode="json", exclude={"resources": True, "tracking": True, "run": {"scale"}})
        if values["run"]["weights_dtype"] == "float32":
            del values["run"]["weights_dtype"]  # runs that were completed before it could be chosen stay complete
        return digest_value([values, self.seed, self.targets])

    def complete(self) -> bool:
        """Tell whether this very run was completed, here or on a machine whose records came back."""
        try:
            return bool(read_json(self.mark)["digest"] == self.digest)
        except (DataError, OSError, KeyError, TypeError):
            return False

    def finish(self, **values: Any) -> None:
        """Mark the run as complete."""
        write_json(self.mark, {"digest": self.digest, "seed": self.seed, "targets": self.targets} | values)


def load(path: str | Path) -> list[Run]:
    """Return the runs of a plan, seed after seed of each experiment. Raises ConfigError naming what cannot be used."""
    file = Path(path)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    plan = config_files.validate(PlanFile, values, file)
    runs: list[Run] = []
    for planned in plan.runs:
        config = config_files.load(Path(planned.config))
        for seed in planned.seeds:
            results = Path(config.run.results) / f"seed_{seed}"
            run = config.run.model_copy(update={"seed": seed, "results": str(results)})
            targets = tuple(target.replace("{results}", str(results)) for target in planned.targets)
            name = f"{planned.name}-{seed}"
            if any(one.name == name and one.results == results for one in runs):
                raise ConfigError(f"{file}: {planned.name} with seed {seed} stands there twice; give it another name")
            runs.append(Run(name, planned.config, seed, results, targets, config.model_copy(update={"run": run})))
    return runs
