"""A stage that is told to end saves the step under way, and the same command goes on from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwenlong.core.files import read_json
from qwenlong.training.verl_plugin.checkpoint import is_whole

sys.path.insert(0, str(Path(__file__).parent))

from test_rl import command

pytestmark = [pytest.mark.engines, pytest.mark.timeout(3000)]
LIMIT = 1200


def test_sigterm_costs_no_step(world) -> None:
    root = world.root / "preempted"
    root.mkdir()
    # No checkpoint of its own accord before the last step.
    text = world.config.read_text().replace("save_every: 1", "save_every: 100")
    text = text.replace(f"results: {world.results}", f"grace_seconds: 300, results: {root / 'results'}")
    config = root / "config.yaml"
    config.write_text(text)
    words = command(world, "rl_1", root / "policy")
    words[words.index("--config") + 1] = str(config)
    log = root / "log"
    process = subprocess.Popen(words, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=dict(os.environ))
    end = time.monotonic() + LIMIT
    metrics: list[Path] = []
    while not (metrics and metrics[0].is_file() and metrics[0].read_text().count("\n") >= 1):
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
        metrics = list((root / "results/state/stages/rl_1").glob("*/metrics.jsonl"))
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 143, log.read_text()[-4000:]
    assert "the step that was under way is saved" in log.read_text()
    state = metrics[0].parent
    (saved,) = state.glob("global_step_*")
    step = int(saved.name.rpartition("_")[2])
    assert is_whole(saved) and 2 <= step < 4
    # All steps that were trained are on disk: none is repeated.
    assert [json.loads(line)["step"] for line in metrics[0].read_text().splitlines()] == list(range(1, step + 1))

    again = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 0, again.stderr[-4000:]
    assert f"resuming at step k = {step} of 4; steps repeated: 0" in again.stdout + again.stderr
    summary = read_json(root / "policy" / "stage.json")
    assert [attempt["after"] for attempt in summary["attempts"]] == [0, step]
    lines = (root / "policy" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
