"""verl's vLLM rollout with an address of its own for the weights of each run.

verl hands weights to the rollout engine through a socket in /tmp, named by the Ray job's number. Every Ray counts its
jobs from 1, so that two runs on one host, each with a Ray of its own, share the name: one engine then takes the
weights of the other run, or waits for weights that another has taken. Here the name holds a token of the run as well.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from qwenlong.training.verl_plugin.weight_address import JOB, job, own


class Adapter(ServerAdapter):  # type: ignore[misc]
    """The trainer's side, which binds the socket."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zmq_handle = own(self.zmq_handle)  # type: ignore[has-type]


class Server(vLLMHttpServer):  # type: ignore[misc]
    """The engine's side: its processes take the name from the environment that they start with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        os.environ[JOB] = job(os.environ[JOB])


class Replica(vLLMReplica):  # type: ignore[misc]
    """Starts the servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(Server)
