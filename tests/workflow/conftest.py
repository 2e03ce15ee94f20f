"""A look into Snakemake's plan, by its own API."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """A node of the DAG."""

    name: str
    """The rule, with what its wildcards say: "evaluate_full rl_1 heldout"."""
    rule: str
    threads: int
    resources: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    command: str
    """What the shell is given; "" for a rule that only collects."""


@dataclass
class Plan:
    """All jobs of a target, with the jobs that each one reads from."""

    run: Any
    """The validated configuration of the run."""
    jobs: dict[str, Job] = field(default_factory=dict)
    edges: dict[str, set[str]] = field(default_factory=dict)


@functools.cache
def _plan(config: str | None, targets: tuple[str, ...], cores: int) -> Plan:
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

    files = [ROOT / config] if config else []
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True)) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=cores),
            config_settings=ConfigSettings(configfiles=files),
            snakefile=ROOT / "Snakefile",
            workdir=ROOT,
        )
        # forceall: the whole DAG, whatever an earlier run left here.
        dag = workflow.dag(DAGSettings(targets=set(targets), forceall=True))
        dag.execute_workflow(executor="dryrun")
        inner = workflow._workflow
        plan = Plan(run=inner.globals["RUN"])
        made = {}
        for job in inner.dag.jobs:
            wildcards = [str(value) for _, value in sorted(job.wildcards_dict.items(), reverse=True)]
            name = " ".join([job.rule.name, *wildcards])
            resources = {key: value for key, value in job.resources.items() if not key.startswith("_")}
            # With more cores than any rule asks for, a job's threads are the rule's own.
            plan.jobs[name] = Job(
                name,
                job.rule.name,
                job.threads,
                resources,
                tuple(map(str, job.input)),
                tuple(map(str, job.output)),
                job.shellcmd or "",
            )
            made |= dict.fromkeys(map(str, job.output), name)
        for name, job in plan.jobs.items():
            plan.edges[name] = {made[file] for file in job.inputs if file in made}
    return plan


@pytest.fixture(scope="session")
def plan() -> Callable[..., Plan]:
    """Plan targets: `plan("configs/paper.yaml", "evaluate")`; without words, what bare `snakemake` would do."""

    def make(config: str | None = None, *targets: str, cores: int = 512) -> Plan:
        return _plan(config, targets, cores)

    return make


class Project:
    """A copy of code and workflow with the files of a finished run, of no content."""

    def __init__(self, folder: Path, config: str, snakemake: Callable[..., Any]) -> None:
        self.folder, self._config, self._snakemake = folder, config, snakemake
        for name in ("packages", "workflow", "configs", "cluster", "models", "data/sources.csv", "Snakefile"):
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, target, **({"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}))

    def run(self, *words: str, overrides: tuple[str, ...] = ()) -> str:
        extra = ("--config", "tracking={enabled: false}", *overrides)
        done = self._snakemake(
            *words,
            "--configfile",
            self._config,
            *extra,
            cwd=self.folder,
            env={"PYTHONPATH": f"{self.folder}/packages"},
        )
        return done.stdout + done.stderr

    def make_outputs(self, *targets: str) -> None:
        shown = self.run(*targets, "-n", "--forceall")
        files = [
            f
            for line in shown.splitlines()
            # A rule that is a target by itself wants its benchmark, too.
            if line.strip().startswith(("output: ", "benchmark: "))
            for f in line.split(": ", 1)[1].split(", ")
        ]
        assert len(files) > 40
        for name in files:
            path = self.folder / name
            # Folders are outputs without a suffix.
            (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.touch()
        self.run(*targets, "--touch", "--forceall", "--cores", "1")
        # Adopted now, with what each rule reads on record.
        assert "Nothing to be done" in self.run(*targets, "-n")

    def planned(self, *overrides: str, target: str | None = None) -> dict[str, int]:
        """Return how often each rule would run again."""
        targets = [target] if target else []
        lines = self.run(*targets, "-n", "-q", "rules", overrides=overrides).splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("job ")]
        if not starts:
            return {}
        table = (line.split() for line in lines[starts[0] + 2 :])
        counts = {}
        for words in table:
            if len(words) != 2 or words[0] == "total":
                break
            counts[words[0]] = int(words[1])
        return counts


@pytest.fixture(scope="session")
def make_project(tmp_path_factory: pytest.TempPathFactory, snakemake: Callable[..., Any]) -> Callable[..., Project]:
    """Copy the project to a folder with a space in its name, and finish a run there, with empty files."""

    def make(config: str, *targets: str) -> Project:
        project = Project(tmp_path_factory.mktemp("project with space"), config, snakemake)
        project.make_outputs(*targets)
        return project

    return make
