"""One request's reply on the wire: whole, in pieces, or an error; and what a failure looks like to the client."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine
from typing import Any

import httpx
from starlette.responses import JSONResponse

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.llm import Rejected, Unavailable
from qwenlong.core.logs import get
from qwenlong.memory_agent import replies
from qwenlong.memory_agent.answering import EndpointDown
from qwenlong.memory_agent.chat_request import Refusal
from qwenlong.memory_agent.guards import Gone, Receive, Scope, Send, hung_up
from qwenlong.memory_agent.replies import Broken
from qwenlong.memory_agent.service import Reply

_LOG = get(__name__)
_LATER = {"Retry-After": "10"}
#: Statuses of the model's server that are the client's business; any other refusal is the operator's.
_CLIENTS = frozenset({400, 413, 422})


def refusal(error: BaseException) -> Refusal:
    """Return what a failure looks like to the client."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(504, "the answer took too long; raise --request-timeout, or stream", code="timeout")
    if isinstance(error, Unavailable):
        busy, late = error.kind == "status_429", error.kind in ("timeout", "deadline")
        status = 429 if busy else 504 if late else 503
        words = "is overloaded" if busy else "gave no reply in time" if late else "cannot be reached or fails"
        return Refusal(status, f"the model's server {words}; try again later", code="upstream", headers=_LATER)
    if isinstance(error, Rejected):
        if error.status in _CLIENTS:
            return Refusal(error.status, f"the model's server refused the request: {error.said}", code="upstream")
        return Refusal(
            503, f"the model's server refuses this one ({error.status}); see its key and name", code="upstream"
        )
    if isinstance(error, httpx.HTTPError | Broken):
        return Refusal(503, "the model's server broke off in the middle of a reply; ask again", code="upstream")
    if isinstance(error, EndpointDown):
        return Refusal(503, "the model's server gave up on one call after the other", code="upstream", headers=_LATER)
    if isinstance(error, UsageError | DataError):
        return Refusal(400, str(error))
    if isinstance(error, QwenlongError):
        # What the model said could not be used: its fault, neither the client's nor this server's.
        return Refusal(502, str(error), code="unusable_reply")
    # The message may hold anything, a document too: places in the code must do.
    places = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("internal error %s\n%s", type(error).__name__, places)
    return Refusal(500, "internal error; the server's log has the place", code="internal_error")


class Exchange:
    """The reply to one request on the wire, and what is logged of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.started = self.finished = False
        self.about: dict[str, Any] = {}

    async def unless_gone(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        """Run `work`; cancel it when the client hangs up (Gone) or the time is over (TimeoutError)."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(hung_up(self._receive))
        try:
            await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done() or self.finished:
                # Clients hang up when they have all; that is no leaving.
                await task
            elif gone.done():
                raise Gone
            else:
                raise TimeoutError
        finally:
            for one in (task, gone):
                one.cancel()
            await asyncio.wait({task, gone})
            for one in (task, gone):
                # Seen by nobody, an error would be logged, and its message may hold anything.
                _ = one.cancelled() or one.exception()

    def count(self, reply: Reply) -> None:
        """Note a reply's numbers for the log."""
        chunks = reply.about.get("chunks", {})
        self.about |= {"prompt": reply.prompt_tokens, "completion": reply.completion_tokens}
        self.about |= {f"chunks_{name}": number for name, number in chunks.items()}

    async def whole(self, value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send an object as the whole reply."""
        self.started, self.about["status"] = True, status
        await JSONResponse(value, status, headers)(self._scope, self._receive, self._send)
        self.finished = True

    async def piece(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of an event stream."""
        if not self.started:
            self.started, self.about["status"] = True, 200
            names = {b"content-type": b"text/event-stream; charset=utf-8", b"cache-control": b"no-store"}
            # Proxies would collect the pieces.
            names[b"x-accel-buffering"] = b"no"
            await self._send({"type": "http.response.start", "status": 200, "headers": list(names.items())})
        self.finished = last
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def fail(self, error: Refusal) -> None:
        """Send an error: with its status where nothing was sent yet, else as the last event of the stream."""
        self.about["code"] = error.code or error.status
        if self.finished:
            return
        if self.started:
            self.about["status"] = f"broken_{error.status}"
            # Whatever was begun before ends here.
            await self.piece(b"\n\n" + replies.event(error.body()))
            await self.piece(replies.DONE, last=True)
        else:
            await self.whole(error.body(), error.status, error.headers)
