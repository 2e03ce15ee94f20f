"""verl takes its own losses from our settings, and a run that diverges stops itself. One start of Ray each."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.engines
LIMIT = 560


def train(world, name: str, stage: dict, tracking: bool = False) -> tuple[subprocess.CompletedProcess, Path, Path]:
    """Train an ablation row of the tiny world; return the process, its output folder and its results."""
    folder = world.root / name
    folder.mkdir()
    values = yaml.safe_load(world.config.read_text())
    values["run"]["results"] = str(folder / "results")
    values["tracking"] = {"enabled": tracking}
    values["training"]["divergence"] = {"patience": 2, "window": 1}
    values["ablations"] = {"rows": [{"name": name, "tables": ["extra"], "stage": stage}]}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [
            sys.executable, "-m", "qwenlong", "train", "stage", name, "--ablation", "--config", str(config),
            "--samples", str(world.samples), "--documents", str(world.documents), "--model", str(world.model),
            "--out", str(folder / "policy"), "--json",
        ],
        capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    return done, folder / "policy", folder / "results"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    "loss",
    [{"kind": "gspo"}, {"kind": "clip_cov", "share": 0.2, "covariance_low": -100.0, "covariance_high": 100.0}],
    ids=lambda loss: loss["kind"],
)
def test_verl_trains_with_its_own_loss(world, loss):
    done, out, _ = train(world, loss["kind"], {"loss": loss, "aepo": None, "advantage": "batch_std", "steps": 2})
    assert done.returncode == 0, done.stderr[-3000:]
    steps = lines(out / "metrics.jsonl")
    assert [line["step"] for line in steps] == [1, 2]
    learnt = [line for line in steps if line["aepo/skipped"] == 0]
    assert learnt and all(line["actor/grad_norm"] > 0 for line in learnt)
    for line in learnt:
        # Our loss reports how far the ratio is from 1, verl's own how much they clip.
        assert "actor/ratio_deviation" not in line
        clipped = line["actor/pg_clipfrac"]
        # On-policy nothing is clipped, but Clip-Cov takes its share of tokens away whatever the ratio.
        assert clipped == 0 if loss["kind"] == "gspo" else 0.1 < clipped <= 0.25


def test_a_run_that_diverges_stops_with_reason_and_checkpoint(world):
    import mlflow

    # A learning rate at which one update ruins the weights: what the next step computes is no number.
    stage = {"learning_rate": 1e30, "steps": 8, "aepo": None, "truncated": "zero_reward"}
    done, out, results = train(world, "ruined", stage, tracking=True)
    assert done.returncode == 1 and not out.exists()
    message = next(line for line in done.stderr.splitlines() if "error: stopped at step" in line)
    for part in ("(nonfinite)", "nan", "No checkpoint is known to be good", "lower training.learning_rate"):
        assert part in message
    assert "Traceback" not in done.stderr

    state = next((results / "state" / "stages" / "ablation_ruined").glob("*/metrics.jsonl")).parent
    steps = lines(state / "metrics.jsonl")
    last = steps[-1]["step"]
    assert f"stopped at step {last}," in message and 2 <= last < 8
    # The step that told is kept, its checkpoint was never written.
    assert not all(math.isfinite(value) for value in steps[-1].values())
    assert (state / f"global_step_{last - 1}").is_dir() and not (state / f"global_step_{last}").exists()
    assert steps[0]["rollout/truncated"] > 0

    client = mlflow.MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.info.status == "FAILED" and run.data.tags["qwenlong.stopped"] == "nonfinite"
    assert run.data.tags["qwenlong.stopped_because"] in message
    assert run.data.metrics["rollout/truncated_share"] > 0
