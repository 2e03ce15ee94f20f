"""The launcher where there is no Slurm: head and worker on one machine, each with ports and folder of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlong.core.network import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
QWENLONG = [sys.executable, "-m", "qwenlong"]
COUNTING = Path(__file__).parent / "counting.py"


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"run: {{name: local, results: {tmp_path}/results}}\n"
        "engine: {nodes: 2, object_store_mb: 80, ray: {start_timeout_seconds: 90}}\n"
    )
    return file


@pytest.fixture
def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))}
    return kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


def agent(config, environment, role, address, log):
    words = [*QWENLONG, "ray", "node", "--config", config, "--head", address, "--role", role, "--until-stdin-ends"]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment
    )


def test_head_and_worker_serve_a_command_and_leave_nothing(config, environment, tmp_path):
    before = set(Path("/tmp").glob("ql-ray-*/holder.lock"))
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    logs = {role: tmp_path / f"{role}.log" for role in ("head", "worker")}
    agents = [agent(config, environment, role, address, log) for role, log in logs.items()]
    try:
        words = [*QWENLONG, "ray", "run", "--config", config, "--", sys.executable, COUNTING]
        given = environment | {"RAY_ADDRESS": address}
        done = subprocess.run(words, capture_output=True, text=True, env=given, timeout=240)
    finally:
        for process in agents:
            process.stdin.close()
        codes = [process.wait(60) for process in agents]
    said = "".join(log.read_text() for log in logs.values())
    assert done.returncode == 0, done.stdout + done.stderr + said
    line = next(line for line in done.stdout.splitlines() if line.startswith("seen "))
    assert len(set(line.split()[1:])) == 2  # two machines by their folders, though by one name
    assert codes == [0, 0], said
    assert set(Path("/tmp").glob("ql-ray-*/holder.lock")) <= before


def test_outside_of_a_job_two_machines_are_refused(config, environment):
    words = [*QWENLONG, "ray", "run", "--config", config, "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "SLURM_JOB_ID is not set" in done.stderr and "RAY_ADDRESS" in done.stderr


def test_an_address_without_a_ray_is_refused_and_the_command_not_run(config, environment, tmp_path):
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    config.write_text(config.read_text().replace("seconds: 90", "seconds: 5"))
    words = [*QWENLONG, "ray", "run", "--config", config, "--", "touch", tmp_path / "ran"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment | {"RAY_ADDRESS": address})
    assert done.returncode == 1 and f"no Ray at {address}" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_command_that_is_no_program_is_refused_before_anything_is_started(config, environment):
    words = [*QWENLONG, "ray", "run", "--config", config, "--", "no-such-program"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "no program 'no-such-program' in PATH" in done.stderr


def test_one_machine_runs_the_command_in_this_process_and_starts_nothing(tmp_path, environment):
    file = tmp_path / "config.yaml"
    file.write_text(f"run: {{name: one, results: {tmp_path}/results}}\n")
    words = [*QWENLONG, "ray", "run", "--config", file, "--", "bash", "-c", "echo $$; exit 3"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    said, _ = process.communicate(timeout=60)
    assert (int(said), process.returncode) == (process.pid, 3)
