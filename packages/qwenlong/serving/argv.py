"""Which command serves a model on which machine and GPUs. Pure: nothing is started here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenlong.core.config import ServiceConfig
from qwenlong.core.errors import UsageError


@dataclass(frozen=True)
class Spot:
    """Where one replica runs: its machines, and its GPUs on each (none: as the machine has them)."""

    hosts: tuple[str, ...]
    devices: tuple[str, ...] = ()
    local: bool = True
    """Whether it is started on this machine by itself, not by srun."""

    @property
    def host(self) -> str:
        """Return the machine that answers."""
        return self.hosts[0]


def spots(service: ServiceConfig, hosts: Sequence[str], devices: Sequence[str], here: str) -> list[Spot]:
    """Return a place for each replica on `hosts`, each with the GPUs `devices`.

    Replicas fill one machine after the other. With a single host nothing needs srun. Raises UsageError naming what
    is short.
    """
    alone = len(hosts) == 1
    if service.nodes > 1:
        if len(hosts) < service.nodes * service.replicas:
            raise UsageError(
                f"{service.replicas} replicas of {service.nodes} machines each, but the allocation has {len(hosts)}; "
                "ask for more machines (slurm.nodes), or lower replicas"
            )
        groups = [tuple(hosts[i * service.nodes : (i + 1) * service.nodes]) for i in range(service.replicas)]
        return [Spot(group, local=False) for group in groups]
    each = service.gpus_each
    if not each:
        return [Spot((hosts[i % len(hosts)],), local=alone) for i in range(service.replicas)]
    per_host = len(devices) // each
    if per_host * len(hosts) < service.replicas:
        raise UsageError(
            f"{service.replicas} replicas of {each} GPUs each, but there are {len(devices)} GPUs on each of "
            f"{len(hosts)} machines; lower replicas or the parallel sizes, or ask for more"
        )
    found = []
    for number in range(service.replicas):
        host, slot = hosts[number // per_host], number % per_host
        mine = tuple(devices[slot * each : (slot + 1) * each])
        found.append(Spot((host,), mine, local=alone))
    return found


def words(service: ServiceConfig, listen: str, port: int, rank: int = 0, master: str = "", ring: int = 0) -> list[str]:
    """Return the command line of one replica on one of its machines, listening on `listen`:`port`.

    `rank`, `master` and `ring` (number, first machine and its port) are those of a replica over several machines.
    """
    if service.command:
        places = {"model": service.model, "name": service.served_name, "host": listen, "port": str(port)}
        return [filled(word, places) for word in service.command]
    line = [*service.program, service.model, "--served-model-name", service.served_name]
    line += ["--host", listen, "--port", str(port)]
    for option, size in (
        ("--tensor-parallel-size", service.tensor_parallel),
        ("--pipeline-parallel-size", service.pipeline_parallel),
        ("--data-parallel-size", service.data_parallel),
    ):
        if size > 1:
            line += [option, str(size)]
    if service.expert_parallel:
        line.append("--enable-expert-parallel")
    if service.max_model_len is not None:
        line += ["--max-model-len", str(service.max_model_len)]
    if service.nodes > 1:
        line += ["--nnodes", str(service.nodes), "--node-rank", str(rank), "--master-addr", master]
        line += ["--master-port", str(ring)]
        line += ["--headless"] if rank else []
    return [*line, *service.extra]


def filled(word: str, places: dict[str, str]) -> str:
    """Return a word with its places filled; any other brace stays as it is."""
    for name, value in places.items():
        word = word.replace("{" + name + "}", value)
    return word


def on_machine(line: Sequence[str], host: str, spot: Spot, gpus: int) -> list[str]:
    """Return the line that starts `line` on `host` of the allocation: itself, or through srun."""
    if spot.local:
        return list(line)
    step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--kill-on-bad-exit=1"]
    step += [f"--gres=gpu:{gpus}"] if gpus else []
    # srun sets the variable to all GPUs of the step; several replicas of a machine share its step's GPUs.
    devices = ["env", f"CUDA_VISIBLE_DEVICES={','.join(spot.devices)}"] if spot.devices else []
    return [*step, *devices, *line]


def visible(gpus_per_host: int | None) -> list[str]:
    """Return the GPUs of this machine by CUDA_VISIBLE_DEVICES, else by number; `gpus_per_host` where it is known."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [word.strip() for word in named.split(",") if word.strip()]
    if gpus_per_host is not None:
        return [str(number) for number in range(gpus_per_host)]
    return [str(number) for number in range(_installed())]


def _installed() -> int:
    from pathlib import Path

    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def with_package(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which this very package is found first, wherever its processes are started."""
    package = str(Path(__file__).resolve().parents[2])
    before = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    return {**variables, "PYTHONPATH": os.pathsep.join(dict.fromkeys([package, *before]))}
