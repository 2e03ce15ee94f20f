"""Scoring stored predictions again: what `evaluate score` gave, file by file; what cannot be scored says why."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from made_up_runs import make
from qwenlong.evaluation.commands import app

RUN = CliRunner()


def test_the_same_scores_again(tmp_path: Path) -> None:
    """Two files in one process, and one whose predictions are of other items."""
    results, config = make(tmp_path, "nano", 17, models=("base", "rl_1"), rows=(), steps=1)
    jobs = []
    for model in ("base", "rl_1"):
        place = results / "evaluation" / model / "heldout"
        jobs.append({"benchmark": "heldout", "predictions": str(place / "predictions.jsonl"), "seed": 17})
    jobs.append(jobs[0] | {"predictions": str(results / "evaluation/base/heldout_long/predictions.jsonl")})
    named = {"examples": str(results / "synthesis/heldout.parquet"), "config": str(config)}
    lines = [json.dumps(job | named | {"out": str(tmp_path / f"{n}.json")}) for n, job in enumerate(jobs)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines) + "\n")
    done = RUN.invoke(app, ["rescore", str(tmp_path / "jobs.jsonl")])
    assert done.exit_code == 0, done.output
    for n, model in enumerate(("base", "rl_1")):
        stored = (results / "evaluation" / model / "heldout" / "scores.json").read_bytes()
        assert (tmp_path / f"{n}.json").read_bytes() == stored
    assert "is of no item" in json.loads((tmp_path / "2.json").read_text())["error"]


def test_a_line_that_is_no_job(tmp_path: Path) -> None:
    """It is named with what it lacks."""
    (tmp_path / "jobs.jsonl").write_text('{"benchmark": "heldout"}\n')
    done = RUN.invoke(app, ["rescore", str(tmp_path / "jobs.jsonl")])
    assert done.exit_code == 1 and "line 1 lacks examples, out, predictions, seed" in done.output
