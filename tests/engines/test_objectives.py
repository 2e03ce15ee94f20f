"""verl takes its own losses from our settings, and a run that diverges stops itself. One start of Ray each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.engines
LIMIT = 400


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
