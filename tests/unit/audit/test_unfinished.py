"""Trainings that did not end: their curves are kept and named as such, in a place of their own, and verified."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from made_up_runs import make, metrics
from qwenlong.audit.bundles import collect, layout, unfinished
from qwenlong.audit.bundles.checking import verify
from qwenlong.audit.site import sources
from qwenlong.audit.site.runs import opened
from qwenlong.core import config_files
from qwenlong.core.config import Config
from qwenlong.core.rollout_fit import CORRELATION, GAP


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A run of a base model and a finished row; naive GRPO and a second row stopped after 7 and 3 steps."""
    results, file = make(tmp_path_factory.mktemp("runs"), "nano", 17, models=("base",), rows=("grpo", "aepo"), steps=12)
    shutil.rmtree(results / "ablations/aepo")
    metrics(results / "state/stages/naive_grpo/0123/metrics.jsonl", 7, 17, False)
    metrics(results / "state/stages/ablation_aepo/4567/metrics.jsonl", 3, 17, True)
    # Of a finished row its state may still lie there: nothing of it is taken.
    metrics(results / "state/stages/ablation_grpo/89ab/metrics.jsonl", 5, 17, False)
    # One that has not finished a step has nothing to show.
    (results / "state/stages/rl_1/cdef").mkdir(parents=True)
    (results / "state/stages/rl_1/cdef/metrics.jsonl").write_text("")
    (results / "state/replication/attempts/later.json").write_text(
        json.dumps(
            {
                "run": "nano_aepo-17",
                "state": "stopped",
                "ended": "2026-01-02T03:04:05+00:00",
                "environment": "0a1b",
                "command": ["snakemake", "--", "results/x/ablations/aepo/evaluation/heldout/scores.json"],
            }
        )
    )
    return results, config_files.load(file)


@pytest.fixture(scope="module")
def bundle(run: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    collect.bundle([collect.Run(*run, "nano-s17", "nano")], out)
    return out


def test_curves_are_kept_and_said_to_be_cut(bundle: Path) -> None:
    with opened(bundle) as found:
        (one,) = found.runs
        assert one.metrics_file("naive_grpo") == "unfinished/stages/naive_grpo/metrics.jsonl"
        assert [one.cut("naive_grpo"), one.cut("aepo", True)] == [
            f"step 7 of {one.config.stage('naive_grpo').steps}",
            f"step 3 of {one.config.ablation('aepo').steps}",
        ]
        assert len(one.metrics("aepo", True)) == 3
        # A finished one is read where it always was, and nothing is said of it.
        assert one.metrics_file("grpo", True) == "ablations/grpo/policy/metrics.jsonl"
        assert len(one.metrics("grpo", True)) == 12 and one.cut("grpo", True) == ""
        assert one.metrics("rl_1") == [] and one.cut("rl_1") == ""
    tables = json.loads((bundle / "report/tables.json").read_text())
    rows = {row["key"]: row for row in tables["efficiency"]["stages"]}
    assert rows["nano-s17.naive_grpo"]["steps"] == 7 and rows["nano-s17.naive_grpo"]["cut"].startswith("step 7 of")
    assert rows["nano-s17.grpo"]["cut"] == ""
    claims = {row["id"]: row for row in tables["claims"]}
    claim = claims["entropy_tracks_gradient_norm"]
    assert claim["status"] == "seen once" and "nano-s17: naive_grpo stopped at step 7 of" in claim["note"]
    page = (bundle / "report/figures.html").read_text()
    assert "Not finished: aepo (step 3 of" in page and "Not finished: nano-s17 naive_grpo (step 7 of" in page
    assert ", not finished</span>" in (bundle / "report/efficiency.html").read_text()
    # No evaluation of them is anywhere: a table's cell stays blank.
    assert not list((bundle / "runs/nano-s17").glob("*/aepo/evaluation"))


def test_their_source_is_the_command_that_was_stopped(bundle: Path) -> None:
    tables = json.loads((bundle / "report/tables.json").read_text())
    made = {row["file"]: row for row in tables["sources"]}
    row = made["unfinished/ablations/aepo/metrics.jsonl"]
    assert row["command"] == "snakemake -- results/x/ablations/aepo/evaluation/heldout/scores.json"
    assert row["stored"] == "runs/nano-s17/unfinished/ablations/aepo/metrics.jsonl.gz" and row["digest"]


def test_a_try_whose_end_nobody_saw_stands_where_it_was_seen_last(bundle: Path, tmp_path: Path) -> None:
    command = ["snakemake", "--", "results/x/ablations/aepo/evaluation/heldout/scores.json"]
    with opened(bundle) as found:
        (one,) = found.runs
        place = Path(shutil.copytree(one.folder, tmp_path / "run"))
        run = replace(one, folder=place)
        attempts = place / layout.RECORDS / "attempts"
        for name, more in {
            "seen": {"began": "2026-01-02T03:00:00+00:00", "seen": "2026-01-02T03:04:07+00:00", "ended": None},
            "before": {"began": "2026-01-02T03:04:06+00:00"},
        }.items():
            value = {"state": "under way", "seconds": 5.0, "command": [*command, name], **more}
            (attempts / f"{name}.json").write_text(json.dumps(value))
        file = "unfinished/ablations/aepo/metrics.jsonl"
        (made,) = sources.listing([run], [(run.name, file)])
        assert made.command.endswith("scores.json seen")
        (attempts / "seen.json").unlink()
        (made,) = sources.listing([run], [(run.name, file)])
        assert made.command.endswith("scores.json before")


def test_an_edit_is_named(bundle: Path, tmp_path: Path) -> None:
    assert not verify(bundle).faults
    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    file = spoilt / "runs/nano-s17/unfinished/ablations/aepo/metrics.jsonl.gz"
    file.write_bytes(layout.pack(layout.unpacked(file).replace(b'"step": 3', b'"step": 4')))
    assert any("unfinished/ablations/aepo" in fault for fault in verify(spoilt).faults)
    file.unlink()
    assert any("files, expected" in fault for fault in verify(spoilt).faults)


def test_rollouts_of_other_weights_are_left_out(run: tuple[Path, Config], tmp_path: Path) -> None:
    results = Path(shutil.copytree(run[0], tmp_path / "results" / "nano-s17"))
    file = results / "state/stages/ablation_aepo/4567/metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1] |= {CORRELATION: 0.9, GAP: 0.02}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {name: (path, why) for name, path, why in unfinished.found(results, run[1])}
    path, why = found[unfinished.file_of("aepo", True)]
    assert path is None and "ablation_aepo, not finished, is left out: rollouts of step 2" in why
    assert found[unfinished.file_of("naive_grpo", False)][0] is not None
    index = collect.bundle([collect.Run(results, run[1], "nano-s17", "nano")], tmp_path / "out")
    assert index["left_out"]["nano-s17"] == [why]
