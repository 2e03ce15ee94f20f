"""The client of one OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import ConfigError
from qwenlong.core.llm.cache import Cache
from qwenlong.core.llm.errors import Rejected, Unavailable
from qwenlong.core.llm.limits import Limits, Ticket, estimate
from qwenlong.core.llm.places import NotThere, Place, folder_of, locate
from qwenlong.core.llm.reply import Reply, parse
from qwenlong.core.llm.usage import Meter, Usage
from qwenlong.core.logs import REDACTED, get, redact_text

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
_LOG = get("qwenlong.core.llm")
_RETRIED = {408, 409, 425, 429}
#: Seconds between two looks for a service that is not there just now.
LOOK = 1.0
#: Failures after which a service may be on no machine, and seconds for a look whether it is.
_LOST, LOOK_TIMEOUT = {"connection", "timeout"}, 5.0
#: Longest pause between two tries, in seconds, whatever the server asks for.
MAX_PAUSE = 60.0
#: Share by which a pause may be shorter or longer, so that many clients do not come back at once.
JITTER = 0.25


class _Retry(Exception):
    def __init__(self, kind: str, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.pause = kind, pause


class Client:
    """An endpoint, for one event loop; `async with Client(endpoint) as client: await client.chat(messages, …)`.

    With `cache` (a folder), a reply to the very same request is read from disk; processes may share the folder, and
    a request that one of them is asking is not asked twice. Clients of one endpoint may share `limits`; by default
    each has its own. `usage` counts what was asked, answered and spent. With `private`, log lines name the kind of a
    fault and nothing that the server said, which may repeat the prompt. A service of the run (`service:…`) is followed
    to where its file says it is. Raises ConfigError when the variable named by `api_key_env` is not set, QwenlongError
    when the service does not run.
    """

    def __init__(
        self,
        endpoint: EndpointConfig,
        cache: Path | None = None,
        *,
        first_pause: float = 0.5,
        limits: Limits | None = None,
        private: bool = False,
    ) -> None:
        import httpx

        self.endpoint, self.cache, self._first_pause, self._private = endpoint, cache, first_pause, private
        self._cache = None if cache is None else Cache(cache)
        self._limits = Limits(endpoint) if limits is None else limits
        self._meter = Meter(endpoint)
        self._service = folder_of(endpoint.base_url)
        place = Place(endpoint.base_url.rstrip("/")) if self._service is None else locate(self._service)
        self._url, self._key = place.url + "/chat/completions", place.key
        if endpoint.api_key_env:
            self._key = os.environ.get(endpoint.api_key_env, "").strip()
            if not self._key:
                raise ConfigError(
                    f"api_key_env = {endpoint.api_key_env!r}: no such environment variable; export it, or remove the "
                    f"setting if {redact_text(endpoint.base_url)} needs no key"
                )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            httpx.URL(self._url)
            pool = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=None)
            own = None if self._service is None else httpx.AsyncHTTPTransport(limits=pool, socket_options=_watched())
            self._http = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(endpoint.timeout_seconds, connect=min(30.0, endpoint.timeout_seconds)),
                limits=pool,
                # A transport of one's own asks no proxy: the service is a machine of this cluster.
                transport=own,
            )
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError) as error:
            # The message of a refused header would hold the key.
            reason = "the key holds characters that a header cannot" if isinstance(error, UnicodeEncodeError) else "bad"
            raise ConfigError(f"endpoint {redact_text(endpoint.base_url)!r}: {reason}; mend base_url or key") from None
        # Pauses only spread load; they do not touch results.
        self._jitter = random.Random()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def usage(self) -> Usage:
        """What this client was used for so far."""
        return self._meter.usage

    def __repr__(self) -> str:
        return f"Client({self.endpoint.model!r} at {redact_text(self.endpoint.base_url)})"

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        stop: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Return the model's reply.

        Tries again with growing pauses (Retry-After is heeded) on 408, 409, 425, 429, 5xx, time-outs, broken
        connections and bodies that are no completion. Raises Unavailable after `retries` or at the deadline, Rejected
        on other 4xx.
        """
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [dict(m) for m in messages],
            "max_tokens": min(max_tokens, self.endpoint.max_tokens or max_tokens),
            "temperature": temperature,
            "top_p": top_p,
            # Servers read it as a signed 32- or 64-bit number.
            "seed": seed % 2**31,
        }
        if stop:
            body["stop"] = list(stop)
        if response_format:
            body["response_format"] = dict(response_format)
        if self._cache is None:
            async with self._limits.slots:
                return await self._reply(body)
        file = self._cache.file(body)
        reply = self._cache.read(file)
        if reply is None:
            # The slot first: who holds a request is then never kept waiting by who waits for it.
            async with self._limits.slots, self._cache.alone(file):
                reply = self._cache.read(file)
                if reply is None:
                    reply = await self._reply(body)
                    self._cache.write(file, reply)
        if reply.cached:
            self._meter.replied(reply)
        return reply

    async def completion(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request's body as it is, for this endpoint's model; return the server's whole object.

        For what `chat` knows nothing of: tools, formats, several choices. Tries and raises like `chat`.
        """
        async with self._limits.slots:
            return (await self._tries({**body, "model": self.endpoint.model}, self._value, 0))[0]

    @asynccontextmanager
    async def passed_on(self, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """Send like `completion`; yield the response, its own body unread: a stream.

        Tries again until a response begins; what breaks later raises httpx.HTTPError from the reading.
        """
        asked = {**body, "model": self.endpoint.model}
        async with self._limits.slots:
            response, _ = await self._tries(asked, self._begin, 0)
            try:
                yield response
            finally:
                await response.aclose()

    async def _reply(self, body: dict[str, Any]) -> Reply:
        reply, ticket = await self._tries(body, self._once, estimate(body["messages"], body["max_tokens"]))
        ticket.settle(reply.n_prompt_tokens + reply.n_response_tokens)
        self._meter.replied(reply)
        return reply

    async def _tries(
        self, body: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[T]], tokens: int
    ) -> tuple[T, Ticket]:
        deadline = self.endpoint.deadline_seconds
        try:
            async with asyncio.timeout(deadline):
                return await self._attempts(body, send, tokens)
        except TimeoutError:
            self._meter.failed("deadline")
            raise Unavailable(
                f"{self!r} gave no usable reply within {deadline:g} s, tries and pauses together; "
                "check that the server keeps up, or raise the deadline",
                "deadline",
            ) from None

    async def _attempts(
        self, body: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[T]], tokens: int
    ) -> tuple[T, Ticket]:
        pause, kind = self._first_pause, ""
        for attempt in range(self.endpoint.retries + 1):
            if attempt:
                await self._follow(kind)
            ticket = await self._limits.start(tokens)
            self._meter.sent(attempt)
            began = time.monotonic()
            try:
                return await send(body), ticket
            except _Retry as failure:
                self._meter.failed(failure.kind)
                reason, kind = str(failure), failure.kind
                if attempt == self.endpoint.retries:
                    break
                wait = pause if failure.pause is None else failure.pause
                spread = self._jitter.uniform(-JITTER, JITTER) if failure.pause is None else 0.0
                wait = min(wait * (1 + spread), MAX_PAUSE)
                said = kind if self._private else reason
                _LOG.warning("%r: %s; try %d in %.1f s", self, said, attempt + 2, wait)
                pause *= 2
            except Rejected as failure:
                self._meter.failed(f"status_{failure.status}")
                raise
            finally:
                self._meter.took(time.monotonic() - began)
            await asyncio.sleep(wait)
        tries = self.endpoint.retries + 1
        raise Unavailable(
            f"{self!r} gave no usable reply in {tries} {'try' if tries == 1 else 'tries'}, the last: {reason}; "
            "check that the server runs and that base_url is right",
            kind,
        )

    async def _follow(self, failure: str) -> None:
        """Look where the service is now; wait up to `timeout_seconds` while it is nowhere, between two machines.

        The file of one whose machine died stays: where nobody answers it says nothing.
        """
        if self._service is None:
            return
        end = time.monotonic() + self.endpoint.timeout_seconds
        while True:
            try:
                place = locate(self._service)
                if failure in _LOST and not await self._answers(place):
                    raise NotThere(
                        f"the service {self._service.name!r} does not answer at {place.url}, where it last was; "
                        "its machine may have died: run the same command again"
                    )
            except NotThere as error:
                if time.monotonic() >= end:
                    raise Unavailable(str(error), "connection") from None
                await asyncio.sleep(LOOK)
                continue
            self._url, self._key = place.url + "/chat/completions", place.key
            self._http.headers["Authorization"] = f"Bearer {self._key}"
            return

    async def _answers(self, place: Place) -> bool:
        """Tell whether a service takes requests at its address, ready or not."""
        import httpx

        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                await self._http.get(place.url.removesuffix("/v1") + "/health")
        except (httpx.HTTPError, TimeoutError):
            return False
        return True

    async def _once(self, body: dict[str, Any]) -> Reply:
        response = await self._post(body)
        try:
            reply = parse(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise self._no_completion(response) from None
        # A server that repeats the key would have it stand in caches and journals.
        return replace(reply, text=self.without_key(reply.text))

    async def _value(self, body: dict[str, Any]) -> dict[str, Any]:
        response = await self._post(body)
        try:
            value = json.loads(self.without_key(response.text))
            if value["choices"][0]["message"] is not None:
                return dict(value)
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            pass
        raise self._no_completion(response)

    def _no_completion(self, response: httpx.Response) -> _Retry:
        return _Retry("protocol", f"status {response.status_code}, but no completion: {self._message(response)!r}")

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        import httpx

        try:
            # httpx counts from one piece of the reply to the next: a server that drips would hold a request for ever.
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                response = await self._http.post(self._url, json=body)
        except (httpx.TimeoutException, TimeoutError):
            raise _Retry("timeout", f"no reply within {self.endpoint.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _Retry("connection", self._clean(f"{type(error).__name__}: {error}")) from None
        self._refuse(response, body)
        return response

    async def _begin(self, body: dict[str, Any]) -> httpx.Response:
        """Return a response whose status and headers are there and whose body is not yet read."""
        import httpx

        try:
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                request = self._http.build_request("POST", self._url, json=body)
                response = await self._http.send(request, stream=True)
                if response.status_code >= 400:
                    await response.aread()
        except (httpx.TimeoutException, TimeoutError):
            raise _Retry("timeout", f"no reply within {self.endpoint.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _Retry("connection", self._clean(f"{type(error).__name__}: {error}")) from None
        self._refuse(response, body)
        return response

    def _refuse(self, response: httpx.Response, body: Mapping[str, Any]) -> None:
        """Raise what a status of failure stands for."""
        status = response.status_code
        if status in _RETRIED or status >= 500:
            raise _Retry(f"status_{status}", f"status {status}: {self._message(response)}", _retry_after(response))
        if status >= 400:
            raise Rejected(
                f"{self!r} refused the request with status {status}: {self._message(response)}; "
                "check the model's name, the key's variable and the length of the prompt"
                + (", and structured_output" if "response_format" in body else ""),
                status,
                self._message(response),
            )

    def without_key(self, text: str) -> str:
        """Return `text` without this endpoint's key: a server may echo the key it was given."""
        return text.replace(self._key, REDACTED) if self._key else text

    def _clean(self, text: str) -> str:
        return redact_text(self.without_key(text))

    def _message(self, response: httpx.Response) -> str:
        return self._clean(" ".join(response.text.split()))[:300]


def _watched() -> list[tuple[int, int, int]]:
    """Return the socket options by which the kernel notices within 30 s that a machine has lost power or network.

    Without them a request that was sent waits for its reply as long as it may.
    """
    named = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
    options = [(socket.IPPROTO_TCP, getattr(socket, name), n) for name, n in named.items() if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or a date; None without a usable header."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
