"""What belongs to a checkpoint's identity, and what does not."""

from __future__ import annotations

import gc

from qwenlong.core.config import Config
from qwenlong.training.verl_plugin.launch import Stage


def key(tmp_path, **training):
    for name in ("samples", "documents", "model"):
        (tmp_path / name).write_text(name)
    config = Config.model_validate({"run": {"results": str(tmp_path / "results")}, "training": training})
    paths = {name: tmp_path / name for name in ("samples", "documents", "model")}
    stage = Stage("rl_1", config, config.stage("rl_1"), out=tmp_path / "out", **paths)
    marker = stage.state / "marker"
    marker.touch()
    found = stage.key
    del stage
    gc.collect()
    return found, marker


def test_bounds_of_early_stopping_keep_a_stages_checkpoints(tmp_path):
    first, marker = key(tmp_path)
    for divergence in ({"patience": 50}, {"reward_share": None}, None):
        assert key(tmp_path, divergence=divergence)[0] == first
    # Nor does how often it is saved, which one learns while it runs.
    assert key(tmp_path, save_every=1)[0] == first
    assert marker.is_file()
    others = {key(tmp_path, **{name: value})[0] for name, value in {"loss": "dapo", "truncated": "drop"}.items()}
    assert len(others) == 2 and first not in others
    # Settings that change what is trained begin anew: the old checkpoints are gone, as the stop's message says.
    assert not marker.exists()
