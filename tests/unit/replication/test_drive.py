"""Going through a plan: order, what is complete, shared data, the limit, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from qwenlong.audit.site import efficiency
from qwenlong.core.errors import ConfigError, StorageError
from qwenlong.core.files import read_json, write_json, write_text
from qwenlong.replication import choosing, drive, plan

CONFIG = "run: {name: small, results: results/small, seed: 17, data_seed: 17, grace_seconds: 1}\n"
#: Stands in for Snakemake: writes what a run is asked for.
MAKES = "import sys; from qwenlong.core.files import write_text; write_text(sys.argv[1], '{}')"
#: A command that does not listen, and a child in a session of its own, as Ray's daemons are.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
time.sleep(300)
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[plan.Run]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drive, "_POLL", 0.02)
    monkeypatch.setattr(drive, "_ENDING", 1.0)
    write_text("c.yaml", CONFIG)
    write_text("plan.yaml", "runs: [{name: one, config: c.yaml, seeds: [18, 17], targets: ['{results}/out.json']}]")
    return plan.load("plan.yaml")


def test_a_run_is_a_command_of_the_workflow(runs: list[plan.Run]) -> None:
    words = drive.command(runs[0], 4, shared=False)
    assert words[1:3] == ["-m", "snakemake"] and words[-1] == "results/small/seed_18/out.json"
    assert "run={seed: 18, results: results/small/seed_18}" in words and "c.yaml" in words
    assert drive.command(runs[0], 4, shared=True)[-1] == "results/small/seed_17/bins/bins.json"
    assert "run={seed: 17, results: results/small/seed_17}" in drive.command(runs[0], 4, shared=True)


def test_shared_data_come_first_and_what_is_complete_is_skipped(
    runs: list[plan.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def command(run: plan.Run, cores: int, shared: bool) -> list[str]:
        target = str(run.data / "bins/bins.json") if shared else run.targets[0]
        asked.append(target)
        return [sys.executable, "-c", MAKES, target]

    monkeypatch.setattr(drive, "command", command)
    outcomes = drive.drive(runs, seconds=60, cores=2, least=0.1)
    assert {o.name: o.state for o in outcomes} == {"one-18": "complete", "one-17": "complete"}
    begun = list(dict.fromkeys(asked))
    assert begun == [f"results/small/seed_{n}" for n in ("17/bins/bins.json", "18/out.json", "17/out.json")]
    assert Path("results/small/seed_18/bins/bins.json").is_file()
    asked.clear()
    assert {o.state for o in drive.drive(runs, seconds=60, cores=2)} == {"complete"} and not asked
    attempts = _attempts()
    assert len(attempts) == 3
    assert [a["shared_data"] for a in attempts].count(True) == 1 and all(a["code"] == 0 for a in attempts)


def test_a_run_that_fails_does_not_hold_up_the_next(runs: list[plan.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    write_json("results/small/seed_17/bins/bins.json", {})
    codes = {"one-18": 1, "one-17": 0}
    monkeypatch.setattr(
        drive, "command", lambda run, cores, shared: [sys.executable, "-c", f"raise SystemExit({codes[run.name]})"]
    )
    outcomes = drive.drive(runs, seconds=60, cores=2, least=0.1)
    assert {o.name: o.state for o in outcomes} == {"one-18": "failed", "one-17": "complete"}
    said = {o.name: o.said() for o in outcomes}
    assert said["one-18"].endswith("s: results/small/seed_18/logs/replicate-one-18.log")
    assert said["one-17"].startswith("one-17: complete, ") and "logs" not in said["one-17"]
    assert [run.complete() for run in runs] == [False, True]


def test_the_limit_holds_and_nothing_is_left_running(runs: list[plan.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    write_json("results/small/seed_17/bins/bins.json", {})
    monkeypatch.setattr(drive, "command", lambda run, cores, shared: [sys.executable, "-c", STUBBORN])
    found: list[psutil.Process] = []
    real = drive._killed

    def killed(one: drive.Active) -> drive.Outcome:
        found.extend([psutil.Process(one.process.pid), *one.seen.values()])
        return real(one)

    monkeypatch.setattr(drive, "_killed", killed)
    began = time.monotonic()
    outcomes = drive.drive(runs, seconds=5, cores=2, at_once=1, least=0.1)
    assert time.monotonic() - began < 20
    assert {o.name: o.state for o in outcomes} == {"one-18": "stopped", "one-17": "waiting"}
    assert len(found) == 2
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in found)


def _attempts() -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(Path("results/small").rglob("attempts/*.json"))]


def test_an_attempt_is_recorded_while_it_runs_and_has_one_record(
    runs: list[plan.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json("results/small/seed_17/bins/bins.json", {})
    monkeypatch.setattr(drive, "_RECORDED", 0.05)
    waits = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)"
    monkeypatch.setattr(drive, "command", lambda run, cores, shared: [sys.executable, "-c", waits])
    seen: list[dict[str, Any]] = []

    def told() -> bool:
        now = _attempts()
        if now and now[0]["seconds"] >= 0.2 and not seen:
            # What is packed now takes the record along.
            assert any(file.parent.name == "attempts" for file in choosing.records(runs[1].results, 0))
            write_text("go", "")
            seen.extend(now)
        return False

    drive.drive(runs[1:], seconds=60, cores=2, least=0.1, told=told)
    (before,), (after,) = seen, _attempts()
    assert before["state"] == "under way" and "ended" not in before and "code" not in before
    assert after["state"] == "complete" and after["code"] == 0 and after["seconds"] >= before["seconds"]
    same = ("run", "began", "environment", "command", "shared_data")
    assert all(before[key] == after[key] for key in same)
    moments = [datetime.fromisoformat(one) for one in (before["began"], before["seen"], after["ended"], after["seen"])]
    assert moments == sorted(moments)
    assert read_json(runs[1].mark)["ended"] == after["ended"]


def test_what_a_killed_driver_leaves_is_under_way_and_its_time_counts(runs: list[plan.Run]) -> None:
    write_json("results/small/seed_17/bins/bins.json", {})
    # One of an earlier version, which wrote its record at the end.
    folder = runs[1].results / plan.FOLDER / "attempts"
    write_json(folder / "one-17-2026-01-02T030405+0000.json", {"run": "one-17", "state": "stopped", "seconds": 60.0})
    script = """
