"""Texts of rollouts in MLflow, and what happens where MLflow cannot take them; modules that the environment names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenlong.core import processes, tracking
from qwenlong.core.config import Config
from qwenlong.training import rollout_log
from qwenlong.training.rollout_log import Record
from qwenlong.training.verl_plugin import launch
from qwenlong.training.verl_plugin.recording import Recorder


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setenv(processes.VARIABLE, "")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    rows = [
        Record(
            step=3, uid="s3p0i4", sample="doc-4", task="doc_multi_hop", rollout=r, turn=0, n_prompt_tokens=370,
            n_response_tokens=3, truncated=False, reward=float(r), dropped=False, judged=False, advantage=None,
            entropy=0.25, masked=False, masked_tokens=0, sha256="", token_ids=[1], text="long " * 1000,
        )
        for r in range(2)
    ]  # fmt: skip
    rollout_log.write_step(tmp_path / "state", 3, rows)
    return Recorder(tmp_path / "state", 4, "none")


def test_a_checkpoints_texts_are_a_table_of_the_run(recorder: Recorder, tmp_path: Path) -> None:
    config = Config.model_validate({"run": {"name": "t", "results": str(tmp_path / "results")}})
    with tracking.stage(config, "rl_1") as run:
        recorder.publish(3)
    file = tmp_path / "results/mlartifacts" / run.run_id / "artifacts/rollouts/step_000003.json"
    table = json.loads(file.read_text())
    assert len(table["data"]) == 2 and "token_ids" not in table["columns"]
    assert all(len(row[table["columns"].index("response")]) < 2100 for row in table["data"])


def test_mlflow_that_takes_nothing_stops_nothing(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config.model_validate({"run": {"name": "t", "results": str(tmp_path / "results")}})
    with tracking.stage(config, "rl_1"):
        # A file stands where artifacts would go.
        (tmp_path / "results/mlartifacts").write_text("")
        recorder.publish(3)
    assert "rollouts of step 3 are not in MLflow" in capsys.readouterr().err
    recorder.publish(4)  # no such file
    assert "rollouts of step 4 are not in MLflow" in capsys.readouterr().err


def test_modules_of_the_environment_are_loaded_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    ours = f"{launch.CPU_PLATFORM},{launch.MODULES}"
    monkeypatch.delenv("VERL_USE_EXTERNAL_MODULES", raising=False)
    assert launch.environment(config)["VERL_USE_EXTERNAL_MODULES"] == ours
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", f" mine, ,{ours},other")
    assert launch.environment(config)["VERL_USE_EXTERNAL_MODULES"] == f"{ours},mine,other"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    for name in ("samples", "documents", "model"):
        (tmp_path / name).write_text(name)
    config = Config.model_validate({"run": {"name": "t", "results": str(tmp_path / "results")}})
    inputs = {name: tmp_path / name for name in ("samples", "documents", "model")}
    stage = launch.Stage("rl_1", config, config.stage("rl_1"), **inputs, out=tmp_path / "policy")
    left = stage.state / "rollouts/.step_000001.parquet.0a1b2c3d.partial"
    left.parent.mkdir()
    left.write_bytes(b"PAR1")
    (left.parent / "step_000001.parquet").write_bytes(b"whole")
    assert stage.prepare() is None
    assert [file.name for file in left.parent.iterdir()] == ["step_000001.parquet"]
