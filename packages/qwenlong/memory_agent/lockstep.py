"""Many questions over one document, side by side: no question reads a section before all have read the one before it.

Their prompts of one section then reach the server together and, with the section in front (`order: section_first`),
share it in its prefix cache, whatever else the server reads in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from qwenlong.memory_agent.loop import Generate, Messages, Step, Turn


class Lockstep:
    """Members by name, each with the number of sections that it has read; for one event loop.

    A member that leaves, finished or failed, holds up nobody.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._read = dict.fromkeys(names, 0)
        self._waiting: dict[asyncio.Future[None], str] = {}

    async def turn(self, name: str) -> None:
        """Wait until no member is behind this one."""
        if self._read[name] > min(self._read.values()):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = name
            try:
                await waiter
            finally:
                self._waiting.pop(waiter, None)

    def step(self, name: str, step: Step) -> None:
        """Take note of a member's step: a section is read when its update, or the repair of it, is of use."""
        if step.chunk is not None and (step.used or step.kind == "repair"):
            self._read[name] = step.chunk + 1
            self._wake()

    def leave(self, name: str) -> None:
        """Take a member out."""
        self._read.pop(name, None)
        self._wake()

    def _wake(self) -> None:
        last = min(self._read.values(), default=0)
        for waiter in [waiter for waiter, name in self._waiting.items() if self._read.get(name, last) <= last]:
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(None)

    def wrap(self, generate: Generate, name: str) -> Generate:
        """Return a member's `generate`, each call of which waits for those behind it."""

        async def in_step(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
            await self.turn(name)
            return await generate(messages, max_tokens, turn_index)

        return in_step
