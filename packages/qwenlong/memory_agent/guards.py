"""What stands between the network and the server's work: key, host, size, and how many requests at once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from qwenlong.core.errors import UsageError
from qwenlong.memory_agent.chat_request import Refusal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gone(Exception):
    """The client hung up."""


@dataclass(frozen=True)
class Bounds:
    """How much the server takes on."""

    request_bytes: int = 64 * 2**20
    """Largest request body."""
    running: int = 64
    """Requests worked on at once."""
    waiting: int = 256
    """Requests that wait for their turn; more are sent away with 429."""
    body_seconds: float = 60.0
    """Longest pause between two pieces of a body."""
    work_seconds: float = 3600.0
    """Longest work on one request, waiting included."""
    beat_seconds: float = 10.0
    """Pause between signs of life in a stream."""
    grace_seconds: float = 30.0
    """Time for running requests after SIGTERM."""

    @property
    def held_bytes(self) -> int:
        """Most bytes of bodies held at once, by all requests together."""
        return 8 * self.request_bytes


def is_loopback(host: str) -> bool:
    """Tell whether an address or name can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_exposure(host: str, key: str | None) -> None:
    """Raise UsageError for an address that others can reach without a key."""
    if not is_loopback(host) and not key:
        raise UsageError(
            f"--host {host!r} can be reached from other machines, and no key guards it; give --api-key-env a variable "
            "that holds one, or stay on 127.0.0.1"
        )


def header(scope: Scope, name: bytes) -> bytes:
    """Return a request header's first value, empty when it is not there."""
    return next((bytes(value) for key, value in scope["headers"] if key == name), b"")


def check_key(scope: Scope, key: str | None) -> None:
    """Raise Refusal (401) unless the request carries `key`; the comparison takes the same time for any wrong one."""
    if key is None:
        return
    scheme, _, given = header(scope, b"authorization").partition(b" ")
    # Digests have one length, so that not even the key's shows.
    digests = (hashlib.sha256(value).digest() for value in (given.strip(), key.encode()))
    if not hmac.compare_digest(*digests) or scheme.lower() != b"bearer":
        raise Refusal(
            401,
            "no valid key; send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def check_host(scope: Scope, local: bool) -> None:
    """Raise Refusal (403) when a server on loopback is called by another name: a web page of someone else's."""
    name = header(scope, b"host").decode("latin-1").strip()
    bare = name[: name.rindex("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
    if local and not is_loopback(bare):
        raise Refusal(403, "this server answers to localhost only; call it by 127.0.0.1")


def check_json(scope: Scope) -> None:
    """Raise Refusal (415) for a body that is not declared as JSON: forms of foreign web pages cannot declare it."""
    if header(scope, b"content-type").partition(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "the body must be JSON; send the header Content-Type: application/json")


class Door:
    """Counts requests in and out: how many run, how many wait, how many bytes they hold."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.inside = self.held = 0
        self._turns = asyncio.Semaphore(bounds.running)

    @property
    def running(self) -> int:
        """Requests being worked on."""
        return min(self.inside, self.bounds.running)

    @property
    def waiting(self) -> int:
        """Requests waiting for their turn."""
        return self.inside - self.running

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Hold a place while the block runs. Raises Refusal (429) when all places are taken."""
        if self.inside >= self.bounds.running + self.bounds.waiting:
            raise self._full("requests")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until work may begin."""
        async with self._turns:
            yield

    def _full(self, what: str) -> Refusal:
        return Refusal(
            429, f"too many {what} at once; try again later", code="overloaded", headers={"Retry-After": "5"}
        )

    @asynccontextmanager
    async def body(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """Yield a request's body, counted as held while the block runs.

        Raises Refusal: 413 before more than the limit is read, 408 when it comes too slowly, 429 when too much is
        held already; Gone when the client hangs up.
        """
        limit = self.bounds.request_bytes
        length = header(scope, b"content-length")
        if length.isdigit() and int(length[:20]) > limit:
            raise self._too_large()
        pieces: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                try:
                    async with asyncio.timeout(self.bounds.body_seconds):
                        message = await receive()
                except TimeoutError:
                    raise Refusal(
                        408, f"no piece of the body for {self.bounds.body_seconds:g} s; send it again", code="timeout"
                    ) from None
                if message["type"] == "http.disconnect":
                    raise Gone
                piece, more = message.get("body", b""), message.get("more_body", False)
                size, self.held = size + len(piece), self.held + len(piece)
                if size > limit:
                    raise self._too_large()
                if self.held > self.bounds.held_bytes:
                    raise self._full("bytes")
                pieces.append(piece)
            whole = b"".join(pieces)
            pieces.clear()
            yield whole
        finally:
            self.held -= size

    def _too_large(self) -> Refusal:
        limit = self.bounds.request_bytes / 2**20
        return Refusal(
            413,
            f"the body is larger than {limit:g} MiB; raise --max-request-mb, or read the document with "
            "`qwenlong agent answer`",
            code="request_too_large",
        )


async def hung_up(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
