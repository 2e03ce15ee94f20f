"""MLflow on a real SQLite store: true final status, whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from qwenlong.core import processes, tracking, tracking_store
from qwenlong.core.config import Config
from qwenlong.core.config_files import digest, dump
from qwenlong.core.errors import DataError, QwenlongError


@pytest.fixture(autouse=True)
def _no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processes.VARIABLE, "")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """One store for the module: making its tables takes a second."""
    return make(tmp_path_factory.mktemp("results"))


def make(results: Path, **values: Any) -> Config:
    return Config.model_validate({"run": {"name": "tiny", "results": str(results)}} | values)


def client(config: Config) -> MlflowClient:
    return MlflowClient(tracking.store_uri(config))


def get(config: Config, run_id: str) -> MlflowRun:
    return client(config).get_run(run_id)


def all_runs(config: Config) -> list[MlflowRun]:
    found = client(config).get_experiment_by_name(config.run.name)
    assert found is not None
    return list(client(config).search_runs([found.experiment_id]))


def test_stage_holds_params_metrics_tags_and_artifacts(config: Config, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    params = {
        "rate": 1e-6,
        "nested": {"n_tokens": 5, "api_key": "hunter2"},
        "url": "http://u:pw@h/x",
        "long": "x" * 900,
    }
    params |= {f"p{i}": i for i in range(250)}
    with tracking.stage(config, "rl_1", params) as run:
        assert tracking.active_run_id() == run.run_id
        for step in (1, 2):
            run.log_metrics({"reward": step / 2, "loss": float("nan")}, step=step)
        run.set_tags({"note": "x", "hf_token": "hunter2"})
        run.log_artifact(tmp_path / "note.txt")
        run.log_artifact(tmp_path)
        with pytest.raises(DataError, match="missing does not exist"):
            run.log_artifact(tmp_path / "missing")
        assert get(config, run.run_id).info.status == "RUNNING"
    assert tracking.active_run_id() is None
    found = get(config, run.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "rl_1"
    assert found.data.params["nested.n_tokens"] == "5" and found.data.params["rate"] == "1e-06"
    assert found.data.params["p249"] == "249" and len(found.data.params["long"]) == 500
    assert "hunter2" not in json.dumps(found.to_dictionary()) and "pw@" not in json.dumps(found.to_dictionary())
    assert found.data.tags["qwenlong.config"] == digest(config) and found.data.tags["qwenlong.seed"] == "17"
    history = client(config).get_metric_history(run.run_id, "reward")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 1.0)]
    root = Path(config.run.results) / "mlartifacts" / run.run_id
    assert (root / "artifacts" / "note.txt").read_text() == "hello"
    assert run.uri == tracking.store_uri(config)
    assert not Path("mlruns").exists()


def test_a_table_is_stored_as_mlflow_shows_it_without_secrets(config: Config) -> None:
    tracking.log_table({"a": [1]}, "nowhere.json")  # no run is open
    with tracking.stage(config, "rl_1") as run:
        tracking.log_table({"step": [5, 5], "response": ["plain", "the key is sk-abcdefgh12345678"]}, "rollouts/5.json")
    file = Path(config.run.results) / "mlartifacts" / run.run_id / "artifacts/rollouts/5.json"
    table = json.loads(file.read_text())
    assert table["columns"] == ["step", "response"] and table["data"][0] == [5, "plain"] and len(table["data"]) == 2
    assert "sk-abcdefgh12345678" not in file.read_text()
    assert "rollouts/5.json" in get(config, run.run_id).data.tags["mlflow.loggedArtifacts"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad sk-abcdefgh12345678"), "FAILED"),
        (KeyboardInterrupt(), "FAILED"),
        (SystemExit(3), "FAILED"),
        (SystemExit("message"), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(), "FINISHED"),
    ],
)
def test_status_is_true_whatever_ends_the_stage(config: Config, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), tracking.stage(config, "rl_2", {}) as run:
        raise error
    found = get(config, run.run_id)
    assert found.info.status == status and found.info.end_time is not None
    if isinstance(error, ValueError):
        assert found.data.tags["qwenlong.error"] == "ValueError: bad <redacted>"


def test_a_trainers_logger_that_ends_the_run_later_does_not_call_it_finished(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.store_uri(config))
    with pytest.raises(SystemExit), tracking.stage(config, "rl_2", {}) as run:
        mlflow.start_run(run_id=run.run_id)
        raise SystemExit(143)
    # What verl's logger does when it is thrown away, and MLflow itself when the process ends.
    mlflow.end_run()
    assert get(config, run.run_id).info.status == "FAILED"


STAGE = """
import sys, time
from pathlib import Path
from qwenlong.core import config_files, tracking