import sys
from qwenlong.replication import drive, plan
drive._POLL, drive._RECORDED = 0.02, 0.05
drive.command = lambda run, cores, shared: [sys.executable, "-c", "import time; time.sleep(300)"]
drive.drive(plan.load("plan.yaml")[1:], seconds=300, cores=2, least=0.1)
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    below: list[psutil.Process] = []
    try:
        end = time.monotonic() + 60
        while not any(one["state"] == "under way" and one["seconds"] >= 0.2 for one in _attempts()):
            assert time.monotonic() < end and driver.poll() is None
            time.sleep(0.05)
        below = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
    earlier, killed = sorted(_attempts(), key=lambda one: one.get("began", ""))
    assert killed["state"] == "under way" and "ended" not in killed and not runs[1].complete()
    (held,) = efficiency.held([SimpleNamespace(name="small", folder=runs[1].results)])  # type: ignore[list-item]
    assert (held.part, held.attempts, held.complete) == ("one-17", 2, False)
    assert held.minutes == pytest.approx((earlier["seconds"] + killed["seconds"]) / 60)

    write_json(folder / "one-17-later.json", {"run": "one-17", "state": "complete", "seconds": 6.0, "began": "x"})
    (held,) = efficiency.held([SimpleNamespace(name="small", folder=runs[1].results)])  # type: ignore[list-item]
    assert (held.attempts, held.complete) == (3, True)
    assert held.minutes == pytest.approx((66 + killed["seconds"]) / 60)


def _active(run: plan.Run, stamp: datetime) -> drive.Active:
    process = SimpleNamespace(pid=0, returncode=0)
    return drive.Active(run, process, None, time.monotonic(), False, "0a1b", stamp)  # type: ignore[arg-type]


def test_tries_of_one_second_have_records_of_their_own(runs: list[plan.Run]) -> None:
    for microsecond in (0, 1):
        _active(runs[0], datetime(2026, 1, 2, 3, 4, 5, microsecond, UTC)).record("under way")
    assert [one["began"] for one in _attempts()] == ["2026-01-02T03:04:05+00:00"] * 2


def test_a_record_that_cannot_be_written_ends_no_run(
    runs: list[plan.Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, value: Any) -> None:
        raise StorageError(f"{path}: the disk is full")

    monkeypatch.setattr(drive, "write_json", full)
    assert _active(runs[0], datetime.now(UTC)).record("under way") >= 0
    assert "the disk is full" in caplog.text


def test_two_runs_at_a_time_never_share_a_folder(runs: list[plan.Run]) -> None:
    write_json("results/small/seed_17/bins/bins.json", {})
    again = plan.Run("two-18", "c.yaml", 18, runs[0].results, ("evaluate",), runs[0].config)
    assert [run.name for run in drive._next([runs[0], again, runs[1]], [], 3)] == ["one-18", "one-17"]


def test_a_plan_with_a_fault_is_refused(runs: list[plan.Run]) -> None:
    write_text("bad.yaml", "runs: [{name: one, config: c.yaml, seed: [1], targets: [all]}]")
    with pytest.raises(ConfigError, match="seed"):
        plan.load("bad.yaml")
    twice = "{name: one, config: c.yaml, targets: [all]}"
    write_text("bad.yaml", f"runs: [{twice}, {twice}]")
    with pytest.raises(ConfigError, match="twice"):
        plan.load("bad.yaml")


@pytest.mark.parametrize("file", ["h200", "cpu"])
def test_a_shipped_plan_asks_for_what_its_configurations_have(
    root: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(root)
    planned = plan.load(f"configs/plans/{file}.yaml")
    assert len({run.name for run in planned}) == len(planned)
    for run in planned:
        rows = {row.name for row in run.config.ablations.rows if not isinstance(row, str)}
        for target in run.targets:
            assert target == "evaluate" or Path(target).parts[4] in rows
        # Seeds share their data; stages, whose seed is the run's, do not.
        assert run.data == Path(run.config.run.results).parent / "seed_17"
    assert planned[0].name == {"h200": "nano_stages-17", "cpu": "cpu_stages-17"}[file]
