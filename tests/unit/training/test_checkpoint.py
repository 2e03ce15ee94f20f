"""Checkpoints are whole or ignored."""

from __future__ import annotations

import json

from qwenlong.training.verl_plugin.checkpoint import finish, is_whole, latest, newest_before, prune, step_of


def _write(root, step, whole=True):
    folder = root / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "model.pt").write_bytes(b"x" * 10)
    if whole:
        finish(folder)
    return folder


def test_latest_passes_over_unmarked_and_short_checkpoints_and_removes_them(tmp_path):
    _write(tmp_path, 2)
    short = _write(tmp_path, 10)
    (short / "actor" / "model.pt").write_bytes(b"x" * 9)
    unmarked = _write(tmp_path, 11, whole=False)
    assert step_of(latest(tmp_path)) == 2
    assert not short.exists() and not unmarked.exists()


def test_a_marker_that_was_cut_off_is_no_marker(tmp_path):
    folder = _write(tmp_path, 1)
    (folder / "complete.json").write_text(json.dumps({"step": 1})[:-4])
    assert not is_whole(folder)
    assert latest(tmp_path) is None


def test_prune_keeps_the_newest(tmp_path):
    for step in (1, 2, 9, 10):
        _write(tmp_path, step)
    prune(tmp_path, keep=2)
    assert sorted(step_of(p) for p in tmp_path.iterdir()) == [9, 10]


def test_a_step_whose_checkpoint_is_whole_keeps_its_line_though_the_log_lost_it(tmp_path, capsys):
    from qwenlong.core.config import Config, RunConfig, StageConfig
    from qwenlong.training.verl_plugin.launch import Stage

    for name in ("samples", "documents", "model"):
        (tmp_path / name).write_text(name)
    stage = Stage(
        "rl_1", Config(run=RunConfig(results=str(tmp_path / "results"))), StageConfig(steps=4),
        samples=tmp_path / "samples", documents=tmp_path / "documents", model=tmp_path / "model", out=tmp_path / "out",
    )  # fmt: skip
    assert stage.prepare() is None
    # Killed after the checkpoint of step 2 and before its line, with half of another line written.
    (stage.state / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n{"step": 2, "rew')
    folder = stage.state / "global_step_2"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"step": 2, "reward/mean": 0.25}')
    finish(folder)
    assert stage.prepare() == folder
    lines = [json.loads(line) for line in (stage.state / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "reward/mean": 0.5}, {"step": 2, "reward/mean": 0.25}]
    assert [a["after"] for a in stage.attempts()] == [0, 2]
    assert "k = 2 of 4; steps repeated: 0" in capsys.readouterr().err


def test_prune_keeps_the_checkpoint_to_go_back_to(tmp_path):
    for step in (1, 5, 6, 9, 10):
        _write(tmp_path, step)
    _write(tmp_path, 7, whole=False)
    assert step_of(newest_before(tmp_path, 9)) == 6 and newest_before(tmp_path, 1) is None
    prune(tmp_path, keep=2, before=6)
    assert sorted(step_of(p) for p in tmp_path.iterdir() if is_whole(p)) == [5, 9, 10]
    prune(tmp_path, keep=2, before=10)
    assert sorted(step_of(p) for p in tmp_path.iterdir() if is_whole(p)) == [9, 10]
