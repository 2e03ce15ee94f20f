"""Many requests to one endpoint at once: workers, and when they give the endpoint up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from qwenlong.core.llm.errors import LLMError, Rejected

#: Outages in a row, per request in flight, after which the endpoint is down and the rest is left for another run.
PATIENCE = 2
#: Statuses with which an endpoint turns away whatever it is asked: a wrong key, no credit, no such model or path.
DENIED = frozenset({401, 402, 403, 404})


def denied(error: LLMError) -> bool:
    """Tell whether an endpoint would turn every other request away as well."""
    return isinstance(error, Rejected) and error.status in DENIED


class Outages:
    """Outages in a row over all workers, `concurrency` of them, until the endpoint is given up: then it is for good."""

    def __init__(self, concurrency: int) -> None:
        self.in_a_row, self._most = 0, PATIENCE * concurrency
        self.reason: str | None = None
        """Of the outage with which the endpoint was given up; none while it has not been."""

    @property
    def given_up(self) -> bool:
        """Whether the endpoint is to be asked no more."""
        return self.reason is not None

    def answered(self) -> None:
        """Count a reply, whatever it says."""
        if not self.given_up:
            self.in_a_row = 0

    def failed(self, why: str, denied: bool = False) -> None:
        """Count a request that came to nothing; one that was denied is enough."""
        if self.given_up:
            return
        self.in_a_row += 1
        if denied or self.in_a_row >= self._most:
            self.reason = why


async def crew(work: Callable[[], Coroutine[Any, Any, None]], workers: int) -> None:
    """Run `work` so many times at once: workers, each of which goes on to the next item as long as there is one.

    Workers instead of a task an item, since a request holds whole documents and there may be many. Raises what the
    first of them raised (a full disk, a bug), once all have ended: the others' errors are its echo.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
