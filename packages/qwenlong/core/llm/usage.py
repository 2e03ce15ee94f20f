"""What an endpoint was asked, what it answered, and what that cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from qwenlong.core.config import EndpointConfig
from qwenlong.core.llm.reply import Reply


@dataclass
class Usage:
    """Counts of one client, or of one item of a map.

    `requests` were sent (every try), `replies` usable and paid for, `cached` read from disk for nothing, `retries` the
    tries after a first; `failures` counts tries without a reply by kind ("timeout", "connection", "protocol",
    "status_500", …). Tokens are the server's counts of paid replies; `cost` is in the currency of the settings,
    `seconds` the time from sending to reply, summed over requests (they overlap).
    """

    requests: int = 0
    replies: int = 0
    cached: int = 0
    retries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as JSON, the same for the same counts."""
        return {
            "requests": self.requests,
            "replies": self.replies,
            "cached": self.cached,
            "retries": self.retries,
            "failures": dict(sorted(self.failures.items())),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": round(self.cost, 9),
            "seconds": round(self.seconds, 3),
        }


def total(snapshots: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of snapshots."""
    whole = Usage()
    for snapshot in snapshots:
        whole.failures.update(snapshot.get("failures", {}))
        for name in ("requests", "replies", "cached", "retries", "prompt_tokens", "completion_tokens"):
            setattr(whole, name, getattr(whole, name) + int(snapshot.get(name, 0)))
        whole.cost += float(snapshot.get("cost", 0.0))
        whole.seconds += float(snapshot.get("seconds", 0.0))
    return whole.snapshot()


# Usage of the item that the current task works on: a map counts each of its items apart.
_ITEM: ContextVar[Usage | None] = ContextVar("qwenlong_llm_item", default=None)


@contextmanager
def counted() -> Iterator[Usage]:
    """Count what clients use inside the block, in this task and the tasks that it starts."""
    usage = Usage()
    token = _ITEM.set(usage)
    try:
        yield usage
    finally:
        _ITEM.reset(token)


class Meter:
    """Books what happens to a client's `usage` and to the item that is worked on."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        self.usage = Usage()
        self._prompt = endpoint.price_per_million_prompt / 1e6
        self._completion = endpoint.price_per_million_completion / 1e6

    def _books(self) -> list[Usage]:
        item = _ITEM.get()
        return [self.usage] if item is None else [self.usage, item]

    def sent(self, attempt: int) -> None:
        """Count a request that goes out; attempt 0 is the first."""
        for usage in self._books():
            usage.requests += 1
            usage.retries += attempt > 0

    def took(self, seconds: float) -> None:
        """Count the time of a request, whatever came of it."""
        for usage in self._books():
            usage.seconds += seconds

    def failed(self, kind: str) -> None:
        """Count a request without a usable reply."""
        for usage in self._books():
            usage.failures[kind] += 1

    def replied(self, reply: Reply) -> None:
        """Count a usable reply: paid for, unless it is from the cache."""
        for usage in self._books():
            if reply.cached:
                usage.cached += 1
                continue
            usage.replies += 1
            usage.prompt_tokens += reply.n_prompt_tokens
            usage.completion_tokens += reply.n_response_tokens
            usage.cost += reply.n_prompt_tokens * self._prompt + reply.n_response_tokens * self._completion
