"""MLflow on a real PostgreSQL, killed in the middle of a run and started again: everything is there, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenlong.core import processes, tracking, tracking_link, tracking_store
from qwenlong.core.config import Config
from qwenlong.core.config_files import dump
from qwenlong.core.tracking_spool import folders

sys.path.insert(0, str(Path(__file__).parent))

from mlflow_server import PASSWORD, Postgres, Server

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    found = Postgres(tmp_path_factory.mktemp("pg") / "cluster")
    yield found
    found.stop()


@pytest.fixture
def server(postgres: Postgres, tmp_path: Path) -> Iterator[Server]:
    """A server that is down."""
    found = Server(tmp_path / "server", postgres.uri)
    yield found
    found.kill()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processes.VARIABLE, "")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(tracking_link, "PAUSE", 0.0)
    monkeypatch.setattr(tracking_store, "PROBE", 120.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")


def make(results: Path, name: str, **values: object) -> Config:
    return Config.model_validate({"run": {"name": name, "results": str(results)}, "tracking": values})


STAGE = """
import sys, time
from pathlib import Path
from qwenlong.core import config_files, tracking, tracking_store

tracking_store.PROBE = 120.0  # the machine of the test may be busy; a port that nobody has refuses at once
config = config_files.load(sys.argv[1])
folder = Path(sys.argv[2])
with tracking.stage(config, sys.argv[3], {"rate": 0.5, "api_key": "hunter2hunter2"}) as run:
    for step in range(1, 7):
        run.log_metrics({"reward": step / 8, "loss": -step}, step=step)
        tracking.log_table({"step": [step], "response": [f"text {step}"]}, f"rollouts/{step}.json")
        (folder / f"did-{step}").touch()
        while not (folder / f"go-{step}").exists():
            time.sleep(0.05)
    (folder / "note.txt").write_text("kept")
    run.log_artifact(folder / "note.txt")
    (folder / "note.txt").unlink()
    run.set_tags({"note": "done"})
"""


class Stage:
    """A stage in a process of its own, which goes on step by step when it is told."""

    def __init__(self, config: Path, folder: Path, name: str, **environment: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAGE, str(config), str(folder), name],
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )

    def await_step(self, step: int) -> None:
        end = time.monotonic() + 300
        while not (self.folder / f"did-{step}").exists():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def let(self, *steps: int) -> None:
        for step in steps:
            (self.folder / f"go-{step}").touch()

    def finish(self) -> None:
        assert self.process.wait(300) == 0, self.log.read_text()[-3000:]


def metrics(postgres: Postgres, run: str) -> list[tuple[str, int, float]]:
    rows = postgres.rows(f"select key, step, value from metrics where run_uuid = '{run}' order by key, step")
    return [(key, int(step), float(value)) for key, step, value in rows]


def runs(postgres: Postgres, experiment: str) -> list[tuple[str, str, str]]:
    sql = "select run_uuid, r.name, status from runs r join experiments e using (experiment_id)"
    sql += f" where e.name = '{experiment}'"
    return [(run, name, status) for run, name, status in postgres.rows(sql + " order by start_time")]


WHOLE = [("loss", step, -float(step)) for step in range(1, 7)] + [("reward", step, step / 8) for step in range(1, 7)]


def spilled(root: Path) -> list[str]:
    """Files below `root` in which the password stands."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return [str(path) for path in files if PASSWORD.encode() in path.read_bytes()]


def check_stage(postgres: Postgres, server: Server, run: str) -> None:
    assert metrics(postgres, run) == WHOLE
    assert dict(postgres.rows(f"select key, value from params where run_uuid = '{run}'")) == {
        "rate": "0.5", "api_key": "<redacted>",
    }  # fmt: skip
    (folder,) = (server.folder / "artifacts").glob(f"*/{run}/artifacts")
    assert (folder / "note.txt").read_text() == "kept"
    for step in range(1, 7):
        assert json.loads((folder / f"rollouts/{step}.json").read_text())["data"] == [[step, f"text {step}"]]


