"""verl's own trainer on CPU: AEPO in a run that is told to end, killed and resumed, and memory RL.

Four starts of Ray for all assertions.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from qwenlong.training.losses import policy_gradient
from qwenlong.training.verl_plugin.checkpoint import is_whole

pytestmark = [pytest.mark.engines, pytest.mark.timeout(3000)]
LIMIT = 900
STEPS, KILLED = 8, 6


def command(world, stage: str, out: Path, config: Path | None = None) -> list[str]:
    return [
        sys.executable, "-m", "qwenlong", "train", "stage", stage, "--config", str(config or world.config),
        "--samples", str(world.samples), "--documents", str(world.documents), "--model", str(world.model),
        "--out", str(out), "--json",
    ]  # fmt: skip


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@dataclass(frozen=True)
class Stopped:
    """A stage that was told to end in its second step, then killed, then left alone; always the same command."""

    out: Path
    code: int
    said: str
    checkpoints: list[Path]
    told: list[dict]
    """Metrics after the first process, and"""
    killed: list[dict]
    """after the second one."""
    last: subprocess.CompletedProcess[str]

    @property
    def saved(self) -> int:
        """The step at which the first process ended."""
        return int(self.checkpoints[0].name.rpartition("_")[2])


@pytest.fixture(scope="module")
def stopped(world):
    config, out = world.root / "stopped.yaml", world.root / "policy"
    # Of its own accord it saves the step after which it is killed, and the last one.
    text = world.config.read_text().replace("save_every: 1", f"save_every: {KILLED}")
    text = text.replace("  steps: 4", f"  steps: {STEPS}").replace("seed: 3", "seed: 3, grace_seconds: 300")
    config.write_text(text)
    words = command(world, "rl_1", out, config)

    def state(name: str) -> list[Path]:
        return list((world.results / "state/stages/rl_1").glob(f"*/{name}"))

    def begin(name: str, until: Callable[[], bool]) -> tuple[subprocess.Popen[bytes], Path]:
        log = world.root / name
        process = subprocess.Popen(words, stdout=log.open("wb"), stderr=subprocess.STDOUT)
        deadline = time.monotonic() + LIMIT
        while not until():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.05)
        return process, log

    told, log = begin("told.log", lambda: any(file.read_text().count("\n") for file in state("metrics.jsonl")))
    told.send_signal(signal.SIGTERM)
    code = told.wait(LIMIT)
    checkpoints = [folder for folder in state("global_step_*") if is_whole(folder)]
    after_told = lines(state("metrics.jsonl")[0])
    killed, _ = begin("killed.log", lambda: bool(state(f"global_step_{KILLED}/complete.json")))
    after_killed = lines(state("metrics.jsonl")[0])
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not out.exists()
    last = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert last.returncode == 0, last.stderr[-3000:]
    return Stopped(out, code, log.read_text(), checkpoints, after_told, after_killed, last)


def test_a_stage_that_is_told_to_end_saves_the_step_under_way(stopped):
    assert stopped.code == 143 and "the step that was under way is saved" in stopped.said, stopped.said[-4000:]
    # All steps that were trained are on disk.
    assert len(stopped.checkpoints) == 1 and 2 <= stopped.saved < KILLED
    assert [line["step"] for line in stopped.told] == list(range(1, stopped.saved + 1))


def test_a_stopped_stage_resumes_after_its_last_whole_checkpoint(stopped):
    record = json.loads((stopped.out / "stage.json").read_text())
    first, second, third = [attempt["after"] for attempt in record["attempts"]]
    assert (first, second) == (0, stopped.saved) and third >= KILLED
    assert f"resuming at step k = {third} of {STEPS}" in stopped.last.stderr
    assert [line["step"] for line in lines(stopped.out / "metrics.jsonl")] == list(range(1, STEPS + 1))
    # What was saved when it was told to end was not trained anew.
    assert "steps repeated: 0" in (stopped.out.parent / "killed.log").read_text()


def test_steps_before_the_end_are_kept_as_they_were(stopped):
    after = {line["step"]: line for line in lines(stopped.out / "metrics.jsonl")}
    for line in stopped.told + stopped.killed[:KILLED]:
        assert after[line["step"]]["reward/mean"] == line["reward/mean"]


def test_batches_are_balanced_and_aepo_masks_with_hysteresis(stopped):
    steps = lines(stopped.out / "metrics.jsonl")
    for line in steps:
        counts = [value / 3 for name, value in line.items() if name.endswith("/trajectories") and name.count("/") == 2]
        assert sum(counts) == 6 and max(counts) - min(counts) <= 1
        # An untrained model's entropy is near ln(vocabulary), far above the band: negatives are masked at every step,
        # the ones after the resume included.
        assert line["aepo/entropy"] > 4 and line["aepo/masked"] == 1
        # Rows of weight 0 are left out of the update, so the rest is packed anew: 1 up to float noise.
        assert line["actor/ratio_deviation"] < 1e-5 if "actor/ratio_deviation" in line else line["aepo/skipped"] == 1
    assert any(line["aepo/skipped"] == 0 and line["actor/grad_norm"] > 0 for line in steps)


def test_the_policy_moved_and_holds_every_tensor(stopped, world):
    from safetensors.torch import load_file

    out = stopped.out
    assert (out / "actor" / "model_world_size_1_rank_0.pt").is_file()
    assert not list((out / "actor").glob("optim*"))
    result = subprocess.run(
        [sys.executable, "-m", "qwenlong", "checkpoint", "convert", str(out), str(world.root / "hf"),
         "--like", str(world.model)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    base = load_file(next(world.model.glob("*.safetensors")))
    tuned = load_file(next((world.root / "hf").glob("*.safetensors")))
    assert base.keys() == tuned.keys()
    assert any(not torch.equal(base[name].float(), tuned[name].float()) for name in base)


def test_no_process_outlives_a_finished_stage(stopped, world):
    from qwenlong.core.processes import survivors

    deadline = time.monotonic() + 20
    while survivors(world.results) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [p.name() for p in survivors(world.results) if psutil.pid_exists(p.pid)] == []


def test_memory_rl_trains_all_turns_with_one_reward_per_trajectory(world):
    out = world.root / "memory_policy"
    result = subprocess.run(command(world, "memory_rl", out), capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr[-3000:]
    steps = lines(out / "metrics.jsonl")
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        assert line["rollout/trajectories"] == 6 and line["rollout/groups"] == 2
        assert line["rollout/turns_mean"] >= 2
        assert "aepo/masked" not in line
    # What a checkpoint says of its step, for a kill before verl logs it, is what verl logs.
    saved = [
        json.loads(file.read_text())
        for file in world.results.glob("state/stages/memory_rl/*/global_step_*/metrics.json")
    ]
    assert saved and all(steps[int(line["step"]) - 1].items() >= line.items() for line in saved)


def test_the_registered_loss_is_equation_4():
    from qwenlong.training.verl_plugin.loss import group_token_loss

    torch.manual_seed(1)
    new = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    old = torch.randn(4, 6, dtype=torch.float64)
    mask = torch.rand(4, 6) > 0.3
    mask[:, 0] = True
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    weight = torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=torch.float64)
    poisoned = torch.where(mask, old, torch.full_like(old, float("nan")))

    class Config:
        global_batch_info = {"dp_size": 1}

    folded = torch.where(mask, (advantage * weight)[:, None].expand(4, 6), torch.full_like(old, float("nan")))
    loss, _ = group_token_loss(poisoned, new, folded, mask, config=Config())
    (gradient,) = torch.autograd.grad(loss, new)
    other = policy_gradient(new, poisoned, advantage, weight, mask)
    (wanted,) = torch.autograd.grad(other, new)
    assert torch.allclose(loss, other) and torch.allclose(gradient, wanted)
    assert torch.isfinite(gradient).all()
