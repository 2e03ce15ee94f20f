"""The resumable map: values, refusals and outages, and a kill in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import qwenlong
from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.llm import Client, Journal, Outcome, Refused, Request, gather, spent, total

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def request(item: int) -> Request:
    return Request([{"role": "user", "content": str(item)}], 9, seed=item, schema=SCHEMA, tries=2)


def parse(item: int, value: dict[str, Any]) -> int:
    if value["n"] < 0:
        raise Refused("negative", f"n = {value['n']}")
    return item * 1000 + value["n"]


def asked(body: dict[str, Any]) -> int:
    return int(body["messages"][0]["content"])


def run(url: str, journal: Path, items: list[int], **settings: Any) -> list[Outcome[int]]:
    options: dict[str, Any] = {"retries": 0, "timeout_seconds": 60.0, "concurrency": 4} | settings

    async def go() -> list[Outcome[int]]:
        async with Client(EndpointConfig(base_url=url, model="m", **options), first_pause=0.01) as client:
            return await gather(client, items, request, parse, journal, key=str)

    return asyncio.run(go())


def test_values_in_order_and_a_second_run_asks_nothing(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda body: {"text": json.dumps({"n": asked(body)}), "pause": 0.01 * (asked(body) % 3)}
    journal = tmp_path / "journal.jsonl"
    found = run(endpoint.url, journal, list(range(20)))
    assert [outcome.value for outcome in found] == [item * 1001 for item in range(20)]
    assert len(endpoint.requests) == 20 and len(journal.read_text().splitlines()) == 20
    assert run(endpoint.url, journal, list(range(20))) == found and len(endpoint.requests) == 20
    assert total(spent(journal))["prompt_tokens"] == 2000
    # More items cost only themselves; another model or request is another question.
    run(endpoint.url, journal, list(range(22)))
    assert len(endpoint.requests) == 22


def test_refusals_are_kept_and_outages_asked_again(endpoint: Any, tmp_path: Path) -> None:
    replies: dict[int, Any] = {
        0: '{"n": 0}',
        1: "no JSON",
        2: {"status": 500},
        3: {"text": '{"n": 3}', "finish": "length"},
        4: '{"n": -4}',
        5: {"drop": True},
        6: {"status": 400},
    }
    endpoint.answer = lambda body: replies[asked(body)]
    journal = tmp_path / "journal.jsonl"
    found = run(endpoint.url, journal, list(replies))
    kinds = [None, "malformed", "unavailable", "truncated", "negative", "unavailable", "rejected"]
    assert [outcome.error for outcome in found] == kinds
    replies |= {n: json.dumps({"n": n}) for n in replies}
    endpoint.requests.clear()
    again = run(endpoint.url, journal, list(replies))
    assert sorted(map(asked, endpoint.requests)) == [2, 5]
    assert [outcome.error for outcome in again] == [None if k == "unavailable" else k for k in kinds]
    assert again[2].value == 2002 and again[5].value == 5005


@pytest.mark.parametrize(("said", "most"), [({"status": 500}, 11), ({"status": 401}, 4)])
def test_it_gives_up_on_an_endpoint_that_is_down_and_goes_on_next_time(
    endpoint: Any, tmp_path: Path, said: Any, most: int
) -> None:
    endpoint.answer = lambda body: said
    found = run(endpoint.url, tmp_path / "j.jsonl", list(range(200)))
    assert len(endpoint.requests) <= most
    assert {outcome.error for outcome in found} <= {"unavailable", "denied", "not_asked"}
    assert all(outcome.outage for outcome in found)
    endpoint.answer = lambda body: '{"n": 1}'
    assert all(outcome.ok for outcome in run(endpoint.url, tmp_path / "j.jsonl", list(range(200))))


def test_the_endpoints_own_limit_bounds_every_reply(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda body: {"text": '{"n": 1}', "finish": "length" if body["max_tokens"] < 9 else "stop"}
    assert run(endpoint.url, tmp_path / "j.jsonl", [1], max_tokens=4)[0].error == "truncated"
    assert {body["max_tokens"] for body in endpoint.requests} == {4}
    # Without it the cut-off reply is no longer the answer.
    assert run(endpoint.url, tmp_path / "j.jsonl", [1])[0].value == 1001
    assert endpoint.requests[-1]["max_tokens"] == 9


def test_two_items_with_one_id_are_refused(endpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two items have the id '1'"):
        run(endpoint.url, tmp_path / "j.jsonl", [1, 2, 1])


def test_a_bug_in_parse_is_raised_as_it_is(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda body: '{"n": 1}'

    async def go() -> None:
        async with Client(EndpointConfig(base_url=endpoint.url, model="m")) as client:
            await gather(client, [1], request, lambda item, value: 1 // 0, tmp_path / "j.jsonl", key=str)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(go())


@pytest.mark.parametrize("tail", [b'{"id": "9", "requ', b"\x00" * 40, b"\xff\n", b'{"id": "9"}\n', b"5\n"])
def test_half_a_last_line_is_cut_off(endpoint: Any, tmp_path: Path, tail: bytes) -> None:
    endpoint.answer = lambda body: '{"n": 1}'
    journal = tmp_path / "j.jsonl"
    run(endpoint.url, journal, [1, 2])
    whole = journal.read_bytes()
    journal.write_bytes(whole + tail)
    run(endpoint.url, journal, [1, 2])
    assert journal.read_bytes() == whole and len(endpoint.requests) == 2


def test_a_last_line_without_its_end_counts(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda body: '{"n": 1}'
    journal = tmp_path / "j.jsonl"
    run(endpoint.url, journal, [1, 2])
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-1])
    run(endpoint.url, journal, [1, 2])
    assert journal.read_bytes() == whole and len(endpoint.requests) == 2


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    journal.write_text('{"id": "1", "request": "a"}\nrubbish\n{"id": "2", "request": "b"}\n')
    with pytest.raises(DataError, match=r"j\.jsonl, line 2 is no entry of a journal \(b'rubbish"), Journal(journal):
        pass


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    with Journal(journal), pytest.raises(QwenlongError, match="another process writes .*j.jsonl"), Journal(journal):
        pass
    with Journal(journal):
        pass  # free again


#: The code under test, also in a process of its own.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(qwenlong.__file__).parents[1])}
PROCESS = """
import asyncio, sys
from pathlib import Path
from qwenlong.core.config import EndpointConfig
from qwenlong.core.llm import Client, Request, gather

