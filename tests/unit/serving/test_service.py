"""A whole service over little servers: the key, balance, streams, crashes under load, and its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from qwenlong.core.errors import QwenlongError
from qwenlong.core.llm import Client, Unavailable
from qwenlong.serving import leases, run

sys.path.insert(0, str(Path(__file__).parent))
from little import address, endpoint, events, order, running, service


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def _ask(client: Client, text: str) -> str:
    reply = await client.chat([{"role": "user", "content": text}], max_tokens=8, temperature=0, top_p=1, seed=1)
    return reply.text


def test_key_balance_and_end(tmp_path: Path) -> None:
    """64 at once are shared evenly; the key stays in its file; nothing is left, daemons of the server included."""

    async def scenario() -> None:
        async with running(tmp_path, service(tmp_path, 2, {"DAEMON": "1", "PAUSE": "0.3"})) as work:
            record = json.loads((work.order.folder / "service.json").read_text())
            key = (work.order.folder / "key").read_text().strip()
            assert record["model"] == "little" and record["pid"] == os.getpid() and key not in json.dumps(record)
            assert stat.S_IMODE((work.order.folder / "key").stat().st_mode) == 0o600
            url, right = address(tmp_path)
            async with httpx.AsyncClient() as raw:
                for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {key}"}):
                    refused = await raw.get(f"{url}/models", headers=headers)
                    assert refused.status_code == 401 and key not in refused.text
                assert (await raw.get(f"{url}/models?a=%2F", headers=right)).json()["path"] == "/v1/models?a=%2F"
                assert (await raw.get(url.removesuffix("/v1") + "/health")).json() == {"ready": 2, "replicas": 2}
                status = (await raw.get(url.removesuffix("/v1") + "/status", headers=right)).json()
                assert [row["starts"] for row in status["replicas"]] == [1, 1]
                own = work.balancer.replicas[0]
                direct = await raw.get(f"{own.url}/v1/models", headers=right)
                assert direct.status_code == 401, "a replica has a key of its own"
            async with Client(endpoint(tmp_path, concurrency=64)) as client:
                said = await asyncio.gather(*(_ask(client, str(n)) for n in range(64)))
            assert [text.split()[0] for text in said] == [str(n) for n in range(64)]
            counts = [r.served for r in work.balancer.replicas]
            assert min(counts) >= 31 and all(r.busy == 0 for r in work.balancer.replicas)
        assert not (work.order.folder / "service.json").exists()

    asyncio.run(scenario())
    seen = events(tmp_path)
    pids = [e["pid"] for e in seen if "start" in e] + [e["daemon"] for e in seen if "daemon" in e]
    pids += [e["parent"] for e in seen if "start" in e]
    assert len(pids) == 6 and not any(map(_alive, pids))
    keys = [e["key"] for e in seen if "start" in e]
    log = "".join(file.read_text() for file in (tmp_path / "logs").iterdir())
    assert len({*keys}) == 2 and not any(
        key in log or key in str(e["argv"]) for key in keys for e in seen if "argv" in e
    )


def test_no_request_is_lost_when_replicas_die(tmp_path: Path) -> None:
    """Each of three replicas exits in the middle of its eighth completion, again and again."""

    async def scenario() -> None:
        config = service(tmp_path, 3, {"CRASH": "8", "PAUSE": "0.02"}, failures=50)
        async with running(tmp_path, config) as work:
            async with Client(endpoint(tmp_path, concurrency=16, retries=30), first_pause=0.02) as client:
                said = await asyncio.gather(*(_ask(client, str(n)) for n in range(60)))
            assert [text.split()[0] for text in said] == [str(n) for n in range(60)]
            starts = [r.starts for r in work.balancer.replicas]
            assert sum(starts) > 3 and client.usage.snapshot()["failures"].get("status_502", 0) > 0, starts

    asyncio.run(scenario())


def test_killed_replica_waits_and_comes_back(tmp_path: Path) -> None:
    """With its only replica killed, a request waits for the next start and is then answered: no retry is needed."""

    async def scenario() -> None:
        async with running(tmp_path, service(tmp_path, 1, {"SLOW": "0.5"})) as work:
            os.kill(next(e["pid"] for e in events(tmp_path) if "start" in e), signal.SIGKILL)
            while work.balancer.replicas[0].ready:
                await asyncio.sleep(0.01)
            async with Client(endpoint(tmp_path, retries=0)) as client:
                assert (await _ask(client, "7 up")).startswith("7 up")
            assert work.balancer.replicas[0].starts == 2

    asyncio.run(scenario())


def test_hung_replica_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenlong.serving.replica.WATCH", 0.1)
    monkeypatch.setattr("qwenlong.serving.replica.LOOK_TIMEOUT", 0.3)
    hang = tmp_path / "hang"

    async def scenario() -> None:
        async with running(tmp_path, service(tmp_path, 1, {"HANG": str(hang)}, hung_seconds=0.5)) as work:
            hang.touch()
            while work.balancer.replicas[0].ready:
                await asyncio.sleep(0.02)
            hang.unlink()
            while not work.balancer.replicas[0].ready:
                await asyncio.sleep(0.02)
            assert work.balancer.replicas[0].starts >= 2

    asyncio.run(scenario())


def test_streams(tmp_path: Path) -> None:
    """Pieces come one by one; a broken stream is seen to be broken; a client that leaves ends the work behind it."""

    async def scenario() -> None:
        async with running(tmp_path, service(tmp_path)) as work:
            url, right = address(tmp_path)
            async with httpx.AsyncClient(headers=right) as raw:

                async def pieces(n: int, most: int = 99) -> list[tuple[int, float]]:
                    body = {"messages": [{"role": "user", "content": str(n)}], "stream": True}
                    got: list[tuple[int, float]] = []
                    async with raw.stream("POST", f"{url}/chat/completions", json=body) as response:
                        assert response.headers["content-type"] == "text/event-stream"
                        async for line in response.aiter_lines():
                            if line:
                                got.append((int(line.split()[1]), time.time()))
                            if len(got) == most:
                                return got
                    return got

                whole = await pieces(5)
                assert [n for n, _ in whole] == [0, 1, 2, 3, 4] and whole[-1][1] - whole[0][1] > 0.3
                await pieces(50, most=2)
                while work.balancer.busy or not any("hung_up" in e for e in events(tmp_path)):
                    await asyncio.sleep(0.02)
                with pytest.raises(httpx.RemoteProtocolError):
                    await pieces(7)

    asyncio.run(scenario())


def test_broken_server_is_given_up(tmp_path: Path) -> None:
    """The error names the log, which holds the reason; no address is ever announced."""

    async def scenario() -> None:
        config = service(tmp_path, 2, {"BROKEN": "1"}, failures=2)
        with run.opened(order(tmp_path, config), lambda url: pytest.fail("announced")) as work:
            await work.run()

    with pytest.raises(QwenlongError, match=r"every replica was given up after 2 failed starts.*replica-0\.log"):
        asyncio.run(scenario())
    assert (tmp_path / "logs/replica-0.log").read_text().count("no room on the GPU") == 2
    assert not (tmp_path / "state/services/little/service.json").exists()


def test_ends_with_its_last_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WATCH", 0.05)

    async def scenario() -> None:
        config = service(tmp_path)
        with run.opened(order(tmp_path, config, leased=True), lambda url: None) as work:
            task = asyncio.ensure_future(work.run())
            with leases.held(work.order.folder), leases.held(work.order.folder):
                await asyncio.sleep(1.5)
                assert not task.done() and leases.live(work.order.folder) == 2
            await asyncio.wait_for(task, 20)
            assert work.why == "nobody needs it any more"

    asyncio.run(scenario())


def test_client_follows_and_says_what_is_missing(tmp_path: Path) -> None:
    """A service that moved is found at its new address with the same key; one that is not there is named."""

    async def scenario() -> None:
        with pytest.raises(QwenlongError, match="'little' does not run.*qwenlong serve little --config"):
            Client(endpoint(tmp_path))
        config = service(tmp_path)
        async with running(tmp_path, config):
            client = Client(endpoint(tmp_path), first_pause=0.05)
            assert await _ask(client, "1")
            before = address(tmp_path)
        async with client:
            waiting = asyncio.ensure_future(_ask(client, "2"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            other = service(tmp_path)
            async with running(tmp_path, other):
                assert (await waiting).startswith("2")
                assert address(tmp_path)[1] == before[1] and address(tmp_path)[0] != before[0]
            short = endpoint(tmp_path, retries=1).model_copy(update={"timeout_seconds": 0.5})
            async with running(tmp_path, other):
                impatient = Client(short, first_pause=0.01)
            with pytest.raises(Unavailable, match="does not run"):
                await _ask(impatient, "3")
            await impatient.close()

    asyncio.run(scenario())


def test_client_waits_for_the_next_machine_of_a_service_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a service whose machine lost power stays, and names an address where nobody is.

    A site's proxy is for the world outside, not for the run's own services.
    """
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        config = service(tmp_path)
        async with running(tmp_path, config) as work:
            file = work.order.folder / "service.json"
            left = file.read_text()
            client = Client(endpoint(tmp_path, retries=1), first_pause=0.05)
        file.write_text(left)
        async with client:
            waiting = asyncio.ensure_future(_ask(client, "1"))
            await asyncio.sleep(2)
            assert not waiting.done()
            async with running(tmp_path, config):
                assert (await waiting).startswith("1")
        file.write_text(left)
        hurried = endpoint(tmp_path, retries=1).model_copy(update={"timeout_seconds": 0.5})
        async with Client(hurried, first_pause=0.01) as impatient:
            with pytest.raises(Unavailable, match="does not answer at http.*, where it last was"):
                await _ask(impatient, "2")

    asyncio.run(scenario())


def test_keys_that_others_read_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state/services/little"
    key, file = run.key_of(folder)
    assert run.key_of(folder) == (key, file) and len(key) > 30
    file.chmod(0o644)
    with pytest.raises(QwenlongError, match="can be read by others"):
        run.key_of(folder)
    (folder / "service.json").write_text(json.dumps({"base_url": "http://x/v1", "key_file": str(file)}))
    with pytest.raises(QwenlongError, match="chmod 600"):
        Client(endpoint(tmp_path))
    (folder / "service.json").write_text("{")
    with pytest.raises(QwenlongError, match="no service's file"):
        Client(endpoint(tmp_path))
