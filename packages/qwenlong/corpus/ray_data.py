"""The executor of a cluster: Ray Data. The one module of the corpus that knows Ray; imported only when it is asked for.

Shards are read and written by their paths, so the nodes share a file system; only jobs and results travel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from qwenlong.core.errors import QwenlongError


def ray_map(
    function: Callable[[dict[str, Any]], dict[str, Any]], jobs: Sequence[dict[str, Any]], workers: int
) -> list[dict[str, Any]]:
    """Return function(job) of each job, in their order, at most `workers` at once, each on one CPU.

    Uses the Ray that this process is connected to; otherwise connects to RAY_ADDRESS, or starts one on this machine
    and ends it again. Raises QwenlongError when Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise QwenlongError(
            f"corpus.executor = ray needs Ray Data ({error}); install qwenlong[train], or set corpus.executor to local"
        ) from error
    if not jobs:
        return []
    own = not ray.is_initialized()
    if own:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
    try:
        # One block a job, or Ray would give several shards to one task and make them one after another.
        rows = [{"number": n, "job": json.dumps(job)} for n, job in enumerate(jobs)]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))

        def task(row: dict[str, Any]) -> dict[str, Any]:
            # Errors that a user can mend travel as data: Ray would wrap them in its own, message and all.
            try:
                answer: dict[str, Any] = {"value": function(json.loads(row["job"]))}
            except QwenlongError as error:
                answer = {"error": str(error)}
            return {"number": row["number"], "answer": json.dumps(answer)}

        found = data.map(task, concurrency=workers).take_all()
    finally:
        if own:
            ray.shutdown()
    answers = [json.loads(row["answer"]) for row in sorted(found, key=lambda row: row["number"])]
    for answer in answers:
        if "error" in answer:
            raise QwenlongError(answer["error"])
    return [answer["value"] for answer in answers]
