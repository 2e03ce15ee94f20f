"""`qwenlong replicate check` against the real workflow: jobs that are left, targets that nobody makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
runs:
  - {name: row, config: configs/cpu_nano.yaml, seeds: [17, 18], targets: ["{results}/ablations/grpo/policy"]}
  - {name: sure, config: configs/cpu_nano.yaml, targets: ["{results}/evaluation/base/heldout/scores.json"]}
  - {name: agent, config: configs/cpu_nano.yaml, targets: ["{results}/evaluation/naive_grpo/heldout_long/scores.json"]}
  - {name: typo, config: configs/cpu_nano.yaml, targets: ["{results}/evaluation/rl_9/heldout/scores.json"]}
"""


def _check(folder: Path) -> tuple[int, dict[str, dict[str, Any]], str]:
    words = [sys.executable, "-m", "qwenlong", "replicate", "check", "plan.yaml"]
    asked = subprocess.run(
        [*words, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "packages")},
    )
    return asked.returncode, {row["name"]: row for row in json.loads(asked.stdout)["runs"]}, asked.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without results."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "workflow", "configs", "packages", "models", "data"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "plan.yaml").write_text(PLAN)
    return folder


def test_what_is_left_and_what_nobody_makes(checkout: Path) -> None:
    code, found, said = _check(checkout)
    assert code == 1, said
    assert [found[name]["state"] for name in ("row-17", "row-18", "sure-17", "agent-17", "typo-17")] == [
        *("open", "open", "open", "impossible", "impossible")
    ]
    jobs = found["row-17"]["jobs"]
    assert jobs["ablation_grpo"] == jobs["bins"] == jobs["base"] == 1 and "evaluate_full" not in jobs
    assert found["row-18"]["jobs"] == jobs  # its data are not there yet
    assert "bins" not in found["sure-17"]["jobs"] and found["sure-17"]["jobs"]["score_evaluation"] == 1
    # In Snakemake's words, with the file that is asked for.
    assert "naive_grpo/heldout_long/predictions.jsonl" in found["agent-17"]["reason"]
    assert "rl_9" in found["typo-17"]["reason"]
    assert not (checkout / "results").exists()

    # Data that are there are copied, not made, for other seeds.
    data = checkout / "results/cpu_nano/seed_17/bins/bins.json"
    data.parent.mkdir(parents=True)
    data.write_text("{}")
    (checkout / "plan.yaml").write_text("\n".join(PLAN.splitlines()[:3]))
    code, found, said = _check(checkout)
    assert code == 0, said
    assert found["row-18"]["jobs"] == {"ablation_grpo": 1}
