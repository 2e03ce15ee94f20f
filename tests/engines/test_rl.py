"""verl's own trainer on CPU: AEPO in a killed and resumed run, and memory RL. Two starts of Ray for all assertions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from qwenlong.training.losses import policy_gradient

pytestmark = pytest.mark.engines
LIMIT = 400


def command(world, stage: str, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "qwenlong", "train", "stage", stage, "--config", str(world.config),
        "--samples", str(world.samples), "--documents", str(world.documents), "--model", str(world.model),
        "--out", str(out), "--json",
    ]  # fmt: skip


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def killed_then_resumed(world):
    """Kill the trainer's process after its second checkpoint, then run the same command again."""
    out = world.root / "policy"
    log = (world.root / "first.log").open("wb")
    first = subprocess.Popen(command(world, "rl_1", out), stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + LIMIT
    marker = "stages/rl_1/*/global_step_2/complete.json"
    while not list((world.results / "state").glob(marker)):
        assert first.poll() is None and time.monotonic() < deadline, (world.root / "first.log").read_text()[-3000:]
        time.sleep(0.05)
    before = lines(next((world.results / "state/stages/rl_1").glob("*/metrics.jsonl")))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not out.exists()
    second = subprocess.run(command(world, "rl_1", out), capture_output=True, text=True, timeout=LIMIT)
    assert second.returncode == 0, second.stderr[-3000:]
    return out, before, second


def test_a_killed_stage_resumes_after_its_last_whole_checkpoint(killed_then_resumed):
    out, _, second = killed_then_resumed
    record = json.loads((out / "stage.json").read_text())
    assert [a["after"] for a in record["attempts"]][0] == 0
    assert record["attempts"][1]["after"] >= 2
    assert f"resuming at step k = {record['attempts'][1]['after']} of 4" in second.stderr
    assert [line["step"] for line in lines(out / "metrics.jsonl")] == [1, 2, 3, 4]


def test_steps_before_the_kill_are_kept_as_they_were(killed_then_resumed):
    out, before, _ = killed_then_resumed
    after = {line["step"]: line for line in lines(out / "metrics.jsonl")}
    for line in before[:2]:
        assert after[line["step"]]["reward/mean"] == line["reward/mean"]


def test_batches_are_balanced_and_aepo_masks_with_hysteresis(killed_then_resumed):
    out, _, _ = killed_then_resumed
    steps = lines(out / "metrics.jsonl")
    for line in steps:
        counts = [value / 3 for name, value in line.items() if name.endswith("/trajectories") and name.count("/") == 2]
        assert sum(counts) == 6 and max(counts) - min(counts) <= 1
        # An untrained model's entropy is near ln(vocabulary), far above the band: negatives are masked at every step,
        # the ones after the resume included.
        assert line["aepo/entropy"] > 4 and line["aepo/masked"] == 1
        # Rows of weight 0 are left out of the update, so the rest is packed anew: 1 up to float noise.
        assert line["actor/ratio_deviation"] < 1e-5 if "actor/ratio_deviation" in line else line["aepo/skipped"] == 1
    assert any(line["aepo/skipped"] == 0 and line["actor/grad_norm"] > 0 for line in steps)


def test_the_policy_moved_and_holds_every_tensor(killed_then_resumed, world):
    from safetensors.torch import load_file

    out, _, _ = killed_then_resumed
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


def test_no_process_outlives_a_finished_stage(killed_then_resumed, world):
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
