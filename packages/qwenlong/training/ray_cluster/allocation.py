"""The machines of this job, as Slurm names them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from qwenlong.core.errors import ConfigError, QwenlongError, UsageError
from qwenlong.core.slurm import hostnames, scontrol


@dataclass(frozen=True)
class Allocation:
    """Machines of a job."""

    job: str
    nodes: tuple[str, ...]
    """Slurm's names, this machine first."""


def current(wanted: int, environment: Mapping[str, str] = os.environ) -> Allocation:
    """Return `wanted` machines of the job that this process runs in, this machine first.

    Raises UsageError outside a job, ConfigError when the job has fewer machines.
    """
    job = environment.get("SLURM_JOB_ID")
    if not job:
        raise UsageError(
            f"engine.nodes = {wanted}, but this is no Slurm job (SLURM_JOB_ID is not set); run it with "
            "`snakemake --profile cluster`, or set RAY_ADDRESS to a Ray that runs on the machines"
        )
    # Not SLURM_JOB_NODELIST: in a job step of one machine, which the executor's are, it names that one alone.
    names = hostnames(_node_list(job))
    # The name by which Slurm knows this machine may differ from the machine's own.
    own = environment.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
    if len(names) < wanted:
        raise ConfigError(
            f"engine.nodes = {wanted}, but job {job} has {len(names)} ({', '.join(names)}); "
            f"set resources.train.nodes to {wanted}"
        )
    if own not in names:
        raise QwenlongError(
            f"this machine, {own}, is none of job {job}'s ({', '.join(names)}); start it inside of the job"
        )
    return Allocation(job, (own, *(name for name in names if name != own))[:wanted])


def _node_list(job: str) -> str:
    fields = dict(word.split("=", 1) for word in scontrol("show", "job", "-o", job).split() if "=" in word)
    return fields.get("NodeList", "")


def for_step(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a job step of its own: what the step around says of its size would count for it."""
    kept = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTER_NAME", "SLURM_CONF", "SLURM_TMPDIR")
    return {
        name: value
        for name, value in environment.items()
        if name in kept or not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))
    }