config = config_files.load(sys.argv[1])
with tracking.stage(config, sys.argv[2], {"n": 1}) as run:
    print(run.run_id, flush=True)
    run.log_metrics({"x": 1.0}, step=1)
    time.sleep(float(sys.argv[3]))
"""
PIPELINE = """
import sys, time
from qwenlong.core import config_files, tracking

print(tracking.begin_pipeline(config_files.load(sys.argv[1])), flush=True)
time.sleep(300)
"""


def _hear_interrupts() -> None:
    """Undo what shells do to background jobs, and children inherit: SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin(code: str, config: Config, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    file = Path(config.run.results) / "config.yaml"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dump(config))
    environment = {k: v for k, v in os.environ.items() if k != processes.VARIABLE} | (env or {})
    return subprocess.Popen(
        [sys.executable, "-c", code, str(file), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=_hear_interrupts,
    )


def read_id(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_signals_end_a_stage_as_failed(config: Config, number: int, code: int) -> None:
    process = begin(STAGE, config, "rl_3", "300")
    run_id = read_id(process)
    process.send_signal(number)
    assert process.wait(30) == code
    assert get(config, run_id).info.status == "FAILED"


def test_a_killed_pipeline_and_its_child_are_buried_by_the_next(tmp_path: Path) -> None:
    config = make(tmp_path)
    pipeline = begin(PIPELINE, config)
    parent = read_id(pipeline)
    owner = processes.Identity.of(pipeline.pid)
    assert owner is not None
    mark = {processes.VARIABLE: processes.mark(config.run.results, owner)}
    dies = begin(STAGE, config, "rl_2", "300", env=mark)
    lives = begin(STAGE, config, "rl_1", "300", env=mark)
    dead_child, living_child = read_id(dies), read_id(lives)
    assert get(config, dead_child).data.tags["mlflow.parentRunId"] == parent
    for process in (dies, pipeline):
        process.kill()
        process.wait()
    assert {get(config, r).info.status for r in (parent, dead_child)} == {"RUNNING"}  # as MLflow has it

    again = tracking.begin_pipeline(config)
    for run_id in (parent, dead_child):
        found = get(config, run_id)
        assert found.info.status == "FAILED" and found.data.tags["qwenlong.died"] == "true"
    found = get(config, living_child)
    assert found.info.status == "RUNNING" and "qwenlong.died" not in found.data.tags
    lives.terminate()
    assert lives.wait(30) == 143 and get(config, living_child).info.status == "FAILED"

    with tracking.stage(config, "rl_2", {}) as run:
        assert get(config, run.run_id).data.tags["mlflow.parentRunId"] == again
    tracking.end_pipeline(config, "FINISHED")
    assert get(config, again).info.status == "FINISHED"
    assert not (tmp_path / "state" / "mlflow_parent.json").exists()
    with tracking.stage(config, "rl_3", {}) as run:  # by hand, after the pipeline
        assert "mlflow.parentRunId" not in get(config, run.run_id).data.tags


def test_pipeline_holds_the_configuration(tmp_path: Path) -> None:
    config = make(tmp_path, llm={"reward_judge": {"base_url": "http://me:hunter2@h/v1", "model": "m"}})
    run_id = tracking.begin_pipeline(config)
    assert json.loads((tmp_path / "state" / "mlflow_parent.json").read_text())["run_id"] == run_id
    found = get(config, run_id)
    assert found.data.params["run.seed"] == "17"
    assert found.data.params["base.scratch.layers"] == str(config.base.scratch.layers)
    text = (tmp_path / "mlartifacts" / run_id / "artifacts" / "config.yaml").read_text()
    assert f"hidden_size: {config.base.scratch.hidden_size}" in text and "hunter2" not in text + json.dumps(
        found.to_dictionary()
    )
    tracking.end_pipeline(config, "FAILED")
    assert get(config, run_id).info.status == "FAILED"
    tracking.end_pipeline(config, "FINISHED")  # nothing under way: nothing to end
    assert get(config, run_id).info.status == "FAILED"
    with pytest.raises(QwenlongError, match="'DONE' is unknown; use FINISHED or FAILED"):
        tracking.end_pipeline(config, "DONE")


def test_a_parent_that_is_gone_or_unreadable_is_no_parent(config: Config) -> None:
    file = Path(config.run.results) / "state" / "mlflow_parent.json"
    for text in ("{", "[]", '{"run_id": "' + "0" * 32 + '"}'):
        file.write_text(text)
        with tracking.stage(config, "rl_1", {}) as run:
            assert "mlflow.parentRunId" not in get(config, run.run_id).data.tags
    file.unlink()


def test_several_processes_make_and_use_a_fresh_store_at_once(tmp_path: Path) -> None:
    config = make(tmp_path)
    started = [begin(STAGE, config, f"stage{i}", "0") for i in range(3)]
    ids = {read_id(p) for p in started}
    assert [p.wait(120) for p in started] == [0, 0, 0]
    runs = all_runs(config)
    assert {r.info.run_id for r in runs} == ids and len(ids) == 3
    assert {r.info.status for r in runs} == {"FINISHED"} and all(r.data.metrics == {"x": 1.0} for r in runs)


def test_a_locked_database_is_waited_for(config: Config) -> None:
    file = Path(config.run.results) / "mlflow.db"
    with tracking.stage(config, "rl_1", {}) as run:
        connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(1.0, lambda: connection.execute("ROLLBACK"))
        timer.start()
        began = time.monotonic()
        run.log_metrics({"x": 2.0}, step=1)
        assert time.monotonic() - began >= 0.9
        timer.join()
        connection.close()
    assert get(config, run.run_id).data.metrics["x"] == 2.0


def test_retry_gives_other_errors_at_once_and_locked_ones_another_try() -> None:
    calls = []

    def locked_once() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("(sqlite3.OperationalError) database is locked")
        return "done"

    assert tracking_store.retry(locked_once) == "done" and len(calls) == 2
    with pytest.raises(ZeroDivisionError):
        tracking_store.retry(lambda: 1 // 0)


def test_a_store_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    config = make(tmp_path, tracking={"uri": "sqlite:////proc/no/such/place.db?password=hunter2hunter2"})
    with pytest.raises(QwenlongError, match="does not answer.*mend tracking.uri, or set tracking.enabled") as caught:
        tracking.begin_pipeline(config)
    assert "hunter2" not in str(caught.value)


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    config = make(tmp_path / "r", tracking={"enabled": False})
    assert tracking.begin_pipeline(config) == ""
    with tracking.stage(config, "rl_1", {"a": 1}) as run:
        run.log_metrics({"x": 1.0})
        run.set_tags({"a": "b"})
        assert (run.run_id, run.uri) == ("", "")
    tracking.end_pipeline(config, "FINISHED")
    assert not (tmp_path / "r").exists()


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, qwenlong.core.tracking; print('mlflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
