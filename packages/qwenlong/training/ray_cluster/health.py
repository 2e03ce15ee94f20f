"""What is looked at before training: machines, GPUs, versions, ways between machines."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.core.config import EngineConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import code_digest
from qwenlong.core.network import answers

#: Packages whose versions all machines must share; one that no machine has is no fault.
PACKAGES = ("ray", "torch", "verl", "vllm", "transformers", "tensordict", "numpy", "qwenlong")


@dataclass(frozen=True)
class Node:
    """A machine as it looks from inside."""

    host: str
    address: str
    versions: Mapping[str, str]
    gpus: int
    """GPUs that Ray counts."""
    reaches: bool
    """It has reached the first machine at a port that was free a moment ago."""
    sees: bool
    """It sees the run's folder."""


def faults(nodes: list[Node], engine: EngineConfig, folder: Path) -> list[str]:
    """Return what stands against training on `nodes`, each with its remedy. The first is what others are held to."""
    found = []
    for node in nodes:
        if node.gpus < engine.gpus_per_node:
            found.append(
                f"{node.host} has {node.gpus} GPUs, engine.gpus_per_node = {engine.gpus_per_node}; "
                "ask for as many in resources.train.gpus"
            )
        if not node.reaches:
            found.append(
                f"{node.host} ({node.address}) does not reach {nodes[0].host} ({nodes[0].address}) at a free port; "
                "open the network between them, or name another in engine.ray.interface"
            )
        if not node.sees:
            found.append(f"{node.host} does not see {folder}; put run.results on a file system that all machines share")
        for name in sorted({*node.versions, *nodes[0].versions}):
            own, first = node.versions.get(name, "none"), nodes[0].versions.get(name, "none")
            if own != first:
                found.append(
                    f"{name}: {own} on {node.host}, {first} on {nodes[0].host}; install the same environment on both"
                )
    return found


def versions() -> dict[str, str]:
    """Return the versions of what training runs on, on this machine. Nothing is imported for it."""
    found = {"python": platform.python_version(), "code": code_digest("core", "training", "rewards")}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def check(engine: EngineConfig, address: str, results: Path) -> list[Node]:
    """Wait for all machines of the Ray at `address`, look at each; return them, the driver's first.

    Raises QwenlongError naming those that are missing after engine.ray.start_timeout_seconds, or every fault found.
    """
    import ray

    folder = results.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _listened(address, engine.ray.start_timeout_seconds)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, RuntimeError) as error:
        raise QwenlongError(f"no Ray at {address}: {error}; see the logs of the machines above") from error
    try:
        alive = _wait(ray, engine)
        nodes = _look(ray, alive, folder, engine)
    finally:
        ray.shutdown()
    found = faults(nodes, engine, folder)
    if found:
        raise QwenlongError("the machines cannot train:\n  " + "\n  ".join(found))
    return nodes


def _listened(address: str, seconds: float) -> None:
    """Wait until somebody listens: Ray itself tries for minutes, whatever the configuration says."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while not (port.isdigit() and answers(host, int(port), 5.0)):
        if not port.isdigit() or time.monotonic() > end:
            raise QwenlongError(
                f"no Ray at {address}: nothing listens there (engine.ray.start_timeout_seconds = {seconds:g}); see the "
                "logs of the machines above, or RAY_ADDRESS"
            )
        time.sleep(0.3)


def _wait(ray: Any, engine: EngineConfig) -> list[dict[str, Any]]:
    end = time.monotonic() + engine.ray.start_timeout_seconds
    while True:
        alive = [node for node in ray.nodes() if node["Alive"]]
        if len(alive) >= engine.nodes:
            return alive
        if time.monotonic() > end:
            names = ", ".join(sorted(node["NodeManagerHostname"] for node in alive))
            raise QwenlongError(
                f"{len(alive)} of {engine.nodes} machines joined Ray within {engine.ray.start_timeout_seconds} s: "
                f"{names}; {_missing(alive)}see the logs above, or raise engine.ray.start_timeout_seconds"
            )
        time.sleep(0.5)


def _missing(alive: list[dict[str, Any]]) -> str:
    wanted = [name for name in os.environ.get("QWENLONG_RAY_NODES", "").split(",") if name]
    there = {node["NodeManagerHostname"].split(".")[0] for node in alive}
    missing = [name for name in wanted if name not in there]
    return f"missing: {', '.join(missing)}; " if missing else ""


def _look(ray: Any, alive: list[dict[str, Any]], folder: Path, engine: EngineConfig) -> list[Node]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    alive.sort(key=lambda node: (node["NodeID"] != own, node["NodeManagerHostname"]))
    probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
    with _listening(alive[0]["NodeManagerAddress"]) as port, _mark(folder) as mark:
        asked = [
            probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                alive[0]["NodeManagerAddress"], port, str(mark)
            )
            for node in alive
        ]
        try:
            told = ray.get(asked, timeout=engine.ray.start_timeout_seconds)
        except ray.exceptions.RayError as error:
            raise QwenlongError(
                f"a machine joined Ray and does not work: {error}; see the logs of the machines above"
            ) from error
    return [
        Node(
            host=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            gpus=int(node["Resources"].get("GPU", 0)),
            **seen,
        )
        for node, seen in zip(alive, told, strict=True)
    ]


def _probe(address: str, port: int, mark: str) -> dict[str, Any]:
    try:
        socket.create_connection((address, port), timeout=10).close()
        reaches = True
    except OSError:
        reaches = False
    return {"versions": versions(), "reaches": reaches, "sees": Path(mark).exists()}


@contextlib.contextmanager
def _listening(address: str) -> Iterator[int]:
    """Listen at a free port, as torch's rendezvous will."""
    with socket.create_server((address, 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])


@contextlib.contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    mark = folder / f".seen-by-all.{socket.gethostname()}.{os.getpid()}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
