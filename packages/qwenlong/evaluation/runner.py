"""Asking a model every item of a benchmark, resumable at the item (and, for the memory agent, at the turn)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.llm.crew import Outages, crew
from qwenlong.core.logs import get
from qwenlong.core.progress import Progress
from qwenlong.core.records import Prediction
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.asking import Asked, Room, Settings, Totals
from qwenlong.evaluation.interface import Asking, Episode, Item
from qwenlong.evaluation.servers import Servers
from qwenlong.evaluation.timings import Timings
from qwenlong.memory_agent.backends import Backend
from qwenlong.memory_agent.journal import Journal

__all__ = ["Prepare", "Settings", "Totals", "check", "run"]
#: Benchmark.prepare.
Prepare = Callable[[Sequence[Item], Asking, Tokenizer, int, int], Awaitable[Sequence[Item]]]
_LOG = get(__name__)


def check(benchmark: str, items: Sequence[Item], settings: Settings, window: int | None) -> None:
    """Refuse settings that no item could be asked with. Raises UsageError naming keys and numbers."""
    if settings.agent is not None:
        if any(isinstance(item, Episode) for item in items):
            raise UsageError(f"{benchmark} is a conversation, not a document; leave --agent out")
        if items and type(items[0]).problem is Item.problem:
            raise UsageError(f"{benchmark} has no document to read through the memory agent; leave --agent out")
        return
    needed = settings.max_input_tokens + settings.max_output_tokens
    if window is not None and needed > window:
        raise UsageError(
            f"evaluation.max_input_tokens = {settings.max_input_tokens} plus evaluation.max_output_tokens = "
            f"{settings.max_output_tokens} exceed the model's window of {window}; lower one of them"
        )


async def run(
    benchmark: str,
    items: Sequence[Item],
    backend: Backend | Servers,
    settings: Settings,
    journal: Journal,
    concurrency: int,
    in_blocks: bool,
    *,
    prepare: Prepare | None = None,
    timings: Timings | None = None,
) -> tuple[list[Prediction], Totals]:
    """Return a prediction per item and sample, in order, and the totals.

    Each response has a seed of its own, from the run's seed and the names of benchmark, item, sample and turn.
    `in_blocks` asks `concurrency` at a time and waits for all of them, which a model in this process batches best;
    otherwise as many are under way at any time. `prepare` is the benchmark's. An item that cannot be asked (too long a
    question, a silent endpoint) becomes a prediction with an error; when outages come one after another, what is left
    is not asked. Raises UsageError when sizes do not fit, StorageError when the disk is full, QwenlongError when every
    item failed.
    """
    servers = Servers.of(backend)
    check(benchmark, items, settings, servers.window)
    totals = Totals()
    room = Room(benchmark, servers, settings, journal, totals, in_blocks)
    start = time.monotonic()
    try:
        if prepare is not None:
            limits = (settings.max_input_tokens, settings.max_output_tokens)
            items = await prepare(items, room.asking(), servers.tokenizer, *limits)
        jobs = [(item, number) for item in items for number in range(settings.samples)]
        asked = await _all(benchmark, jobs, room, concurrency, in_blocks, timings)
    finally:
        await servers.close()
    totals.seconds = round(time.monotonic() - start, 3)
    totals.replayed_turns = journal.replayed
    if jobs and totals.errors == len(jobs):
        raise QwenlongError(f"{benchmark}: no item could be asked; the first says: {asked[0].prediction.error}")
    return [one.prediction for one in asked], totals


async def _all(
    benchmark: str,
    jobs: Sequence[tuple[Item, int]],
    room: Room,
    concurrency: int,
    in_blocks: bool,
    timings: Timings | None,
) -> list[Asked]:
    found: dict[int, Asked] = {}
    outages = Outages(concurrency)
    with Progress(benchmark, len(jobs), "item") as progress:

        async def work(todo: Iterator[int]) -> None:
            for place in todo:
                found[place] = asked = await room.ask(*jobs[place])
                if not asked.outage:
                    outages.answered()
                else:
                    outages.failed(str(asked.prediction.error))
                    if outages.given_up:
                        room.servers.give_up(_why(outages))
                if timings is not None:
                    timings.add(asked.timing)
                progress.advance(failed=room.totals.errors)

        size = concurrency if in_blocks else max(len(jobs), 1)
        for first in range(0, len(jobs), size):
            places = range(first, min(first + size, len(jobs)))
            await crew(partial(work, iter(places)), min(concurrency, len(places)))
    if outages.given_up:
        left = sum((one.prediction.error or "").startswith("not asked") for one in found.values())
        _LOG.warning("%s: %d items were left unasked: %s", benchmark, left, _why(outages))
    return [found[place] for place in range(len(jobs))]


def _why(outages: Outages) -> str:
    return f"the endpoint gave up {outages.in_a_row} items in a row, the last: {outages.reason}"
