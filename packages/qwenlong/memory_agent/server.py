"""The memory agent as an OpenAI-compatible server: `/v1/chat/completions`, `/v1/models`, `/health`.

Log lines hold statuses, counts and times: no key, no document, no question, no answer.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwenlong.core.errors import UsageError
from qwenlong.core.logs import get
from qwenlong.memory_agent import chat_request, replies
from qwenlong.memory_agent.backends import EndpointBackend
from qwenlong.memory_agent.chat_request import ChatRequest, Refusal
from qwenlong.memory_agent.exchange import Exchange, refusal
from qwenlong.memory_agent.guards import (
    Bounds,
    Door,
    Gone,
    Receive,
    Scope,
    Send,
    check_exposure,
    check_host,
    check_json,
    check_key,
    is_loopback,
)
from qwenlong.memory_agent.loop import Step
from qwenlong.memory_agent.replies import BEAT, Answer
from qwenlong.memory_agent.service import Reply, Service

if TYPE_CHECKING:
    import uvicorn

_LOG = get(__name__)


class Chat:
    """The endpoint `/v1/chat/completions`, as an ASGI application."""

    def __init__(self, service: Service, names: frozenset[str], key: str | None, door: Door, local: bool) -> None:
        self.service, self.names, self.key, self.door, self.local = service, names, key, door, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every end of it is one log line."""
        exchange = Exchange(scope, receive, send)
        began = time.monotonic()
        try:
            check_host(scope, self.local)
            check_key(scope, self.key)
            check_json(scope)
            async with self.door.enter(), self.door.body(scope, receive) as body:
                await exchange.unless_gone(self._work(body, exchange), self.door.bounds.work_seconds)
        except Gone:
            exchange.about["status"] = "gone"
        except asyncio.CancelledError:
            # The server stops, and its grace is over.
            await exchange.fail(Refusal(503, "the server is stopping; ask again later", code="stopping"))
            raise
        except Exception as error:
            await exchange.fail(refusal(error))
        finally:
            shown = " ".join(f"{name}={value}" for name, value in exchange.about.items())
            _LOG.info("chat/completions %s %.2f s", shown, time.monotonic() - began)

    async def _work(self, body: bytes, exchange: Exchange) -> None:
        async with self.door.turn():
            request = await asyncio.to_thread(chat_request.parse, body)
            if request.model not in self.names:
                raise Refusal(
                    404,
                    f"no model {request.model[:80]!r}; this server has {sorted(self.names)[0]!r}",
                    param="model",
                    code="model_not_found",
                )
            room = await self.service.room(request)
            exchange.about["mode"] = "agent" if room is None else "direct"
            backend = self.service.backend
            if room is not None and isinstance(backend, EndpointBackend):
                await self._pass_on(request, body, room, backend, exchange)
            elif request.stream:
                await self._stream(request, room, exchange)
            else:
                reply = await self._reply(request, room, lambda step, total: None)
                exchange.count(reply)
                await exchange.whole(Answer(request).completion(reply))

    async def _reply(self, request: ChatRequest, room: int | None, on_step: Callable[[Step, int], None]) -> Reply:
        if room is None:
            return await self.service.read(request, on_step)
        return await self.service.direct(request, room)

    async def _pass_on(
        self, request: ChatRequest, body: bytes, room: int, backend: EndpointBackend, exchange: Exchange
    ) -> None:
        asked = await asyncio.to_thread(chat_request.to_pass_on, body)
        for name in ("max_tokens", "max_completion_tokens"):
            if asked.get(name) is not None:
                # A limit above what the window leaves would be refused; the reply cannot be longer anyway.
                asked[name] = min(asked[name], room)
        if not request.stream:
            await exchange.whole(replies.passed(await backend.client.completion(asked), request))
            return
        async with (
            backend.client.passed_on(asked) as response,
            aclosing(replies.passed_events(response, request, backend.client.without_key)) as events,
        ):
            async for one in events:
                await exchange.piece(one)
        await exchange.piece(replies.DONE, last=True)

    async def _stream(self, request: ChatRequest, room: int | None, exchange: Exchange) -> None:
        answer = Answer(request)
        steps: asyncio.Queue[tuple[Step, int]] = asyncio.Queue()
        work = asyncio.ensure_future(self._reply(request, room, lambda *step: steps.put_nowait(step)))
        try:
            # The first step decides whether the reply begins or is an error with a status of its own.
            async with aclosing(_beats(steps, work, self.door.bounds.beat_seconds)) as beats:
                async for step in beats:
                    if not exchange.started:
                        await exchange.piece(answer.opening())
                    await exchange.piece(answer.progress(*step) if step is not None else BEAT)
            reply = await work
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work
        exchange.count(reply)
        if not exchange.started:
            await exchange.piece(answer.opening())
        for piece in answer.ending(reply):
            await exchange.piece(piece)
        await exchange.piece(replies.DONE, last=True)


async def _beats(
    steps: asyncio.Queue[tuple[Step, int]], work: asyncio.Future[Reply], pause: float
) -> AsyncGenerator[tuple[Step, int] | None, None]:
    """Yield steps as they come, none after each pause without one, until the work is done."""
    getting = asyncio.ensure_future(steps.get())
    try:
        while True:
            either: set[asyncio.Future[Any]] = {getting, work}
            await asyncio.wait(either, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
                getting = asyncio.ensure_future(steps.get())
            elif work.done():
                return
            else:
                yield None
    finally:
        getting.cancel()


def application(service: Service, names: frozenset[str], key: str | None, bounds: Bounds, host: str) -> Starlette:
    """Return the server; `names` are those under which clients may ask for the model, `key` is what they must send.

    Raises UsageError when `host` is not loopback and there is no key.
    """
    check_exposure(host, key)
    door, local, since = Door(bounds), is_loopback(host), int(time.time())
    cards = [{"id": name, "object": "model", "created": since, "owned_by": "qwenlong"} for name in sorted(names)]

    def error(request: Request, raised: Exception) -> Response:
        status = raised.status_code if isinstance(raised, HTTPException) else 500
        shown = Refusal(status, {404: "no such address", 405: "no such method here"}.get(status, "refused"))
        shown = raised if isinstance(raised, Refusal) else shown
        return JSONResponse(shown.body(), shown.status, shown.headers)

    async def models(request: Request) -> Response:
        check_host(request.scope, local)
        check_key(request.scope, key)
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": cards})
        found = next((card for card in cards if card["id"] == name), None)
        if found is None:
            raise Refusal(404, "no such model; GET /v1/models lists them", param="model", code="model_not_found")
        return JSONResponse(found)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "running": door.running, "waiting": door.waiting})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.backend.close()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", Chat(service, names, key, door, local), methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", models),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: error, Refusal: error},
        lifespan=lifespan,
    )


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises UsageError naming an address that is not to be had."""
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error


def run(app: Starlette, listening: socket.socket, bounds: Bounds, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT: then nothing new is taken, and running requests have the grace to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(bounds.grace_seconds)),
        h11_max_incomplete_event_size=64 * 1024,
    )

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    with _orderly():
        server: uvicorn.Server = Announced(config)
        server.run(sockets=[listening])


@contextmanager
def _orderly() -> Iterator[None]:
    """Let an orderly end be one: uvicorn raises the signal that ended it again, when all is done."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
