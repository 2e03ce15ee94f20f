"""Checkpoints are whole or ignored."""

from __future__ import annotations

import json

from qwenlong.training.verl_plugin.checkpoint import finish, is_whole, latest, prune, step_of


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
