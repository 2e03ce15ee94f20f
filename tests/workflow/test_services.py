"""Leases in Snakemake: a service answers before the job that needs it, ends after the last, and ties no jobs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests/unit/serving/replica_server.py"
SNAKEFILE = """
from qwenlong.core import config_files, processes
RUN = config_files.load("c.yaml")
R = RUN.run.results
need, code_digest = lambda kind: {{}}, lambda *names: ""
processes.protect(workflow, R)
shell.prefix("set -euo pipefail; export QWENLONG_CONFIG=c.yaml; ")

rule all:
    input: "b.txt"

include: "{root}/workflow/rules/services.smk"

rule a:
    input: services=ancient(f"{{R}}/state/services/little/leases/a.job.json")
    output: "a.txt"
    shell: "{python} ask.py > {{output}}"

rule b:
    input: "a.txt", services=ancient(f"{{R}}/state/services/little/leases/b.job.json")
    output: "b.txt"
    shell: "{python} ask.py > {{output}}"
"""
ASK = """
import pathlib
from qwenlong.core.llm.places import locate
import httpx
place = locate(pathlib.Path("results/state/services/little"))
print(httpx.get(place.url + "/models", headers={"Authorization": "Bearer " + place.key}).json()["data"])
"""


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events").read_text().splitlines()]


def test_leases(tmp_path: Path, snakemake: Callable[..., Any]) -> None:
    service = {
        "model": "little",
        "command": [sys.executable, str(SERVER), "{port}", str(tmp_path)],
        "linger_seconds": 3,
    }
    values = {"run": {"results": "results"}, "tracking": {"enabled": False}, "services": {"little": service}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "ask.py").write_text(ASK)
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=ROOT, python=sys.executable))
    environment = {"PYTHONPATH": str(ROOT / "packages"), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = snakemake("--cores", "2", cwd=tmp_path, env=environment)
    assert "little" in (tmp_path / "a.txt").read_text() and "little" in (tmp_path / "b.txt").read_text()
    assert "Removing temporary output" in done.stdout + done.stderr
    leases = tmp_path / "results/state/services/little/leases"
    assert not list(leases.glob("*.json"))
    file = tmp_path / "results/state/services/little/service.json"
    end = time.monotonic() + 60
    while file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not file.exists(), "the service ended with its last lease"
    assert sum("start" in event for event in _events(tmp_path)) == 1, "both jobs shared it"
    # Nothing to do asks for no service; what is rerun takes its own lease and reruns no other job.
    assert "Nothing to be done" in str(snakemake("-n", cwd=tmp_path, env=environment))
    (tmp_path / "b.txt").unlink()
    stamp = (tmp_path / "a.txt").stat().st_mtime_ns
    snakemake("--cores", "2", cwd=tmp_path, env=environment)
    assert (tmp_path / "b.txt").exists() and (tmp_path / "a.txt").stat().st_mtime_ns == stamp