def request(n):
    return Request([{"role": "user", "content": str(n)}], 9, seed=n, tries=2)

async def go(url, folder):
    endpoint = EndpointConfig(base_url=url, model="m", concurrency=4, retries=1)
    async with Client(endpoint) as client:
        found = await gather(client, range(40), request, lambda n, text: text, Path(folder) / "j.jsonl", key=str)
    print(" ".join(outcome.value for outcome in found))

asyncio.run(go(*sys.argv[1:]))
"""


def test_a_kill_in_the_middle_loses_nothing_and_repeats_nothing(endpoint: Any, tmp_path: Path) -> None:
    """The server holds back its 25th to 28th answer; the process is killed while it waits for them."""
    held, let_go = threading.Semaphore(0), threading.Event()
    answered: Counter[int] = Counter()
    guard = threading.Lock()
    started: list[int] = []

    def answer(body: dict[str, Any]) -> Any:
        with guard:
            started.append(asked(body))
            number = len(started)
        if number > 24 and not let_go.is_set():
            held.release()
            let_go.wait(300)
            return {"drop": True}
        with guard:
            answered[asked(body)] += 1
        return f"v{asked(body)}"

    endpoint.answer = answer
    command = [sys.executable, "-c", PROCESS, endpoint.url, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
    journal = tmp_path / "j.jsonl"
    # All four workers wait, so that nothing else is under way.
    assert all(held.acquire(timeout=120) for _ in range(4))
    limit = time.monotonic() + 120
    while journal.read_bytes().count(b"\n") < 24 and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    let_go.set()
    assert journal.read_bytes().count(b"\n") == 24
    # The kill may also have come in the middle of a line.
    with journal.open("ab") as stream:
        stream.write(b'{"id": "31", "request": "')
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [f"v{n}" for n in range(40)]
    assert answered == Counter(range(40))  # every item was answered, and paid for, exactly once
    ids = [json.loads(line)["id"] for line in journal.read_text().splitlines()]
    assert sorted(ids, key=int) == [str(n) for n in range(40)]
