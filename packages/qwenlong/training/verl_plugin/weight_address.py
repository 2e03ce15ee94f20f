"""Names of the sockets through which weights go from a policy to its rollout engine, apart for each run."""

from __future__ import annotations

import os

#: Variable that holds the run's token, the same in all processes of a run.
TOKEN = "QWENLONG_RUN_TOKEN"
#: Variable from which verl's side of the engine takes the job's name.
JOB = "VERL_RAY_JOB_ID"
#: What verl's names begin with; the job's name follows.
PREFIX = "ipc:///tmp/rl-colocate-zmq-"


def job(number: str) -> str:
    """Return the name of a Ray job that no other run on this host has."""
    return f"{os.environ[TOKEN]}-{number}"


def own(address: str) -> str:
    """Return a socket's address with the run's token in it. Raises RuntimeError for one of another form."""
    if not address.startswith(PREFIX):
        raise RuntimeError(f"verl gives weights through {address}, not {PREFIX}...; this project fits verl 0.9.1")
    return PREFIX + job(address.removeprefix(PREFIX))


def register() -> None:
    """Make verl use the rollout of `vllm_rollout`, which is imported only where it runs."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY
    from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

    def replica() -> type[RolloutReplica]:
        from qwenlong.training.verl_plugin.vllm_rollout import Replica

        return Replica

    _ROLLOUT_REGISTRY["vllm", "async"] = "qwenlong.training.verl_plugin.vllm_rollout.Adapter"
    RolloutReplicaRegistry.register("vllm", replica)
