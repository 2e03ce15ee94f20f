"""What learnt from rollouts of another run's weights is left out of a bundle, with what descends from it, and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_up_runs import make
from qwenlong.audit.bundles import collect, foreign
from qwenlong.core import config_files
from qwenlong.core.config import Config
from qwenlong.core.rollout_fit import CORRELATION, GAP


def spoil(results: Path, home: str, step: int, correlation: float = 0.94, gap: float = 0.014) -> None:
    """Give a step of a policy the numbers of rollouts of other weights."""
    file = results / home / "policy" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row |= {CORRELATION: 0.9998, GAP: 0.0009}
    rows[step - 1] |= {CORRELATION: correlation, GAP: gap}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Config]:
    results, file = make(tmp_path, "nano", 17, steps=5)
    return results, config_files.load(file)


def test_a_stage_takes_its_descendants_along(run: tuple[Path, Config]) -> None:
    results, config = run
    assert foreign.taught_by_others(results, config) == {}
    spoil(results, "stages/rl_3", 4)
    spoil(results, "ablations/grpo", 2)
    found = foreign.taught_by_others(results, config)
    gone = {"rl_3", "memory_rl", "rl_4"}
    assert set(found) >= {f"{home}/{m}" for home in ("stages", "evaluation") for m in gone}
    assert "evaluation/sce_merge" in found and "ablations/grpo" in found
    assert not {home for home in found if home.endswith(("base", "rl_1", "rl_2", "naive_grpo", "aepo"))}
    assert found["evaluation/rl_4"] == found["stages/rl_3"] and "step 4" in found["stages/rl_3"]


def test_a_bundle_leaves_them_out_and_says_so(run: tuple[Path, Config], tmp_path: Path) -> None:
    results, config = run
    spoil(results, "stages/memory_rl", 5)
    index = collect.bundle([collect.Run(results, config, "nano-s17", "nano")], tmp_path / "bundle")
    root = tmp_path / "bundle" / "runs" / "nano-s17"
    kept = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    assert not [name for name in kept if "memory_rl" in name or "sce_merge" in name or "rl_4" in name]
    assert "stages/rl_3/policy/metrics.jsonl.gz" in kept and "evaluation/rl_3/heldout/scores.json.gz" in kept
    (reason,) = index["left_out"]["nano-s17"]
    assert "stages/memory_rl is left out: rollouts of step 5" in reason


def test_the_bound_is_the_configurations(run: tuple[Path, Config]) -> None:
    results, config = run
    spoil(results, "stages/rl_1", 1, correlation=0.96)
    assert "stages/rl_1" in foreign.taught_by_others(results, config)
    for bound, expected in ((0.95, False), (None, False)):
        rules = config.training.divergence.model_copy(update={"rollout_correlation": bound})
        loose = config.model_copy(update={"training": config.training.model_copy(update={"divergence": rules})})
        assert bool(foreign.taught_by_others(results, loose)) is expected
