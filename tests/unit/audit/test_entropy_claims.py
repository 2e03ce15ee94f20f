"""The claims on entropy read every training that they can be seen in: stages and rows of the ablations alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from made_up_runs import make, metrics
from qwenlong.audit import checks
from qwenlong.audit.bundles import collect
from qwenlong.audit.results import read_metrics
from qwenlong.core import config_files

NAIVE, GRPO, AEPO = "stages/naive_grpo/policy", "ablations/grpo/policy", "ablations/aepo/policy"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict], dict[int, Path], Path]:
    """Claims, results folders by seed, and the bundle: seed 17 has naive GRPO and both rows, seed 18 the rows alone."""
    root = tmp_path_factory.mktemp("runs")
    runs, folders = [], {}
    for seed in (17, 18):
        results, file = make(root, "nano", seed, models=("base",), rows=("grpo", "aepo"), steps=20)
        if seed == 17:
            _unlike(results / NAIVE / "metrics.jsonl", 9)
            _unlike(results / GRPO / "metrics.jsonl", 20)
        runs.append(collect.Run(results, config_files.load(file), f"nano-s{seed}", "nano"))
        folders[seed] = results
    out = root / "bundle"
    collect.bundle(runs, out)
    tables = json.loads((out / "report/tables.json").read_text())
    return {row["id"]: row for row in tables["claims"]}, folders, out


def _unlike(file: Path, steps: int) -> None:
    """Write metrics whose gradient norms follow entropy but for the first third of the steps."""
    metrics(file, steps, 5, False)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[: steps // 3]:
        row["actor/grad_norm"] += 10.0
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rho(file: Path) -> float:
    return checks.spearman(*zip(*checks.gradient_steps(read_metrics(file / "metrics.jsonl")), strict=True))


def test_rho_is_of_all_trainings_of_plain_grpo(found: tuple[dict[str, dict], dict[int, Path], Path]) -> None:
    claims, folders, _ = found
    claim = claims["entropy_tracks_gradient_norm"]
    naive, row = _rho(folders[17] / NAIVE), _rho(folders[17] / GRPO)
    assert abs(naive - row) > 0.01  # else the mean would be that of either
    first = math.tanh((math.atanh(naive) + math.atanh(row)) / 2)
    assert claim["ours"] == [f"{first:.2f}", f"{_rho(folders[18] / GRPO):.2f}"]
    assert claim["n"] == 9 + 20 + 20 and claim["seeds"] == 2
    files = [(source["run"], source["file"]) for source in claim["sources"]]
    assert files == [(f"nano-s{seed}", f"{at}/metrics.jsonl") for seed, at in ((17, NAIVE), (17, GRPO), (18, GRPO))]


def test_the_band_is_looked_for_in_aepos_row_too(found: tuple[dict[str, dict], dict[int, Path], Path]) -> None:
    claims, folders, _ = found
    claim = claims["aepo_bounds_entropy"]
    assert {source["file"] for source in claim["sources"]} == {f"{AEPO}/metrics.jsonl"}
    masked = []
    for results in folders.values():
        rows = [row["aepo/masked"] for row in read_metrics(results / AEPO / "metrics.jsonl")]
        masked.append(len(rows) - rows.index(1.0))
    assert claim["n"] == sum(masked) and claim["seeds"] == 2


def test_the_figure_has_a_panel_for_each(found: tuple[dict[str, dict], dict[int, Path], Path]) -> None:
    (file,) = (found[2] / "report").rglob("entropy_norm-nano.csv")
    rows = [line.split(",")[:2] for line in file.read_text().splitlines()[1:]]
    shown = {(run, name): rows.count([run, name]) for run, name in rows}
    assert shown == {("nano-s17", "naive_grpo"): 9, ("nano-s17", "grpo"): 20, ("nano-s18", "grpo"): 20}
