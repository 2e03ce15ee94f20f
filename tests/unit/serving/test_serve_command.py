"""`qwenlong serve` as a process: around a command, told to end, killed, orphaned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from little import SERVER, events

ROOT = Path(__file__).resolve().parents[3]


def _config(folder: Path, **more: Any) -> Path:
    service = {
        "model": "/models/little", "replicas": 2, "linger_seconds": 0.2,
        "command": [sys.executable, str(SERVER), "{port}", str(folder)], **more,
    }  # fmt: skip
    file = folder / "c.yaml"
    run = {"name": "t", "results": str(folder / "results")}
    file.write_text(yaml.safe_dump({"run": run, "services": {"little": service}}))
    return file


def _line(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "qwenlong", "serve", "little", "--config", str(config), *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "packages")}


def _until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _gone(folder: Path) -> bool:
    pids = {pid for e in events(folder) if "start" in e for pid in (e["pid"], e["parent"])}
    pids |= {e["daemon"] for e in events(folder) if "daemon" in e}
    return bool(pids) and not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids
    )


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "orphan"])
def test_nothing_is_left(tmp_path: Path, how: str) -> None:
    """Told to end, killed, or left by the shell that started it: servers, keepers and daemons end."""
    config = _config(tmp_path, environment={"DAEMON": "1"})
    file = tmp_path / "results/state/services/little/service.json"
    command = _line(config)
    if how == "orphan":
        command = ["bash", "-c", '"$@" & wait', "bash", *command]
    process = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: file.exists() or process.poll() is not None)
        found = json.loads(file.read_text())
        assert process.poll() is None and found["pid"] == process.pid or how == "orphan"
        process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        code = process.wait(60)
        assert (code == 0) == (how == "SIGTERM")
        _until(lambda: _gone(tmp_path))
        assert file.exists() == (how == "SIGKILL")
    finally:
        process.kill()


def test_around_a_command(tmp_path: Path) -> None:
    """Two commands share one service; each gets its own exit code; the service ends after the last."""
    config = _config(tmp_path)
    code = (
        "import json,sys,time,pathlib\n"
        "from qwenlong.core.llm.places import locate\n"
        f"import httpx; p = locate(pathlib.Path({str(tmp_path / 'results/state/services/little')!r}))\n"
        "r = httpx.get(p.url + '/models', headers={'Authorization': 'Bearer ' + p.key})\n"
        "time.sleep(float(sys.argv[2]))\n"
        "print(r.status_code); sys.exit(int(sys.argv[1]))"
    )
    both = [
        subprocess.Popen(
            _line(config, "--", sys.executable, "-c", code, str(number), str(number)),
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 3)
    ]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 3], said
    assert [out for out, _ in said] == ["200\n", "200\n"]
    _until(lambda: _gone(tmp_path))
    assert sum("start" in e for e in events(tmp_path)) == 2, "one service of two replicas"
    log = (tmp_path / "results/logs/services/little/service.log").read_text()
    assert "nobody needs it any more" in log


def test_a_consumer_may_come_while_the_service_ends(tmp_path: Path) -> None:
    """The one that was there for others ends, and another is started."""
    config = _config(tmp_path, environment={"STUBBORN": "4"}, linger_seconds=0)
    log = tmp_path / "results/logs/services/little/service.log"
    command = _line(config, "--", "true")
    options: dict[str, Any] = {"env": _environment(), "capture_output": True, "text": True, "timeout": 120}
    assert subprocess.run(command, **options).returncode == 0
    _until(lambda: "nobody needs it any more" in log.read_text())
    again = subprocess.run(command, **options)
    assert again.returncode == 0, again.stderr
    assert sum("start" in e for e in events(tmp_path)) == 4, "two services of two replicas"
    _until(lambda: _gone(tmp_path))


def test_refusals(tmp_path: Path) -> None:
    """A second server of the same name, a server that never starts, and words that do not fit together."""
    config = _config(tmp_path, environment={"BROKEN": "1"}, failures=1)
    done = subprocess.run(_line(config, "--", "true"), env=_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "ended before it was ready" in done.stderr and "replica-0.log" in done.stderr
    both = subprocess.run(
        _line(config, "--leased", "--print"), env=_environment(), capture_output=True, text=True, timeout=60
    )
    assert both.returncode == 2 and "exclude each other" in both.stderr
