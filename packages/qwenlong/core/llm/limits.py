"""How much may be asked of one endpoint at once and per minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from qwenlong.core.config import EndpointConfig

#: Seconds over which the limits of an endpoint are counted.
WINDOW = 60.0
#: Longest sleep before a waiting request looks again: a reply smaller than its estimate makes room before that.
STEP = 1.0
#: Bytes of a message per token for the estimate; low, so that the limit is kept rather than met.
BYTES_PER_TOKEN = 3


class Ticket:
    """One request in the window: when it started, and its tokens, an estimate until the server counts them."""

    def __init__(self, start: float, tokens: int) -> None:
        self.start, self.tokens = start, tokens

    def settle(self, tokens: int) -> None:
        """Replace the estimate by what the server counted; a count of 0 says nothing and changes nothing."""
        if tokens > 0:
            self.tokens = tokens


class Limits:
    """What all clients of one endpoint share: requests in flight, and requests and tokens in any 60 seconds.

    `slots` bounds requests in flight. `clock` and `sleep` can be replaced, so that tests need no minutes.
    """

    def __init__(
        self,
        endpoint: EndpointConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.slots = asyncio.Semaphore(endpoint.concurrency)
        self._requests, self._tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._window: deque[Ticket] = deque()
        # Held while waiting: requests start in the order in which they came.
        self._turn = asyncio.Lock()

    async def start(self, tokens: int) -> Ticket:
        """Wait until a request of about so many tokens may start, and count it.

        A request that is larger than the limit by itself starts when nothing else is in the window: it would wait for
        ever otherwise, and the server says what it thinks of it.
        """
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                await self._sleep(min(wait, STEP))
            ticket = Ticket(self._clock(), tokens)
            if self._requests is not None or self._tokens is not None:
                self._window.append(ticket)
            return ticket

    def _wait(self, tokens: int) -> float:
        """Return the seconds until a request fits, as the window stands now; 0 when it fits."""
        now = self._clock()
        while self._window and now - self._window[0].start >= WINDOW:
            self._window.popleft()
        requests, used, wait = len(self._window), sum(ticket.tokens for ticket in self._window), 0.0
        for ticket in self._window:
            if self._fits(requests + 1, used + tokens):
                break
            requests, used, wait = requests - 1, used - ticket.tokens, ticket.start + WINDOW - now
        return max(0.0, wait)

    def _fits(self, requests: int, tokens: int) -> bool:
        return (self._requests is None or requests <= self._requests) and (
            self._tokens is None or tokens <= self._tokens
        )


def estimate(messages: Sequence[Mapping[str, Any]], max_tokens: int) -> int:
    """Return about how many tokens a request may take, its whole output limit included, as servers count it."""
    text = sum(len(str(message.get("content", "")).encode()) for message in messages)
    return text // BYTES_PER_TOKEN + max_tokens
