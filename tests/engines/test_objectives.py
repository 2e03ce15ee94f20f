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
LIMIT = 900


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
    stage = {"learning_rate": 1e30, "steps": 8, "aepo": None}
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


@pytest.mark.parametrize("loss", ["dapo", "gspo", "clip_cov"])
def test_verls_losses_are_the_means_that_are_claimed(loss):
    """The function of verl, with the configuration that our settings make, against the mean written down by hand."""
    import torch
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.utils.config import omega_conf_to_dataclass

    from qwenlong.core.config import Config
    from qwenlong.training.verl_plugin.expand import expand

    paths = {name: Path(name) for name in ("samples", "documents", "model", "state")}
    config = Config.model_validate({"training": {"loss": loss, "aepo": None}})
    actor = omega_conf_to_dataclass(expand(config, "rl_1", config.stage("rl_1"), paths).actor_rollout_ref.actor)
    torch.manual_seed(0)
    rows, width, ranks = 6, 9, 2
    lengths = torch.tensor([9, 1, 4, 7, 2, 8])
    mask = torch.arange(width) < lengths[:, None]
    advantages = torch.randn(rows, 1).expand(rows, width) * mask
    old = -torch.rand(rows, width)
    actor.global_batch_info.update(
        {"dp_size": ranks, "batch_num_tokens": int(mask.sum()), "global_batch_size": rows, "loss_scale_factor": None}
    )

    def gradient(part):
        """Gradient by the log-probabilities, of the rows of one micro-batch."""
        new = old[part].clone().requires_grad_()
        value, _ = get_policy_loss_fn(actor.policy_loss.loss_mode)(
            old_log_prob=old[part], log_prob=new, advantages=advantages[part], response_mask=mask[part],
            loss_agg_mode=actor.loss_agg_mode, config=actor,
        )  # fmt: skip
        (found,) = torch.autograd.grad(value, new)
        return found

    found = torch.cat([gradient(slice(0, 2)), gradient(slice(2, 6))])
    # On-policy the gradient of ratio x A by the log-probability is A; the ranks' mean undoes the factor `ranks`.
    each = lengths[:, None] * rows if loss == "gspo" else mask.sum()
    wanted = -advantages * ranks / each * mask
    if loss == "clip_cov":
        # At most one token per micro-batch of so few has lost its gradient, and the others are untouched.
        lost = (found == 0) & (wanted != 0)
        assert int(lost.sum()) <= 2
        wanted = torch.where(lost, torch.zeros_like(wanted), wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    # Eq. 4's token weights are another mean: two groups of three rows.
    tokens = torch.cat([lengths[:3].sum().repeat(3), lengths[3:].sum().repeat(3)])[:, None]
    assert not torch.allclose(found, -advantages * ranks / (2 * tokens) * mask, rtol=1e-3)
