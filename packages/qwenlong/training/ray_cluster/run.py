"""A command with Ray on all machines of the job around it: started, checked, ended, whatever happens."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from qwenlong.core.config import Config, EngineConfig
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.network import free_port, own_address, own_addresses
from qwenlong.core.processes import terminate_as_exit
from qwenlong.training.ray_cluster import allocation, arguments
from qwenlong.training.ray_cluster.node import cores, temp_folder

#: Seconds that the command and the machines have to end by themselves.
GRACE = 60.0
QWENLONG = [sys.executable, "-m", "qwenlong"]


def run(config: Config, file: Path, command: Sequence[str]) -> int:
    """Run `command` with RAY_ADDRESS set to a Ray on engine.nodes machines; return its exit code.

    One machine: nothing is started, training starts its own Ray. RAY_ADDRESS set: that Ray is checked and left alone.
    Raises QwenlongError when a machine is missing, late or unfit, or Ray ends before the command does.
    """
    engine = config.engine
    if shutil.which(command[0]) is None:
        raise UsageError(f"no program {command[0]!r} in PATH; give the command and its arguments after --")
    if engine.nodes == 1:
        os.execvp(command[0], list(command))
    check = [*QWENLONG, "ray", "check", "--config", str(file), "--address"]
    if address := os.environ.get("RAY_ADDRESS"):
        return subprocess.run([*check, address, "--", *command]).returncode
    job = allocation.current(engine.nodes)
    head = _head_address(engine)
    port = free_port(head, engine.ray.port)
    address = f"{head}:{port}"
    os.environ["QWENLONG_RAY_NODES"] = ",".join(job.nodes)
    # Whoever reaches the port of a Ray without a token runs code as this user.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    print(f"Ray at {address} on {', '.join(job.nodes)} (Slurm job {job.job})", file=sys.stderr, flush=True)
    if engine.ray.launcher == "symmetric":
        return _symmetric(engine, job, head, port, [*check, address, "--", *command])
    agent = [*QWENLONG, "ray", "node", "--config", str(file), "--head", address, "--until-stdin-ends"]
    with terminate_as_exit(), _machines(arguments.srun(job.nodes, agent)) as machines:
        # The check says itself what is wrong.
        return _beside(machines, [*check, address], address, 1) or _beside(machines, list(command), address, 30)


def _head_address(engine: EngineConfig) -> str:
    if engine.ray.interface is not None:
        return own_address(engine.ray.interface, "")
    # Where the route to the outside begins; a machine without one is known by its name.
    with contextlib.suppress(QwenlongError):
        return own_address(None, "192.0.2.1")
    others = [a for found in own_addresses().values() for a in found if not a.startswith("127.")]
    if not others:
        raise QwenlongError("this machine has no address but the loopback's; set engine.ray.interface")
    return others[0]


@contextlib.contextmanager
def _machines(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the job step that holds all machines' Ray. It ends when its stdin does, so after SIGKILL here too."""
    environment = allocation.for_step(os.environ)
    step = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=sys.stderr, start_new_session=True, env=environment)
    try:
        yield step
    finally:
        assert step.stdin is not None
        with contextlib.suppress(OSError):
            step.stdin.close()
        try:
            step.wait(GRACE)
        except subprocess.TimeoutExpired:
            print("Ray's job step does not end: killed", file=sys.stderr)
            # Twice: srun asks back at the first.
            for _ in range(2):
                os.killpg(step.pid, signal.SIGTERM)
                time.sleep(1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                step.wait(GRACE)
            step.kill()


def _beside(machines: subprocess.Popen[bytes], words: list[str], address: str, patience: float) -> int:
    """Run a command while the machines run; return its code.

    Raises QwenlongError when Ray ends first, after `patience` seconds in which the command may say more.
    """
    process = subprocess.Popen(words, env={**os.environ, "RAY_ADDRESS": address})
    try:
        while process.poll() is None:
            if machines.poll() is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                raise QwenlongError(
                    f"Ray on the machines ended ({machines.returncode}) before the command did; its last words stand "
                    "above; run the same command again"
                )
            time.sleep(0.2)
    finally:
        _end(process)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _symmetric(engine: EngineConfig, job: allocation.Allocation, head: str, port: int, command: list[str]) -> int:
    folder = temp_folder(engine.ray.temp_dir) / f"ql-ray-{job.job}"
    words = arguments.symmetric(engine, head=head, port=port, cpus=max(8, cores()), temp_dir=folder, command=command)
    variables = {
        **allocation.for_step(os.environ),
        **engine.ray.variables(),
        # It counts the machines of the Ray that it finds, and finds none in a folder that is not Ray's default.
        "RAY_ADDRESS": f"{head}:{port}",
        "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": str(engine.ray.start_timeout_seconds),
    }
    with terminate_as_exit():
        process = subprocess.Popen(arguments.srun(job.nodes, words), stdin=subprocess.DEVNULL, env=variables)
        try:
            return process.wait()
        finally:
            _end(process)