def test_a_server_that_dies_and_comes_back_within_a_stage_and_after_it(
    postgres: Postgres, server: Server, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    config = make(results, "outage", uri=server.uri)
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    server.start()
    parent = tracking.begin_pipeline(config)
    first = Stage(file, tmp_path / "first", "rl_1")
    first.let(1)
    first.await_step(2)
    server.kill()
    first.let(2, 3)
    first.await_step(4)
    assert len(folders(results)) == 1
    # Not seen before the pause is over; at the latest, at the stage's end.
    server.start()
    first.let(4, 5, 6)
    first.finish()
    assert folders(results) == []

    second = Stage(file, tmp_path / "second", "rl_2")
    second.let(1, 2)
    second.await_step(3)
    server.kill()
    second.let(3, 4, 5, 6)
    second.finish()
    third = Stage(file, tmp_path / "third", "rl_3")  # begins, works and ends without a server
    third.let(*range(1, 7))
    third.finish()
    dies = Stage(file, tmp_path / "dies", "rl_4")  # is killed, too
    dies.await_step(1)
    dies.process.kill()
    dies.process.wait()
    tracking.end_pipeline(config, "FINISHED")
    assert len(folders(results)) == 4  # the pipeline's end is one
    assert "does not answer" in third.log.read_text()

    words = [sys.executable, "-m", "qwenlong", "track"]
    down = subprocess.run([*words, "upload", "--results", str(results)], capture_output=True, text=True)
    assert down.returncode == 1 and "does not answer" in down.stderr and "4 runs still wait" in down.stderr
    shown = subprocess.run([*words, "status", "--results", str(results), "--json"], capture_output=True, text=True)
    assert {run["name"] for run in json.loads(shown.stdout)["waiting"]} == {"outage pipeline", "rl_2", "rl_3", "rl_4"}
    server.start()
    done = subprocess.run([*words, "upload", "--results", str(results), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["runs"]) == 4 and report["refused"] == report["busy"] == 0
    again = subprocess.run([*words, "upload", "--results", str(results), "--json"], capture_output=True, text=True)
    assert json.loads(again.stdout)["entries"] == 0

    found = {name: (run, status) for run, name, status in runs(postgres, "outage")}
    assert {name: status for name, (_, status) in found.items()} == {
        "outage pipeline": "FINISHED", "rl_1": "FINISHED", "rl_2": "FINISHED", "rl_3": "FINISHED", "rl_4": "FAILED",
    }  # fmt: skip
    assert len(runs(postgres, "outage")) == 5 and found["outage pipeline"][0] == parent
    for name in ("rl_1", "rl_2", "rl_3"):
        check_stage(postgres, server, found[name][0])
        sql = f"select value from tags where run_uuid = '{found[name][0]}' and key = 'mlflow.parentRunId'"
        assert postgres.rows(sql) == [[parent]]
    # What began without a server is found by the id that was written beside its outputs.
    offline = next(key for key, run in report["runs"].items() if run == found["rl_3"][0])
    assert offline.startswith("offline-")
    sql = f"select value from tags where run_uuid = '{found['rl_3'][0]}' and key = 'qwenlong.offline_id'"
    assert postgres.rows(sql) == [[offline]]
    assert (results / "state/tracking/ids" / offline).read_text().strip() == found["rl_3"][0]


def test_a_whole_pipeline_without_a_server_is_uploaded_by_the_next(
    postgres: Postgres, server: Server, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    config = make(results, "dark", uri=server.uri)
    parent = tracking.begin_pipeline(config)
    assert parent.startswith("offline-")
    with tracking.stage(config, "corpus", {"n": 1}) as run:
        run.log_metrics({"documents": 3.0})
    assert len(folders(results)) == 2
    server.start()
    with tracking.stage(config, "synthesis", {"n": 2}) as run:  # the pipeline is still under way
        run.log_metrics({"samples": 4.0})
    assert folders(results) == []
    tracking.end_pipeline(config, "FINISHED")
    found = runs(postgres, "dark")
    assert [(name, status) for _, name, status in found] == [
        ("dark pipeline", "FINISHED"), ("corpus", "FINISHED"), ("synthesis", "FINISHED"),
    ]  # fmt: skip
    for run_id, _, _ in found[1:]:
        sql = f"select value from tags where run_uuid = '{run_id}' and key = 'mlflow.parentRunId'"
        assert postgres.rows(sql) == [[found[0][0]]]
    assert metrics(postgres, found[1][0]) == [("documents", 0, 3.0)]


def test_a_database_without_a_server_that_stops_and_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The address has a password, and stands in the environment; it comes into no file."""
    own = Postgres(tmp_path / "cluster")
    results = tmp_path / "results"
    monkeypatch.setenv("MY_STORE", own.uri)
    config = make(results, "direct", uri_env="MY_STORE", artifacts=(tmp_path / "shared").as_uri())
    try:
        with tracking.stage(config, "rl_1", {"n": 1}) as run:
            run.log_metrics({"x": 1.0}, step=1)
            own.stop()
            run.log_metrics({"x": 2.0}, step=2)
            run.set_tags({"address": own.uri})
        assert len(folders(results)) == 1
        own.start()
        with tracking.stage(config, "rl_2", {"n": 2}) as second:
            second.log_table({"a": [1]}, "t.json")
        assert folders(results) == []
        assert metrics(own, run.run_id) == [("x", 1, 1.0), ("x", 2, 2.0)]
        assert list((tmp_path / "shared").glob("**/t.json"))
        assert [(name, status) for _, name, status in runs(own, "direct")] == [
            ("rl_1", "FINISHED"), ("rl_2", "FINISHED"),
        ]  # fmt: skip
    finally:
        own.stop()
    assert spilled(results) == []
    said = capfd.readouterr()
    assert PASSWORD not in said.out + said.err


def test_an_upload_that_is_killed_and_one_that_is_refused(postgres: Postgres, server: Server, tmp_path: Path) -> None:
    results = tmp_path / "results"
    config = make(results, "partly", uri=server.uri)
    with tracking.stage(config, "rl_1", {"n": 1}) as run:
        run.log_metrics({"x": 1.0}, step=1)
        tracking.log_table({"a": [1]}, "t.json")
        run.send({"kind": "params", "values": {"n": "2"}})  # another value of a parameter: never taken
        run.log_metrics({"x": 2.0}, step=2)
    (folder,) = folders(results)
    kept = {name: (folder / name).read_bytes() for name in ("log.jsonl", "head.json")}
    server.start()
    words = [sys.executable, "-m", "qwenlong", "track", "upload", "--results", str(results)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "1 entries were refused" in done.stderr
    refused = [json.loads(line) for line in (results / f"state/tracking/refused/{folder.name}.jsonl").open()]
    assert [line["entry"]["values"] for line in refused] == [{"n": "2"}]
    # As if the process had been killed before it could take note of what it had sent.
    (folder / "files").mkdir(parents=True)
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    subprocess.run(words, capture_output=True, text=True)
    ((run_id, _, status),) = runs(postgres, "partly")
    assert status == "FINISHED" and metrics(postgres, run_id) == [("x", 1, 1.0), ("x", 2, 2.0)]
    (table,) = (server.folder / "artifacts").glob(f"*/{run_id}/artifacts/t.json")
    assert json.loads(table.read_text())["data"] == [[1]]
