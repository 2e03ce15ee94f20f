"""A stage killed at five points and resumed each time against the same stage unbroken: tokens, steps, weights.

Seven starts of verl in one fixture. The killed run: two steps between checkpoints, so that kills lose trained steps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qwenlong.core.files import read_json
from qwenlong.training import rollout_log

sys.path.insert(0, str(Path(__file__).parent))

import killing
from test_rl import command

pytestmark = [pytest.mark.engines, pytest.mark.slow, pytest.mark.timeout(5400)]
STEPS = 8
#: Where each try is killed, and the checkpoint that the next one goes on from.
KILLS = {"rollout": (2, 0), "reward": (4, 2), "update": (5, 4), "mid-save": (6, 4), "after-save": (6, 4)}
LIMIT = 900


class Try:
    """What one start of the stage left behind."""

    def __init__(self, code: int, log: str, reached: dict | None, draws: dict[int, dict]) -> None:
        self.code, self.log, self.reached, self.draws = code, log, reached, draws


class Stage:
    """The same stage in a results folder of its own."""

    def __init__(self, world, name: str) -> None:
        self.root = world.root / name
        self.root.mkdir()
        self.out = self.root / "policy"
        text = world.config.read_text().replace(str(world.results), str(self.root / "results"))
        text = text.replace("steps: 4", f"steps: {STEPS}").replace("save_every: 1", "save_every: 2")
        self.config = self.root / "config.yaml"
        self.config.write_text(text)
        self.words = command(world, "rl_1", self.out)
        self.words[self.words.index("--config") + 1] = str(self.config)

    @property
    def state(self) -> Path:
        return next((self.root / "results/state/stages/rl_1").glob("[0-9a-f]*/"))

    def start(self, kill: str = "") -> Try:
        environment = dict(os.environ)
        folder = self.root / "told"
        if kill:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            environment |= {
                "VERL_USE_EXTERNAL_MODULES": "killing",
                "QWENLONG_TEST_KILL": kill,
                "QWENLONG_TEST_KILL_FOLDER": str(folder),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")]),
            }
        done = subprocess.run(self.words, capture_output=True, text=True, timeout=LIMIT, env=environment)
        reached = read_json(folder / "reached") if kill and (folder / "reached").is_file() else None
        files = sorted((self.state / rollout_log.FOLDER).glob("step_*.parquet"))
        draws = {int(file.stem.rsplit("_", 1)[1]): rollout_log.read_digests(file) for file in files}
        return Try(done.returncode, done.stdout + done.stderr, reached, draws)


@pytest.fixture(scope="module")
def unbroken(world) -> Stage:
    stage = Stage(world, "unbroken")
    done = stage.start()
    assert done.code == 0, done.log[-4000:]
    return stage


@pytest.fixture(scope="module")
def broken(world) -> tuple[Stage, dict[str, Try], Try]:
    stage = Stage(world, "broken")
    killed = {point: stage.start(f"{point}@{step}") for point, (step, _) in KILLS.items()}
    return stage, killed, stage.start()


def test_every_try_was_killed_at_its_point(broken):
    _, killed, _ = broken
    assert tuple(killed) == killing.POINTS
    for point, done in killed.items():
        assert done.code == -signal.SIGKILL, f"{point}: {done.code}\n{done.log[-4000:]}"
        assert (done.reached["point"], done.reached["step"]) == (point, KILLS[point][0])
    # In the middle: some tokens of the responses, some rewards; a checkpoint without some files, one with all.
    assert killed["rollout"].reached["tokens"] == 5 and killed["reward"].reached["rewards"] == 3
    assert "/global_step_6/" in killed["mid-save"].reached["file"]
    saved = killed["after-save"].reached["files"]
    assert {"controller.json", "data.pt", "metrics.json"} <= set(saved) and "complete.json" not in saved
    assert any(name.startswith("actor/model_") for name in saved) and any("optim_" in name for name in saved)


def test_every_try_goes_on_at_the_newest_whole_checkpoint(broken):
    stage, killed, last = broken
    assert last.code == 0, last.log[-4000:]
    attempts = read_json(stage.out / "stage.json")["attempts"]
    assert [entry["after"] for entry in attempts] == [0, *(after for _, after in KILLS.values())]
    assert f"resuming at step k = 4 of {STEPS}" in last.log


def test_rollouts_of_every_try_are_those_of_the_unbroken_run(unbroken, broken):
    _, killed, last = broken
    whole = {step: rollout_log.read_digests(rollout_log.path_of(unbroken.state, step)) for step in range(1, STEPS + 1)}
    assert all(len(rows) == 6 * 3 for rows in whole.values())
    # An untrained model's responses differ: equal digests are not those of empty responses.
    assert len({sha for rows in whole.values() for sha in rows.values()}) > STEPS * 15
    for point, done in [*killed.items(), ("last", last)]:
        for step, rows in done.draws.items():
            assert rows == whole[step], f"{point}: step {step} drew other tokens"
    assert sorted(last.draws) == list(range(1, STEPS + 1))
    # What each try had drawn before it was killed is there.
    assert [max(done.draws, default=0) for done in killed.values()] == [1, 3, 5, 6, 6]


def test_no_step_is_lost_or_trained_twice(unbroken, broken):
    stage, _, _ = broken
    rows = {
        name: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for name, folder in (("unbroken", unbroken.out), ("broken", stage.out))
    }
    assert [row["step"] for row in rows["broken"]] == list(range(1, STEPS + 1))
    names = ("reward/mean", "aepo/entropy", "aepo/masked", "actor/grad_norm", "response_length/mean")
    for one, other in zip(rows["unbroken"], rows["broken"], strict=True):
        for name in names:
            assert one[name] == other[name], f"step {one['step']}: {name}"
        # A step whose record an earlier try had written says that it drew the same again.
        assert other.get("rollout/repeated_alike", 1.0) == 1.0
    assert any("rollout/repeated_alike" in row for row in rows["broken"])
    assert sum(row["actor/grad_norm"] > 0 for row in rows["unbroken"]) >= STEPS // 2


def test_the_final_weights_are_equal(unbroken, broken, world):
    stage, _, _ = broken
    name = "actor/model_world_size_1_rank_0.pt"
    one, other = (torch.load(folder / name, weights_only=False) for folder in (unbroken.out, stage.out))
    assert one.keys() == other.keys() and one
    full = [t.full_tensor() if hasattr(t, "full_tensor") else t for t in one.values()]
    same = [t.full_tensor() if hasattr(t, "full_tensor") else t for t in other.values()]
    assert all(torch.equal(a, b) for a, b in zip(full, same, strict=True))
    from safetensors.torch import load_file

    base = load_file(next(world.model.glob("*.safetensors")))
    trained = dict(zip(one, full, strict=True))
    assert any(not torch.equal(base[key].float(), value.float()) for key, value in trained.items() if key in base)


def test_the_records_beside_the_policy_are_those_of_the_run(unbroken, broken):
    stage, _, _ = broken
    one, other = ((folder / rollout_log.TABLE).read_bytes() for folder in (unbroken.out, stage.out))
    assert one == other
    assert read_json(stage.out / "stage.json")["rollouts"] == {"missing": [], "rows": STEPS * 6 * 3}
