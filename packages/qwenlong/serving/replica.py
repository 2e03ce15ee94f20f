"""One replica: started, waited for, watched, and started again with growing pauses when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from qwenlong.core.config import ServiceConfig
from qwenlong.core.logs import get
from qwenlong.core.network import free_port
from qwenlong.serving import argv
from qwenlong.serving.argv import Spot

_LOG = get(__name__)
#: Seconds between two looks at a replica that loads, and at one that is ready.
LOOK, WATCH = 0.5, 5.0
#: Seconds for one look.
LOOK_TIMEOUT = 10.0
#: Longest pause before a start.
MAX_PAUSE = 60.0
#: Seconds between SIGTERM and SIGKILL of a replica.
GRACE = 10.0
#: Seconds after which a replica that was ready counts as started well: its failures are forgotten.
SOUND = 300.0
_LOOPBACK = "127.0.0.1"


@dataclass
class Replica:
    """A replica and what is known of it."""

    number: int
    spot: Spot
    service: ServiceConfig
    key: str
    log: Path
    changed: Callable[[], None]
    """Called when it becomes ready, is lost, or is given up."""
    ready: bool = False
    given_up: bool = False
    busy: int = 0
    """Requests in flight."""
    served: int = 0
    starts: int = 0
    failures: int = 0
    """Failed starts in a row."""
    port: int = 0
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return the replica's address, without a path."""
        return f"http://{_LOOPBACK if self.spot.local else self.spot.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the header that lets requests in."""
        return {"Authorization": f"Bearer {self.key}"}

    async def keep(self, client: httpx.AsyncClient) -> None:
        """Run the replica until this task is cancelled or it is given up."""
        try:
            while not self.given_up:
                await self._once(client)
        finally:
            self._lose()
            await self.end()

    async def _once(self, client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        self.starts += 1
        await self._start()
        _LOG.info("replica %d: started (start %d), log %s", self.number, self.starts, self.log)
        if await self._wait_ready(client):
            _LOG.info("replica %d: ready after %.1f s at %s", self.number, time.monotonic() - began, self.url)
            since, self.ready = time.monotonic(), True
            self.changed()
            why = await self._watch(client)
            if time.monotonic() - since > SOUND:
                self.failures = 0
        else:
            why = "ended" if self._codes() else "was not ready in time"
        self._lose()
        codes = self._codes()
        await self.end()
        self.failures += 1
        if self.failures >= self.service.failures:
            self.given_up = True
            _LOG.error(
                "replica %d: given up after %d failures, the last: %s %s", self.number, self.failures, why, codes
            )
            self.changed()
            return
        pause = min(self.service.restart_seconds * 2 ** (self.failures - 1), MAX_PAUSE)
        _LOG.warning("replica %d: %s %s; started again in %.1f s", self.number, why, codes, pause)
        await asyncio.sleep(pause)

    def _lose(self) -> None:
        if self.ready:
            self.ready = False
            self.changed()

    async def _start(self) -> None:
        service, spot = self.service, self.spot
        self.port = free_port(_LOOPBACK) if spot.local else _any_port()
        ring = _any_port()
        listen = _LOOPBACK if spot.local else "0.0.0.0"
        variables = os.environ | service.environment | {"VLLM_API_KEY": self.key, "QWENLONG_SERVICE_KEY": self.key}
        if spot.devices and spot.local:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(spot.devices)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._processes = []
        with self.log.open("ab") as log:
            for rank, host in enumerate(spot.hosts):
                line = argv.words(service, listen, self.port, rank, spot.host, ring)
                gpus = service.slurm.gpus if service.gpus_each else 0
                line = argv.on_machine(line, host, spot, gpus)
                self._processes.append(await _kept(line, variables, log))

    def _codes(self) -> str:
        codes = [str(p.returncode) for p in self._processes if p.returncode is not None]
        return f"(exit code {', '.join(codes)})" if codes else ""

    def _gone(self) -> bool:
        return any(process.returncode is not None for process in self._processes)

    async def _wait_ready(self, client: httpx.AsyncClient) -> bool:
        end = time.monotonic() + 60 * self.service.start_minutes
        while not self._gone() and time.monotonic() < end:
            if await self._healthy(client) and await self._completes(client, end - time.monotonic()):
                return not self._gone()
            await asyncio.sleep(LOOK)
        return False

    async def _healthy(self, client: httpx.AsyncClient) -> bool:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return (await client.get(f"{self.url}/health", headers=self.headers)).status_code == 200
        except (httpx.HTTPError, TimeoutError):
            return False

    async def _completes(self, client: httpx.AsyncClient, seconds: float) -> bool:
        """Tell whether one tiny completion comes: only then the model itself has run."""
        body = {
            "model": self.service.served_name,
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 1,
            "temperature": 0,
        }
        try:
            async with asyncio.timeout(max(seconds, 1.0)):
                url = f"{self.url}/v1/chat/completions"
                reply = await client.post(url, json=body, headers=self.headers, timeout=None)
            if reply.status_code == 200 and reply.json()["choices"]:
                return True
            _LOG.warning("replica %d: healthy, but a first completion has status %d", self.number, reply.status_code)
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("replica %d: healthy, but a first completion fails: %s", self.number, type(error).__name__)
        return False

    async def _watch(self, client: httpx.AsyncClient) -> str:
        """Return why a ready replica is no more."""
        ends = [asyncio.ensure_future(process.wait()) for process in self._processes]
        answered = time.monotonic()
        try:
            while True:
                done, _ = await asyncio.wait(ends, timeout=WATCH, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return "ended"
                if await self._healthy(client):
                    answered = time.monotonic()
                elif time.monotonic() - answered > self.service.hung_seconds:
                    return f"did not answer /health for {self.service.hung_seconds:g} s"
        finally:
            for one in ends:
                one.cancel()

    async def end(self) -> None:
        """End the replica's processes and all below them."""
        for process in self._processes:
            # The keeper reads this as its parent's end.
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in self._processes:
            try:
                async with asyncio.timeout(GRACE + 10):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _kept(line: list[str], variables: dict[str, str], log: IO[bytes]) -> asyncio.subprocess.Process:
    """Start a command under a keeper, in a session of its own."""
    keeper = [sys.executable, "-m", "qwenlong.serving.keeper", str(GRACE), *line]
    return await asyncio.create_subprocess_exec(
        *keeper,
        env=argv.with_package(variables),
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _any_port() -> int:
    """Return a port that is most likely free on another machine; one that is not shows as a failed start."""
    return random.SystemRandom().randrange(20000, 30000)
