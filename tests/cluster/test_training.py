"""A stage over two machines: unbroken, and broken by every fault in turn and run again by the same command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import slurm as testbed
import torch
from jobs import Job

from qwenlong.core.files import read_json
from qwenlong.training import rollout_log

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from mlflow_server import Server

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 4
LIMIT = 900


class Stage:
    """The same stage in a folder of its own."""

    def __init__(self, world, name: str, tracking: str = "{}") -> None:
        self.root = world.root / name
        self.root.mkdir()
        self.out = self.root / "policy"
        self._world = world
        text = world.config.read_text().replace(str(world.results), str(self.root / "results"))
        ray = {"start_timeout_seconds": 240, "temp_dir": str(testbed.STATE / "scratch")}
        self.config = self.root / "config.yaml"
        self.config.write_text(f"{text}engine: {{nodes: 2, object_store_mb: 128, ray: {ray}}}\ntracking: {tracking}\n")

    def start(self) -> Job:
        qwenlong = [sys.executable, "-m", "qwenlong"]
        inputs = {name: getattr(self._world, name) for name in ("samples", "documents", "model")}
        words = [*qwenlong, "ray", "run", "--config", self.config, "--", *qwenlong, "train", "stage", "rl_1"]
        words += ["--config", self.config, "--out", self.out]
        words += [word for name, path in inputs.items() for word in (f"--{name}", path)]
        return Job(self.root, shlex.join(map(str, words)))

    def saved(self, step: int) -> bool:
        return bool(list(self.root.glob(f"results/state/stages/rl_1/*/global_step_{step}/complete.json")))

    def weights(self) -> dict[str, torch.Tensor]:
        found = {}
        for file in sorted(self.out.glob("actor/model_*.pt")):
            for name, value in torch.load(file, weights_only=False).items():
                found[f"{file.name}:{name}"] = value.to_local() if hasattr(value, "to_local") else value
        return found

    def metrics(self) -> list[dict]:
        names = ("step", "reward/mean", "aepo/entropy", "aepo/masked", "actor/grad_norm", "response_length/mean")
        rows = map(json.loads, (self.out / "metrics.jsonl").read_text().splitlines())
        return [{name: row[name] for name in names} for row in rows]


@pytest.fixture(scope="module")
def unbroken(slurm, world) -> Stage:
    stage = Stage(world, "unbroken")
    job = stage.start()
    assert job.wait(LIMIT) == ("COMPLETED", 0), job.text[-4000:]
    return stage


def test_a_stage_trains_over_two_machines(unbroken, world):
    assert read_json(unbroken.out / "stage.json")["rollouts"] == {"missing": [], "rows": STEPS * 6 * 3}
    names = {key.split(":")[0] for key in unbroken.weights()}
    assert names == {f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)}
    assert sum(row["actor/grad_norm"] > 0 for row in unbroken.metrics()) >= STEPS // 2


def cancelled(slurm: testbed.Slurm, job: Job) -> None:
    job.cancel()


def head_of_ray_killed(slurm: testbed.Slurm, job: Job) -> None:
    [pid] = [p for p, line in slurm.nodes[0].processes().items() if line.split()[0].endswith("/gcs_server")]
    os.kill(pid, signal.SIGKILL)


def machine_lost(slurm: testbed.Slurm, job: Job) -> None:
    slurm.nodes[1].kill()


def slurmd_killed(slurm: testbed.Slurm, job: Job) -> None:
    os.kill(slurm.nodes[1].slurmd(), signal.SIGKILL)


def disk_filled(slurm: testbed.Slurm, job: Job) -> None:
    big = testbed.STATE / "scratch" / "big"
    slurm.nodes[1].inside("dd", "if=/dev/zero", f"of={big}", "bs=1M", check=False)


def mend(slurm: testbed.Slurm) -> None:
    """Bring everything back to order, as an operator would."""
    for node in slurm.nodes:
        assert node.init is not None
        if node.init.poll() is not None:
            node.start()
        elif not any(line.startswith("slurmd -D") for line in node.processes().values()):
            node.inside("sh", "-c", f"slurmd -N {node.name}")
        node.inside("rm", "-f", testbed.STATE / "scratch" / "big")
    slurm.ready()


def check_same(unbroken: Stage, stage: Stage) -> None:
    """Hold that a stage ended in the results of the unbroken one: metrics, weights to the bit, rollouts to the byte."""
    assert stage.metrics() == unbroken.metrics()
    one, other = unbroken.weights(), stage.weights()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (stage.out / rollout_log.TABLE).read_bytes() == (unbroken.out / rollout_log.TABLE).read_bytes()


FAULTS: tuple[Callable[[testbed.Slurm, Job], None], ...] = (
    cancelled,
    head_of_ray_killed,
    machine_lost,
    slurmd_killed,
    disk_filled,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_after_a_fault_the_same_command_ends_in_the_same_results(slurm, world, unbroken, fault, record_property):
    stage = Stage(world, fault.__name__)
    first = stage.start()
    first.until(lambda: stage.saved(2), "a checkpoint", LIMIT)
    fault(slurm, first)
    began = time.monotonic()
    effect = first.wait(LIMIT)
    noticed = time.monotonic() - began
    mend(slurm)
    began = time.monotonic()
    if effect != ("COMPLETED", 0):
        again = stage.start()
        assert again.wait(LIMIT) == ("COMPLETED", 0), again.text[-4000:]
    else:
        # With a full disk, or without slurmd until Slurm gives the machine up, work may come to its end.
        assert fault in (disk_filled, slurmd_killed)
    attempts = read_json(stage.out / "stage.json")["attempts"]
    repeated = sum(max(0, a["reached"] - b["after"]) for a, b in zip(attempts, attempts[1:], strict=False))
    row = f"{fault.__name__}|{effect[0]} {effect[1]}|{noticed:.0f} s|{time.monotonic() - began:.0f} s|{repeated}"
    record_property("fault", row)
    print(f"\nFAULT|{row}")
    check_same(unbroken, stage)


def test_mlflow_that_stops_stops_nothing_and_has_everything_later(slurm, world, unbroken, record_property):
    root = world.root / "mlflow"
    root.mkdir()
    # On the bridge, where both machines reach it.
    server = Server(root / "server", f"sqlite:///{root}/store.db", host=f"{testbed.SUBNET}.1")
    server.start()
    try:
        stage = Stage(world, "mlflow_stopped", tracking=f"{{uri: '{server.uri}'}}")
        job = stage.start()
        job.until(lambda: stage.saved(2), "a checkpoint", LIMIT)
        server.kill()
        began = time.monotonic()
        assert job.wait(LIMIT) == ("COMPLETED", 0), job.text[-4000:]
        ended = time.monotonic() - began
        server.start()
        words = [sys.executable, "-m", "qwenlong", "track", "upload", "--results", stage.root / "results"]
        testbed.sh(*words)
        client = mlflow.MlflowClient(server.uri)
        [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
        [run] = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(run.info.run_id, "reward/mean")
    finally:
        server.kill()
    assert run.info.status == "FINISHED"
    assert {m.step: m.value for m in history} == {row["step"]: row["reward/mean"] for row in unbroken.metrics()}
    row = f"mlflow_stopped|COMPLETED 0|{ended:.0f} s|0 s|0"
    record_property("fault", row)
    print(f"\nFAULT|{row}")
    check_same(unbroken, stage)
