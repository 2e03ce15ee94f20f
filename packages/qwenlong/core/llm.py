"""A client for OpenAI-compatible endpoints: retries, a cap on requests in flight, an optional cache on disk."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import ConfigError, DataError, QwenlongError
from qwenlong.core.files import digest_value, read_json, write_json
from qwenlong.core.logs import REDACTED, get, redact_text

if TYPE_CHECKING:
    import httpx

_LOG = get(__name__)
_RETRIED = {408, 409, 425, 429}
#: Longest pause between two tries, in seconds, whatever the server asks for.
MAX_PAUSE = 60.0


class LLMError(QwenlongError):
    """An endpoint that gave no usable reply. Never holds the key."""


class Unavailable(LLMError):
    """No usable reply after all tries: unreachable, too slow, overloaded, failing, or not speaking the protocol."""


class Rejected(LLMError):
    """The server refused this request (4xx): a wrong key, an unknown model, a prompt that is too long."""


@dataclass(frozen=True)
class Reply:
    """One completion. Token counts are the server's, 0 where it gives none."""

    text: str
    finish_reason: str
    n_prompt_tokens: int
    n_response_tokens: int


class _Retry(Exception):
    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Client:
    """An endpoint, for one event loop; `async with Client(endpoint) as client: await client.chat(messages, …)`.

    With `cache` (a folder), a reply to the very same request is read from disk. Raises ConfigError when the variable
    named by `api_key_env` is not set.
    """

    def __init__(self, endpoint: EndpointConfig, cache: Path | None = None, *, first_pause: float = 0.5) -> None:
        import httpx

        self.endpoint, self.cache, self._first_pause = endpoint, cache, first_pause
        self._url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self._key = ""
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
            self._http = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(endpoint.timeout_seconds, connect=min(30.0, endpoint.timeout_seconds)),
                limits=httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=None),
            )
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError) as error:
            # The message of a refused header would hold the key.
            reason = "the key holds characters that a header cannot" if isinstance(error, UnicodeEncodeError) else "bad"
            raise ConfigError(f"endpoint {redact_text(endpoint.base_url)!r}: {reason}; mend base_url or key") from None
        self._slots = asyncio.Semaphore(endpoint.concurrency)
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
        connections and bodies that are no completion. Raises Unavailable after `retries`, Rejected on other 4xx.
        """
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [dict(m) for m in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            # Servers read it as a signed 32- or 64-bit number.
            "seed": seed % 2**31,
        }
        if stop:
            body["stop"] = list(stop)
        if response_format:
            body["response_format"] = dict(response_format)
        file = self._cache_file(body)
        if file is not None and (cached := _cached(file)) is not None:
            return cached
        async with self._slots:
            reply = await self._tries(body)
        if file is not None:
            write_json(file, asdict(reply))
        return reply

    def _cache_file(self, body: dict[str, Any]) -> Path | None:
        if self.cache is None:
            return None
        digest = digest_value(body)
        return Path(self.cache) / digest[:2] / f"{digest}.json"

    async def _tries(self, body: dict[str, Any]) -> Reply:
        pause = self._first_pause
        for attempt in range(self.endpoint.retries + 1):
            try:
                return await self._once(body)
            except _Retry as failure:
                reason = str(failure)
                if attempt == self.endpoint.retries:
                    break
                wait = failure.pause if failure.pause is not None else pause * self._jitter.uniform(0.75, 1.25)
                wait = min(wait, MAX_PAUSE)
                _LOG.warning("%r: %s; try %d in %.1f s", self, reason, attempt + 2, wait)
                await asyncio.sleep(wait)
                pause *= 2
        tries = self.endpoint.retries + 1
        raise Unavailable(
            f"{self!r} gave no usable reply in {tries} {'try' if tries == 1 else 'tries'}, the last: {reason}; "
            "check that the server runs and that base_url is right"
        )

    async def _once(self, body: dict[str, Any]) -> Reply:
        import httpx

        try:
            response = await self._http.post(self._url, json=body)
        except httpx.TimeoutException:
            raise _Retry(f"no reply within {self.endpoint.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _Retry(self._clean(f"{type(error).__name__}: {error}")) from None
        status = response.status_code
        if status in _RETRIED or status >= 500:
            raise _Retry(f"status {status}: {self._message(response)}", _retry_after(response))
        if status >= 400:
            raise Rejected(
                f"{self!r} refused the request with status {status}: {self._message(response)}; "
                "check the model's name, the key's variable and the length of the prompt"
            )
        try:
            return _parse(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Retry(f"status {status}, but no completion: {self._message(response)!r}") from None

    def _clean(self, text: str) -> str:
        # A server may echo the key it was given.
        if self._key:
            text = text.replace(self._key, REDACTED)
        return redact_text(text)

    def _message(self, response: httpx.Response) -> str:
        return self._clean(" ".join(response.text.split()))[:300]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _parse(value: Any) -> Reply:
    choice = value["choices"][0]
    text = choice["message"]["content"]
    if text is None:  # A reasoning parser on the server that found nothing but reasoning.
        text = ""
    if not isinstance(text, str):
        raise TypeError("content is not text")
    usage = value.get("usage") or {}
    return Reply(
        text=text,
        finish_reason=str(choice.get("finish_reason") or "stop"),
        n_prompt_tokens=int(usage.get("prompt_tokens") or 0),
        n_response_tokens=int(usage.get("completion_tokens") or 0),
    )


def _cached(file: Path) -> Reply | None:
    if not file.exists():
        return None
    try:
        return Reply(**read_json(file))
    except (DataError, TypeError):
        return None  # Damaged: asked again and overwritten.
