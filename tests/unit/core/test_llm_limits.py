"""Limits per minute under a clock of the test's own; usage and cost; the cache shared by processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qwenlong
from qwenlong.core.config import EndpointConfig
from qwenlong.core.llm import Client, Limits, Rejected, Unavailable, Usage, total
from qwenlong.core.llm.cache import Cache
from qwenlong.core.llm.limits import WINDOW, Ticket

KEY = "correct-horse-battery-staple"
MESSAGES = [{"role": "user", "content": "Which year?"}]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def limits(clock: Clock, **settings_: int) -> Limits:
    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", **settings_)
    return Limits(endpoint, clock=clock, sleep=clock.sleep)


def starts(clock: Clock, bound: Limits, tokens: list[int]) -> list[Ticket]:
    async def go() -> list[Ticket]:
        return list(await asyncio.gather(*(bound.start(n) for n in tokens)))

    return asyncio.run(go())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(1, 7), st.integers(90, 250))
def test_no_minute_holds_more_than_the_limits(sizes: list[int], requests: int, tokens: int) -> None:
    clock = Clock()
    tickets = starts(clock, limits(clock, requests_per_minute=requests, tokens_per_minute=tokens), sizes)
    assert [t.tokens for t in tickets] == sizes  # in the order in which they came
    assert [t.start for t in tickets] == sorted(t.start for t in tickets)
    for ticket in tickets:
        inside = [t for t in tickets if ticket.start <= t.start < ticket.start + WINDOW]
        assert len(inside) <= requests and sum(t.tokens for t in inside) <= tokens


def test_requests_are_not_held_back_longer_than_the_limit_asks() -> None:
    clock = Clock()
    tickets = starts(clock, limits(clock, requests_per_minute=2), [1] * 6)
    assert [t.start - 1000 for t in tickets] == [0, 0, 60, 60, 120, 120]


def test_without_limits_nothing_waits_and_nothing_is_kept() -> None:
    clock = Clock()
    bound = limits(clock)
    starts(clock, bound, [10**9] * 50)
    assert clock.now == 1000.0 and not bound._window


def test_a_request_above_the_limit_waits_for_an_empty_window_and_goes() -> None:
    clock = Clock()
    tickets = starts(clock, limits(clock, tokens_per_minute=100), [50, 5000, 50])
    assert [t.start - 1000 for t in tickets] == [0, 60, 120]


def test_a_reply_smaller_than_its_estimate_makes_room() -> None:
    clock = Clock()
    bound = limits(clock, tokens_per_minute=100)

    async def go() -> float:
        (await bound.start(90)).settle(10)
        (await bound.start(80)).settle(0)  # a server that does not count: the estimate stands
        await bound.start(20)
        return clock.now - 1000

    assert asyncio.run(go()) == 60


def client(url: str, cache: Path | None = None, **settings_: Any) -> Client:
    options: dict[str, Any] = {"retries": 2, "timeout_seconds": 60.0} | settings_
    return Client(EndpointConfig(base_url=url, model="m", **options), cache, first_pause=0.01)


async def chat(one: Client, seed: int = 0) -> str:
    return (await one.chat(MESSAGES, max_tokens=9, temperature=0.0, top_p=1.0, seed=seed)).text


def test_every_try_counts_against_the_limit(endpoint: Any) -> None:
    said = iter([{"status": 500}, {"status": 503}, "1912"])
    endpoint.answer = lambda body: next(said)
    clock = Clock()
    bound = limits(clock, requests_per_minute=1)

    async def go() -> Usage:
        options = EndpointConfig(base_url=endpoint.url, model="m", retries=2)
        async with Client(options, first_pause=0.01, limits=bound) as one:
            await chat(one)
            return one.usage

    usage = asyncio.run(go())
    assert clock.now - 1000 == 120
    assert usage.requests == 3 and usage.retries == 2 and usage.failures == {"status_500": 1, "status_503": 1}


def test_usage_and_cost(endpoint: Any, tmp_path: Path) -> None:
    told = iter([{"status": 429}, {"drop": True}, "a", {"body": b"{half"}, "b", {"status": 400}])
    endpoint.answer = lambda body: next(told)

    async def go() -> dict[str, Any]:
        prices = {"price_per_million_prompt": 2.0, "price_per_million_completion": 30.0}
        async with client(endpoint.url, tmp_path, **prices) as one:
            await chat(one, 1)
            await chat(one, 2)
            await chat(one, 2)
            with pytest.raises(Rejected) as caught:
                await chat(one, 3)
            assert caught.value.status == 400
            return one.usage.snapshot()

    began = time.monotonic()
    found = asyncio.run(go())
    assert 0 < found.pop("seconds") < time.monotonic() - began
    assert found == {
        "requests": 6,
        "replies": 2,
        "cached": 1,
        "retries": 3,
        "failures": {"connection": 1, "protocol": 1, "status_400": 1, "status_429": 1},
        "prompt_tokens": 200,
        "completion_tokens": 20,
        "cost": 0.001,
    }
    whole = total([found, found | {"seconds": 1.0}])
    assert whole["cost"] == 0.002 and whole["failures"]["status_429"] == 2 and json.dumps(whole)


def test_time_outs_are_counted_by_kind(endpoint: Any) -> None:
    endpoint.answer = lambda body: {"text": "late", "pause": 30.0}

    async def go() -> Usage:
        async with client(endpoint.url, retries=1, timeout_seconds=0.2) as one:
            with pytest.raises(Unavailable):
                await chat(one)
            return one.usage

    usage = asyncio.run(go())
    assert usage.failures == {"timeout": 2} and usage.requests == 2 and 0.3 < usage.seconds < 20


def test_a_deadline_bounds_tries_and_pauses_together(endpoint: Any) -> None:
    endpoint.answer = lambda body: {"status": 503, "headers": {"Retry-After": "30"}}

    async def go(**settings_: Any) -> Usage:
        async with client(endpoint.url, **settings_) as one:
            await chat(one)
            return one.usage

    began = time.monotonic()
    with pytest.raises(Unavailable, match="within 0.4 s, tries and pauses together"):
        asyncio.run(go(retries=9, deadline_seconds=0.4))
    # None where a busy machine has not read it before the deadline.
    assert time.monotonic() - began < 20 and len(endpoint.requests) <= 1
    endpoint.answer = lambda body: {"text": "late", "pause": 0.1}
    assert asyncio.run(go(deadline_seconds=60.0)).replies == 1


def test_retry_after_may_be_a_date(endpoint: Any) -> None:
    began = time.monotonic()
    said = iter([{"status": 429, "headers": {"Retry-After": formatdate(time.time() + 2, usegmt=True)}}, "1912"])
    endpoint.answer = lambda body: next(said)

    async def go() -> None:
        async with client(endpoint.url) as one:
            await chat(one)

    asyncio.run(go())
    assert 0.9 < time.monotonic() - began < 20


def test_the_key_reaches_no_file_no_log_and_no_reply(
    endpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    said = iter([{"status": 500, "body": KEY.encode()}, f"you sent {KEY}"])
    endpoint.answer = lambda body: next(said)

    async def go() -> str:
        async with client(endpoint.url, tmp_path, api_key_env="JUDGE_KEY") as one:
            text = await chat(one)
            return text + repr(one) + repr(one.usage) + repr(vars(one)["endpoint"])

    assert KEY not in asyncio.run(go())
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in caplog.text
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "left", [b"", b"{", b"\xff\xfe", b"null", b'{"text": 3}', b'{"text": "a", "finish_reason": "stop"}', b"[" * 100_000]
)
def test_a_damaged_cache_file_is_asked_again(endpoint: Any, tmp_path: Path, left: bytes) -> None:
    async def go() -> str:
        async with client(endpoint.url, tmp_path) as one:
            return await chat(one)

    asyncio.run(go())
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(left)
    assert asyncio.run(go()) == "1912" and len(endpoint.requests) == 2
    assert asyncio.run(go()) == "1912" and len(endpoint.requests) == 2


def test_the_same_request_at_once_is_paid_once(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda body: {"text": "1912", "pause": 0.2}

    async def go() -> tuple[list[str], Usage]:
        async with client(endpoint.url, tmp_path) as one:
            return await asyncio.gather(*(chat(one) for _ in range(8))), one.usage

    texts, usage = asyncio.run(go())
    assert texts == ["1912"] * 8 and len(endpoint.requests) == 1
    assert (usage.replies, usage.cached) == (1, 7)
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".json"]


def test_a_failure_lets_the_next_one_ask(endpoint: Any, tmp_path: Path) -> None:
    said = iter([{"status": 400, "pause": 0.1}, "1912"])
    endpoint.answer = lambda body: next(said)

    async def go() -> list[Any]:
        async with client(endpoint.url, tmp_path) as one:
            return await asyncio.gather(chat(one), chat(one), return_exceptions=True)

    found = asyncio.run(go())
    assert sorted(type(value).__name__ for value in found) == ["Rejected", "str"]


#: The code under test, also in a process of its own.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(qwenlong.__file__).parents[1])}
PROCESS = """
import asyncio, sys
from pathlib import Path
from qwenlong.core.config import EndpointConfig
from qwenlong.core.llm import Client

async def go(url, cache):
    async with Client(EndpointConfig(base_url=url, model="m", concurrency=4), Path(cache)) as client:
        return await asyncio.gather(*(
            client.chat([{"role": "user", "content": "Which?"}], max_tokens=9, temperature=0, top_p=1, seed=s)
            for s in range(12)
        ))

print("".join(reply.text for reply in asyncio.run(go(*sys.argv[1:]))))
"""


def test_two_processes_share_a_cache_and_pay_once(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda body: {"text": chr(97 + body["seed"]), "pause": 0.15}
    command = [sys.executable, "-c", PROCESS, endpoint.url, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["abcdefghijkl"] * 2
    assert sorted(body["seed"] for body in endpoint.requests) == list(range(12))


def test_a_lock_left_by_a_killed_process_holds_nobody_up(tmp_path: Path, endpoint: Any) -> None:
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    file = Cache(tmp_path).file(body)
    file.parent.mkdir(parents=True)
    file.with_suffix(".lock").touch()

    async def go() -> str:
        async with client(endpoint.url, tmp_path) as one:
            return await asyncio.wait_for(chat(one), 60)

    assert asyncio.run(go()) == "1912" and file.is_file()
