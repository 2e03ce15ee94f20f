"""A rollout server on Hugging Face transformers for verl on CPU: requests that wait together share a batch.

Sampling is seeded per request, so a response depends on prompt, weights, sampling parameters and seed, not on
which requests happened to share its batch, but for float noise. To be without that too, a batch waits for all rows of
a step where requests say how many there are: `wave` rows come at once, and `follows` tells that another one comes
after this one's response.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator as Iter
from typing import Any

import ray
import torch
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

NAME = "hf_cpu"
#: Seconds without a new request after which a batch starts, and after which it starts without rows that should come.
_QUIET, _PATIENCE = 0.01, 5.0


def _server_name(replica_rank: int, suffix: str = "") -> str:
    return f"{NAME}_server_{replica_rank}{suffix}"


class HFServerAdapter(BaseRollout):
    """The trainer's side: hands each new set of weights to the server of its replica."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        rank = int(os.environ["RANK"])
        world = self.config.tensor_model_parallel_size * self.config.data_parallel_size
        self.replica_rank = rank // world if replica_rank == -1 else replica_rank
        self.is_leader = rank % world == 0
        self._server: Any = None

    async def resume(self, tags: list[str]) -> None:
        """Do nothing: the server never gives its memory back."""

    async def release(self) -> None:
        """Do nothing: the server never gives its memory back."""

    async def update_weights(
        self,
        weights: Iter[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Send named tensors to the server. Every rank drains the generator, since gathering is collective."""
        if wire_format != "named_tensors":
            raise ValueError(f"rollout {NAME} takes wire_format named_tensors, not {wire_format!r}")
        state = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        if self.is_leader:
            if self._server is None:
                self._server = ray.get_actor(_server_name(self.replica_rank))
            await self._server.load_weights.remote(state, global_steps)


@ray.remote(num_cpus=0, max_concurrency=4096)
class HFServer:
    """Generates for all requests of one replica."""

    def __init__(self, config: Any, path: str) -> None:
        from qwenlong.inference.engine import load_generator

        torch.set_num_threads(int(os.environ.get("QWENLONG_ROLLOUT_THREADS", "1")))
        self.config = config
        # The same end ids as in evaluation: those of generation_config.json too.
        self.generator, _ = load_generator(path)
        self.global_steps: int | None = None
        self.queue: list[tuple[list[int], dict[str, Any], asyncio.Future[Any]]] = []
        self.worker: asyncio.Task[None] | None = None
        #: Rows that come because the last batch's responses were not the end.
        self.following = 0
        self.weights_lock = asyncio.Lock()

    async def load_weights(self, state: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Load a whole set of weights. Raises RuntimeError naming tensors that are missing or unknown."""
        from qwenlong.inference.experts import fuse

        async with self.weights_lock:
            model = self.generator.model
            with self.generator.lock:
                missing, unexpected = model.load_state_dict(fuse(state), strict=False)
                model.tie_weights()
            tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
            if set(missing) - tied or unexpected:
                raise RuntimeError(f"weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
            self.global_steps = global_steps
            self.following = 0

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **kwargs: Any
    ) -> TokenOutput:
        """Return the response to one prompt."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.queue.append((list(prompt_ids), dict(sampling_params), future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._serve())
        generation = await future
        return TokenOutput(
            token_ids=generation.token_ids,
            log_probs=generation.log_probs,
            stop_reason="completed" if generation.finish_reason == "stop" else "length",
            num_preempted=0,
            extra_fields={"global_steps": self.global_steps},
        )

    async def _serve(self) -> None:
        while self.queue:
            # Requests arrive over Ray one by one: as long as more keep coming, wait a little; never a fixed time.
            seen, quiet = -1, 0.0
            while quiet < (_PATIENCE if len(self.queue) < self._expected() else _QUIET):
                quiet = 0.0 if seen != len(self.queue) else quiet + _QUIET
                seen = len(self.queue)
                await asyncio.sleep(_QUIET)
            batch, self.queue = self.queue, []
            self.following = sum(bool(params.get("follows")) for _, params, _ in batch)
            async with self.weights_lock:
                try:
                    generations = await asyncio.to_thread(self._generate, batch)
                    for (_, _, future), generation in zip(batch, generations, strict=True):
                        if not future.done():
                            future.set_result(generation)
                except Exception as error:  # every waiting request must learn of it
                    for _, _, future in batch:
                        if not future.done():
                            future.set_exception(error)

    def _expected(self) -> int:
        """Return how many rows belong together, as far as requests have told."""
        return max(self.following, *(int(params.get("wave") or 0) for _, params, _ in self.queue))

    def _generate(self, batch: list[tuple[list[int], dict[str, Any], Any]]) -> Any:
        from qwenlong.inference.engine import Sampling

        window = self.config.prompt_length + self.config.response_length
        samplings, seeds = [], []
        for prompt, params, _ in batch:
            limit = params.get("max_tokens") or params.get("max_new_tokens") or self.config.response_length
            samplings.append(
                Sampling(
                    max_new_tokens=max(1, min(int(limit), window - len(prompt))),
                    temperature=float(params.get("temperature", 1.0)),
                    top_p=float(params.get("top_p", 1.0)),
                    top_k=int(params.get("top_k") or -1),
                )
            )
            if "seed" not in params:
                raise ValueError(f"rollout {NAME} needs sampling_params['seed']; agent loops of qwenlong set it")
            seeds.append(int(params["seed"]))
        return self.generator.generate([prompt for prompt, _, _ in batch], samplings, seeds)

    async def wake_up(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: memory is never released."""

    async def sleep(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: memory is never released."""

    async def clear_kv_cache(self) -> None:
        """Do nothing: no cache outlives a batch."""

    async def release_kv_cache(self) -> None:
        """Do nothing: no cache outlives a batch."""

    async def resume_kv_cache(self) -> None:
        """Do nothing: no cache outlives a batch."""

    async def abort_all_requests(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: rollouts are never cut off in synchronous training."""

    async def resume_generation(self) -> None:
        """Do nothing: rollouts are never cut off in synchronous training."""

    async def start_profile(self, **kwargs: Any) -> None:
        """Do nothing."""

    async def stop_profile(self) -> None:
        """Do nothing."""


class HFReplica(RolloutReplica):
    """One server actor per replica."""

    async def launch_servers(self) -> None:
        """Start the server of this replica."""
        model = self.model_config
        path = getattr(model, "local_path", None) or model["path"]
        name = _server_name(self.replica_rank, self.name_suffix)
        actor: Any = HFServer
        server = actor.options(name=name).remote(self.config, path)
        self.servers = [server]
        self._server_handle = server
        self._server_address = f"{NAME}://{self.replica_rank}"


_ROLLOUT_REGISTRY[(NAME, "async")] = f"{__name__}.HFServerAdapter"
RolloutReplicaRegistry.register(NAME, lambda: HFReplica)
