"""A run over Ray: each shard a task, on any node; the one module of the evaluation that knows Ray.

The nodes share a file system: shards are written and read by their paths, only orders and messages travel.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwenlong.core.errors import QwenlongError
from qwenlong.core.logs import get
from qwenlong.evaluation.merging import merge
from qwenlong.evaluation.run_work import Done, Order, perform
from qwenlong.evaluation.shards import Shard

_LOG = get(__name__)


def run(order: Order, count: int) -> Done:
    """Run an order as `count` shards, then merge them into its folder; shards stay under `out`/shards.

    Uses the Ray at RAY_ADDRESS, or starts one on this machine and ends it again. Each shard asks the servers in
    another order. A shard whose model is loaded by itself takes one GPU where Ray has any. Raises QwenlongError
    naming the shards that could not be run; the same command goes on with what is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise QwenlongError(
            f"--ray-shards needs Ray ({error}); install qwenlong[train], or run each part with --shard and merge them"
        ) from error
    own = not ray.is_initialized()
    if own:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
    try:
        gpus = 1 if not order.base_urls and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(_shard)
        parts = [_part(order, Shard(number, count)) for number in range(1, count + 1)]
        waiting: dict[Any, Order] = {task.remote(part): part for part in parts}
        failed: dict[str, str] = {}
        journals: list[str] = []
        while waiting:
            ready, _ = ray.wait(list(waiting))
            part = waiting.pop(ready[0])
            try:
                message, kept = ray.get(ready[0])
                journals += kept
            except ray.exceptions.RayError as error:
                message = f"{type(error).__name__}: {str(error).splitlines()[-1] if str(error) else 'no message'}"
            _LOG.info("shard %s: %s", part.shard, message or "done")
            if message:
                failed[str(part.shard)] = message
    finally:
        if own:
            ray.shutdown()
    if failed:
        first = next(iter(sorted(failed)))
        raise QwenlongError(
            f"shards {', '.join(sorted(failed))} of {count} could not be run, {first} because: {failed[first]}; the "
            "same command goes on with what is missing"
        )
    done = merge([part.out for part in parts], order.out, order.data, order.settings(), order.score)
    if not done.failed:
        for file in journals:
            Path(file).unlink(missing_ok=True)
    return done


def _part(order: Order, shard: Shard) -> Order:
    out = order.out.resolve() / "shards" / f"{shard.number}-of-{shard.of}"
    turn = (shard.number - 1) % len(order.base_urls) if order.base_urls else 0
    urls = order.base_urls[turn:] + order.base_urls[:turn]
    # Relative folders would lie wherever the task runs.
    state = order.state or Path(order.settings().run.results) / "state" / "evaluation"
    return replace(
        order,
        out=out,
        model=_place(order.model),
        tokenizer=None if order.tokenizer is None else _place(order.tokenizer),
        data=_resolved(order.data),
        documents=_resolved(order.documents),
        config=_resolved(order.config),
        cache=order.cache.resolve(),
        state=state.resolve(),
        base_urls=urls,
        shard=shard,
        tracked=False,
        keep=True,
    )


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _place(name: str) -> str:
    """Return the whole path of a folder; a name as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _shard(order: Order) -> tuple[str, list[str]]:
    """Run a shard; return what went wrong ("": nothing), and its journals. Failed items are no fault of the shard."""
    try:
        done = perform(order)
    except QwenlongError as error:
        # As text: Ray would wrap the exception in its own, message and all.
        return str(error), []
    return "", [str(path) for path in done.journals]
