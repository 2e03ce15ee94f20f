"""Several addresses that serve one model: items are spread over them, a dead one is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwenlong.core.llm import LLMError, Rejected, Unavailable
from qwenlong.core.llm.crew import denied
from qwenlong.core.logs import get, redact_text
from qwenlong.memory_agent.backends import Backend
from qwenlong.memory_agent.loop import Messages, Turn

_LOG = get(__name__)
#: Seconds for which a server that failed is left out; then one request at a time tries it.
REST = 60.0


@dataclass
class _Server:
    backend: Backend
    address: str
    busy: int = 0
    rests_until: float = 0.0
    doubtful: bool = False


class Servers:
    """The servers of one model, all with its name and tokenizer. An item stays with its server (its prompts share what
    the server has cached) until that one fails.
    """

    def __init__(
        self, backends: Sequence[Backend], addresses: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = [_Server(*pair) for pair in zip(backends, map(redact_text, addresses), strict=True)]
        self._clock = clock
        self._given_up = ""
        first = backends[0]
        self.name, self.tokenizer, self.window = first.name, first.tokenizer, first.window

    @classmethod
    def of(cls, backend: Backend | Servers) -> Servers:
        """Return servers, of which there may be one."""
        return backend if isinstance(backend, Servers) else cls([backend], [""])

    def __len__(self) -> int:
        return len(self._servers)

    def for_item(self) -> ItemBackend:
        """Return the model as one item asks it."""
        return ItemBackend(self)

    def give_up(self, reason: str) -> None:
        """Ask nothing any more: what was answered before can still be read from a journal."""
        self._given_up = reason

    def check(self) -> None:
        """Raise core.llm.Unavailable when nothing is asked any more."""
        if self._given_up:
            raise Unavailable(f"not asked: {self._given_up}", "not_asked")

    async def close(self) -> None:
        """Let go of all connections."""
        for server in self._servers:
            await server.backend.close()

    def pick(self, tried: Sequence[_Server], now: _Server | None) -> _Server | None:
        """Return the server to ask: the item's own, else the idlest that is not left out, else the next to return."""
        left = [server for server in self._servers if server not in tried]
        time_now = self._clock()
        awake = [s for s in left if s.rests_until <= time_now and not (s.doubtful and s.busy)]
        if now in awake:
            return now
        if awake:
            return min(awake, key=lambda server: server.busy)
        return min(left, key=lambda server: server.rests_until, default=None)

    def failed(self, server: _Server, error: LLMError) -> None:
        """Leave a server out for a while."""
        if len(self._servers) > 1 and server.rests_until <= self._clock():
            _LOG.warning("%s is left out for %g s: %s", server.address, REST, error)
        server.rests_until, server.doubtful = self._clock() + REST, True


class ItemBackend:
    """The model for one item. `answered` is the address that gave the last reply, empty before one."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._now: _Server | None = None
        self.name, self.tokenizer, self.window = servers.name, servers.tokenizer, servers.window
        self.answered = ""

    async def complete(
        self, messages: Messages, *, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Turn:
        """Return one turn, of any server that gives one. Raises core.llm.LLMError of the last that was asked."""
        self._servers.check()
        tried: list[_Server] = []
        while True:
            server = self._servers.pick(tried, self._now)
            assert server is not None
            self._now = server
            server.busy += 1
            try:
                turn = await server.backend.complete(
                    messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
                )
            except (Unavailable, Rejected) as error:
                if isinstance(error, Rejected) and not denied(error):
                    # The prompt is at fault: every server would say so.
                    raise
                self._servers.failed(server, error)
                tried.append(server)
                if len(tried) == len(self._servers):
                    raise
            else:
                server.doubtful, self.answered = False, server.address
                return turn
            finally:
                server.busy -= 1

    async def close(self) -> None:
        """Do nothing: the servers are closed together."""
