"""The tiny configuration as a user runs it on a cluster: a clone, `--profile cluster`, two machines a stage."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from jobs import strangers

from qwenlong.core.config import MODELS, RL_STAGES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
PARTS = ("packages", "workflow", "configs", "cluster", "models", "data/sources.csv", "Snakefile")
#: What a site sets for itself; here, no accounts and no accounting, and jobs that last seconds.
SITE = ("--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", 3)
SITE += ("--latency-wait", 20, "--jobs", 2)


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: Path
    results: Path
    said: str


@pytest.fixture(scope="module")
def finished(slurm, root, snakemake, tmp_path_factory) -> Finished:
    clone = tmp_path_factory.mktemp("clone")
    for name in PARTS:
        source, target = root / name, clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    machines = "resources={train: {nodes: 2, cpus: 2, memory_mb: 6000, runtime_minutes: 40}}"
    sources = f"corpus={{registry: {root}/data/sources.csv, cache: {root}/data/cache}}"
    words = ("--profile", "cluster", "--configfile", "configs/tiny.yaml", *SITE)
    words += ("--config", "engine={nodes: 2}", machines, sources)
    done = snakemake(*words, cwd=clone, env={"PYTHONPATH": f"{clone}/packages"})
    again = snakemake(*words, cwd=clone, env={"PYTHONPATH": f"{clone}/packages"})
    assert "Nothing to be done" in again.stdout + again.stderr
    return Finished(clone, clone / "results/tiny", done.stdout + done.stderr)


def test_every_model_and_the_report_are_there(finished):
    for model in MODELS:
        assert list((finished.results / "models" / model).glob("*.safetensors")), model
    tables = json.loads((finished.results / "audit/tables.json").read_text())
    assert [row["model"] for row in tables["table10"]["rows"]] == list(MODELS)


def test_rules_ran_as_slurm_jobs_and_stages_over_two_machines(finished):
    jobs = set(re.findall(r"submitted with SLURM jobid (\d+)", finished.said))
    assert len(jobs) >= 30
    for stage in RL_STAGES:
        log = (finished.results / f"logs/{stage}.log").read_text(errors="replace")
        assert re.search(r"^Ray at \S+ on node\d, node\d \(Slurm job \d+\)$", log, re.MULTILINE), stage
        names = {file.name for file in (finished.results / f"stages/{stage}/policy/actor").glob("model_*.pt")}
        assert names == {f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)}, stage


def test_no_machine_is_left_with_work(slurm, finished):
    assert [strangers(node) for node in slurm.nodes] == [[], []]
    assert list(finished.results.rglob("*.partial")) == []
