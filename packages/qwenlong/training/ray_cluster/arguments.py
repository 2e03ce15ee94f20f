"""Argument lists of srun, `ray start` and `ray symmetric-run`. Pure functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.config import EngineConfig

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def shared(engine: EngineConfig, cpus: int) -> list[str]:
    """Return what `ray start` is told of every machine alike."""
    ports = engine.ray.worker_ports or (0, 0)
    words = [
        f"--num-cpus={cpus}",
        f"--object-store-memory={engine.object_store_mb * 2**20}",
        f"--min-worker-port={ports[0]}",
        f"--max-worker-port={ports[1]}",
        # A fixed port of its own would exclude a second run from the machine.
        "--dashboard-agent-listen-port=0",
        "--disable-usage-stats",
    ]
    # On cuda Ray counts the GPUs that Slurm shows it; on cpu it counts processes.
    if engine.platform == "cpu":
        words.append(f"--num-gpus={engine.gpus_per_node}")
    return words


def start(
    engine: EngineConfig, *, own: str, head: str, port: int, cpus: int, temp_dir: Path, client_port: int | None
) -> list[str]:
    """Return the command that runs one machine's Ray in the foreground; `own` and `head` are addresses.

    `client_port` is the head's, none for other machines: a free port for Ray's client protocol, which cannot be turned
    off and takes one port for all runs by default.
    """
    if client_port is not None:
        where = ["--head", f"--port={port}", "--include-dashboard=false", f"--ray-client-server-port={client_port}"]
    else:
        where = [f"--address={head}:{port}"]
    place = [f"--node-ip-address={own}", f"--temp-dir={temp_dir}", "--block"]
    return [*RAY, "start", *where, *place, *shared(engine, cpus)]


def symmetric(
    engine: EngineConfig, *, head: str, port: int, cpus: int, temp_dir: Path, command: Sequence[str]
) -> list[str]:
    """Return the `ray symmetric-run` that every machine runs; `command` runs on the first alone."""
    options = [f"--address={head}:{port}", f"--min-nodes={engine.nodes}", f"--temp-dir={temp_dir}"]
    return [*RAY, "symmetric-run", *options, *shared(engine, cpus), "--", *command]


def srun(nodes: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return the job step that runs `command` once on each of `nodes`, beside the step that asks for it."""
    count = len(nodes)
    return [
        "srun",
        # Resources of the step that calls are lent to this one; otherwise it would wait for that one's end.
        "--overlap",
        f"--nodes={count}",
        f"--ntasks={count}",
        "--ntasks-per-node=1",
        f"--nodelist={','.join(nodes)}",
        "--cpu-bind=none",
        "--kill-on-bad-exit=1",
        # The others may still be clearing up when the first has ended.
        "--wait=60",
        "--export=ALL",
        "--unbuffered",
        *command,
    ]
