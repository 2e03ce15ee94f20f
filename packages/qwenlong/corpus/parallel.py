"""One function over many jobs: processes of this machine, or Ray Data on a cluster. The jobs do not know which."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from qwenlong.core.errors import QwenlongError

Job = dict[str, Any]


def run(
    function: Callable[[Job], Job], jobs: Sequence[Job], executor: str, workers: int, description: str
) -> list[Job]:
    """Return function(job) of each job, in the order of the jobs.

    Jobs and results are JSON-like; the function stands at a module's top level and makes nothing twice that is there
    (a job may be tried again). `executor` is `local` or `ray`. The first error ends the call and is raised.
    """
    if executor == "ray":
        from qwenlong.corpus.ray_data import ray_map

        return ray_map(function, jobs, workers)
    from qwenlong.core.progress import track

    if workers == 1 or len(jobs) < 2:
        return [function(job) for job in track(jobs, total=len(jobs), description=description)]
    # Spawned, not forked: Arrow and numpy have threads, which a fork would leave behind with their locks held.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            for future in track(as_completed(futures), total=len(jobs), description=description):
                future.result()
        except BrokenProcessPool as error:
            raise QwenlongError(
                f"a worker of {description} was ended from outside, most often for want of memory; what is finished "
                f"stays. Lower corpus.workers = {workers} or corpus.shard_megabytes, and run the same command again"
            ) from error
        finally:
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]


def _end_with_parent() -> None:
    """End this worker when the process that started it dies: it would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
