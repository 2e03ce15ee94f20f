"""The client against a real server on loopback that fails in all the usual ways."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import ConfigError
from qwenlong.core.llm import Client, LLMError, Rejected, Reply, Unavailable
from scripted import together

KEY = "correct-horse-battery-staple"
MESSAGES = [{"role": "user", "content": "Which year?"}]
GOOD = {
    "choices": [{"message": {"role": "assistant", "content": "1912"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


class Script:
    """The scripted endpoint with the next of `script` (the last for ever): status, body, headers, seconds before."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.script: list[tuple[int, Any, dict[str, str], float]] = [(200, GOOD, {}, 0.0)]
        endpoint.answer = self._answer

    def _answer(self, _: dict[str, Any]) -> dict[str, Any]:
        with self._endpoint.guard:
            status, value, headers, pause = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return {"status": status, "body": data, "headers": headers, "pause": pause}

    @property
    def url(self) -> str:
        return str(self._endpoint.url)

    @property
    def requests(self) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        seen = self._endpoint
        return list(zip(seen.paths, seen.headers, seen.requests, strict=True))

    @property
    def times(self) -> list[float]:
        return list(self._endpoint.times)

    def meet(self, count: int) -> None:
        """Answer once `count` requests are in flight."""
        self._endpoint.answer = together(self._answer, count)

    @property
    def most(self) -> int:
        return int(self._endpoint.most)


@pytest.fixture
def server(endpoint: Any) -> Script:
    return Script(endpoint)


def ask(url: str, cache: Path | None = None, n: int = 1, **settings: Any) -> list[Reply]:
    """Ask `n` times at once, with short pauses between tries."""
    options: dict[str, Any] = {"retries": 2, "timeout_seconds": 60.0} | settings

    async def go() -> list[Reply]:
        async with Client(EndpointConfig(base_url=url, model="m", **options), cache, first_pause=0.01) as client:
            return await asyncio.gather(
                *(client.chat(MESSAGES, max_tokens=9, temperature=0.7, top_p=0.95, seed=s) for s in range(n))
            )

    return asyncio.run(go())


def test_a_reply_and_the_request_behind_it(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    async def go() -> Reply:
        endpoint = EndpointConfig(base_url=server.url + "/", model="m", api_key_env="JUDGE_KEY")
        async with Client(endpoint) as client:
            assert KEY not in repr(client)
            return await client.chat(
                MESSAGES,
                max_tokens=9,
                temperature=0.0,
                top_p=1.0,
                seed=2**62 + 3,
                stop=["\n"],
                response_format={"type": "json_object"},
            )

    assert asyncio.run(go()) == Reply("1912", "stop", 5, 2)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 3,
        "stop": ["\n"],
        "response_format": {"type": "json_object"},
    }


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": "slow down"}, {}),
        (500, b"oops", {}),
        (503, b"", {"Retry-After": "soon"}),
        (200, b"{half a body", {}),
        (200, {"choices": []}, {}),
        (200, {"error": "200 all the same"}, {}),
        (200, {"choices": [{"message": {"content": ["not text"]}}]}, {}),
        (200, b"<html>proxy</html>", {}),
    ],
)
def test_it_tries_again_and_then_succeeds(server: Script, failure: tuple[int, Any, dict[str, str]]) -> None:
    server.script = [(*failure, 0.0), (*failure, 0.0), (200, GOOD, {}, 0.0)]
    assert ask(server.url)[0].text == "1912"
    assert len(server.requests) == 3


def test_it_heeds_retry_after(server: Script) -> None:
    server.script = [(429, b"", {"Retry-After": "0.4"}, 0.0), (200, GOOD, {}, 0.0)]
    ask(server.url)
    assert server.times[1] - server.times[0] >= 0.4


def test_pauses_grow(server: Script) -> None:
    server.script = [(500, b"", {}, 0.0)]

    async def go() -> None:
        endpoint = EndpointConfig(base_url=server.url, model="m", retries=3)
        async with Client(endpoint, first_pause=0.1) as client:
            await client.chat(MESSAGES, max_tokens=1, temperature=0, top_p=1, seed=0)

    with pytest.raises(Unavailable, match="in 4 tries, the last: status 500"):
        asyncio.run(go())
    pauses = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert pauses[0] >= 0.075 and pauses[1] >= 0.15 and pauses[2] >= 0.3


def test_time_out(server: Script) -> None:
    server.script = [(200, GOOD, {}, 30.0)]
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"in 2 tries, the last: no reply within 0\.2 s; check that the server runs"):
        ask(server.url, retries=1, timeout_seconds=0.2)
    # Fewer where a request was given up before a busy machine has read it.
    assert time.monotonic() - began < 20 and len(server.requests) <= 2


def test_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"'m' at http://127.0.0.1:{port}/v1.*ConnectError"):
        ask(f"http://127.0.0.1:{port}/v1")


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_final(server: Script, status: int) -> None:
    server.script = [(status, {"message": "no such model"}, {}, 0.0)]
    with pytest.raises(Rejected, match=f"status {status}.*no such model.*check the model's name"):
        ask(server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_key_is_never_shown(
    server: Script, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even when the server repeats it, nor when it stands in the address."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server.script = [(status, {"error": f"you sent Bearer {KEY}"}, {}, 0.0)]
    url = server.url.replace("http://", "http://me:hunter2hunter2@")
    with pytest.raises(LLMError) as caught:
        ask(url, api_key_env="JUDGE_KEY", retries=1)
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in f"{error!s} {error!r}" and "hunter2" not in f"{error!s} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert KEY not in caplog.text
    assert "hunter2" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("qwenlong"))


def test_a_missing_or_unusable_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="api_key_env = 'JUDGE_KEY': no such environment variable; export it"):
        ask("http://127.0.0.1:9/v1", api_key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "schlüssel-ключ-12345")
    with pytest.raises(ConfigError, match="a header cannot") as caught:
        ask("http://127.0.0.1:9/v1", api_key_env="JUDGE_KEY")
    assert "12345" not in str(caught.value)


def test_requests_in_flight_are_capped(server: Script) -> None:
    server.meet(3)
    assert len(ask(server.url, n=12, concurrency=3)) == 12
    assert server.most == 3


def test_the_cache_answers_the_same_request_and_no_other(server: Script, tmp_path: Path) -> None:
    first = ask(server.url, tmp_path, n=2)
    assert len(server.requests) == 2  # two seeds, two requests
    assert ask(server.url, tmp_path, n=2) == first and len(server.requests) == 2
    for file in tmp_path.rglob("*.json"):
        file.write_text('{"text": "hal')
    assert ask(server.url, tmp_path, n=2) == first and len(server.requests) == 4


def test_a_failure_is_not_cached(server: Script, tmp_path: Path) -> None:
    server.script = [(400, b"", {}, 0.0), (200, GOOD, {}, 0.0)]
    with pytest.raises(Rejected):
        ask(server.url, tmp_path)
    assert ask(server.url, tmp_path)[0].text == "1912"


def test_missing_usage_and_empty_content_are_bearable(server: Script) -> None:
    server.script = [(200, {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, {}, 0.0)]
    assert ask(server.url) == [Reply("", "length", 0, 0)]
