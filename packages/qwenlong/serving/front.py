"""The one address before the replicas: the key, the least loaded replica, replies passed through as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwenlong.core.logs import get
from qwenlong.memory_agent.chat_request import Refusal
from qwenlong.memory_agent.guards import Bounds, Door, Gone, Receive, Scope, Send, check_key, hung_up
from qwenlong.serving.replica import Replica

_LOG = get(__name__)
#: Headers of one connection, not of the message (RFC 9110, 7.6.1), and those that the next hop sets itself.
_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "authorization", "expect", "date", "server",
}  # fmt: skip
#: Requests at once, waiting or with a replica; more are sent away with 429.
INSIDE = 4096
#: Seconds that a client is asked to wait before it comes back.
LATER = "15"


class Balancer:
    """The replicas, and which of them takes the next request."""

    def __init__(self, replicas: Sequence[Replica], hold_seconds: float) -> None:
        self.replicas, self._hold = list(replicas), hold_seconds
        self._turn = 0
        self._news = asyncio.Event()
        self.last_request = time.monotonic()
        """When a request was last under way, by the monotonic clock."""

    def changed(self) -> None:
        """Wake the requests that wait for a replica."""
        self._news.set()
        self._news = asyncio.Event()

    @property
    def busy(self) -> int:
        """Requests with a replica."""
        return sum(replica.busy for replica in self.replicas)

    def _least(self, tried: set[int]) -> Replica | None:
        ready = [r for r in self.replicas if r.ready and r.number not in tried]
        self._turn += 1
        # Equal loads take turns.
        key = [(r.busy, (r.number - self._turn) % len(self.replicas)) for r in ready]
        return ready[key.index(min(key))] if ready else None

    async def choose(self, tried: set[int]) -> Replica:
        """Return the least loaded replica that is ready, waiting for one. Raises Refusal (503) when none comes."""
        end = time.monotonic() + self._hold
        while True:
            found = self._least(tried)
            if found is not None:
                return found
            # Those that refused a connection may be ready again after their restart.
            tried.clear()
            news, left = self._news, end - time.monotonic()
            if left <= 0 or all(replica.given_up for replica in self.replicas):
                raise Refusal(503, "no replica is ready", code="no_replica", headers={"Retry-After": LATER})
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await news.wait()


class Front:
    """Everything under /v1, as an ASGI application: passed to a replica and back."""

    def __init__(self, balancer: Balancer, client: httpx.AsyncClient, key: str, bounds: Bounds) -> None:
        self.balancer, self.client, self.key, self.door = balancer, client, key, Door(bounds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = False

        async def tell(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            check_key(scope, self.key)
            async with self.door.enter(), self.door.body(scope, receive) as body:
                await self._unless_gone(receive, self._passed(scope, body, tell))
        except Gone:
            return
        except (Refusal, httpx.HTTPError) as error:
            if started:
                # What has begun cannot become an error: the connection breaks, and the client sees that it did.
                raise ConnectionAbortedError("a replica broke off in the middle of a reply") from None
            shown = error if isinstance(error, Refusal) else _broken(error)
            await JSONResponse(shown.body(), shown.status, shown.headers)(scope, receive, send)

    async def _unless_gone(self, receive: Receive, work: Any) -> None:
        """Do the work, and drop it when the client hangs up: the replica then stops generating."""
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(receive))
        either: set[asyncio.Future[Any]] = {working, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Gone
            await working
        finally:
            for one in either:
                one.cancel()
            await asyncio.gather(*either, return_exceptions=True)

    async def _passed(self, scope: Scope, body: bytes, send: Send) -> None:
        tried: set[int] = set()
        while True:
            replica = await self.balancer.choose(tried)
            try:
                async with self._counted(replica):
                    await self._with(replica, scope, body, send)
                return
            except (httpx.ConnectError, httpx.ConnectTimeout):
                # Nothing was sent, so that another one may take it.
                tried.add(replica.number)

    @asynccontextmanager
    async def _counted(self, replica: Replica) -> AsyncIterator[None]:
        replica.busy += 1
        self.balancer.last_request = time.monotonic()
        try:
            yield
            replica.served += 1
        finally:
            replica.busy -= 1
            self.balancer.last_request = time.monotonic()

    async def _with(self, replica: Replica, scope: Scope, body: bytes, send: Send) -> None:
        query = scope["query_string"]
        url = httpx.URL(replica.url).copy_with(raw_path=_raw_path(scope) + (b"?" + query if query else b""))
        sent = [(k, v) for k, v in scope["headers"] if k.decode("latin-1").lower() not in _HOP]
        headers = [*sent, (b"authorization", replica.headers["Authorization"].encode())]
        request = self.client.build_request(scope["method"], url, headers=headers, content=body)
        response = await self.client.send(request, stream=True)
        try:
            # A stream goes out as it comes. Anything else is whole before its first byte goes out, or becomes an error.
            stream = response.headers.get("content-type", "").startswith("text/event-stream")
            pieces = [] if stream else [piece async for piece in response.aiter_raw()]
            kept = [(k.lower(), v) for k, v in response.headers.raw if k.decode("latin-1").lower() not in _HOP]
            if not stream:
                kept.append((b"content-length", str(sum(map(len, pieces))).encode()))
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            if stream:
                async for piece in response.aiter_raw():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": False})
        finally:
            await response.aclose()


def _raw_path(scope: Scope) -> bytes:
    return bytes(scope.get("raw_path") or scope["path"].encode())


def _broken(error: httpx.HTTPError) -> Refusal:
    # The message may hold a replica's address; the kind is enough.
    said = f"a replica broke off ({type(error).__name__}); ask again"
    return Refusal(502, said, code="replica_lost", headers={"Retry-After": "1"})


def application(
    balancer: Balancer, client: httpx.AsyncClient, key: str, bounds: Bounds, about: dict[str, Any]
) -> Starlette:
    """Return the front: /v1/… for clients with the key, /health and /status for whoever watches."""
    front = Front(balancer, client, key, bounds)

    def error(request: Request, raised: Exception) -> Response:
        status = raised.status_code if isinstance(raised, HTTPException) else 500
        shown = raised if isinstance(raised, Refusal) else Refusal(status, "no such address; ask below /v1")
        return JSONResponse(shown.body(), shown.status, shown.headers)

    async def health(request: Request) -> Response:
        ready = sum(replica.ready for replica in balancer.replicas)
        return JSONResponse({"ready": ready, "replicas": len(balancer.replicas)}, 200 if ready else 503)

    async def status(request: Request) -> Response:
        check_key(request.scope, key)
        rows = [
            {"number": r.number, "ready": r.ready, "busy": r.busy, "served": r.served, "starts": r.starts,
             "given_up": r.given_up, "host": r.spot.host}
            for r in balancer.replicas
        ]  # fmt: skip
        return JSONResponse({**about, "replicas": rows})

    return Starlette(
        routes=[
            Route("/v1/{path:path}", front, methods=["GET", "POST"]),
            Route("/health", health),
            Route("/status", status),
        ],
        exception_handlers={HTTPException: error, Refusal: error},
    )
