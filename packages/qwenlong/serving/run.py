"""A whole service in this process: replicas, the address before them, the file by which it is found, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from qwenlong.core.config import ServiceConfig
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.files import write_json
from qwenlong.core.llm.places import FILE
from qwenlong.core.logs import get
from qwenlong.core.ownership import VARIABLE, Identity, host, lock
from qwenlong.core.slurm import hostnames
from qwenlong.memory_agent.backends import label
from qwenlong.memory_agent.guards import Bounds
from qwenlong.memory_agent.server import bind
from qwenlong.serving import argv, front, leases
from qwenlong.serving.replica import Replica

_LOG = get(__name__)
#: Seconds between two looks at leases, owner and parent.
WATCH = 1.0
#: Seconds that requests in flight have to end when the service ends.
GRACE = 5
#: Seconds that a consumer has between the service's start and its first lease.
FIRST = 60.0


@dataclass
class Order:
    """What is to be served, and for how long."""

    name: str
    service: ServiceConfig
    folder: Path
    logs: Path
    leased: bool = False
    """End when no consumer holds a lease."""
    stay: bool = False
    """Outlive the process that started this one."""


def key_of(folder: Path) -> tuple[str, Path]:
    """Return a service's key and the file that holds it, mode 600; made when it is not there.

    The key outlives a restart, so that clients that follow the service to another machine need no new one.
    """
    file = folder / "key"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        partial = folder / f".key.{secrets.token_hex(4)}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_urlsafe(32).encode() + b"\n")
            os.close(descriptor)
            os.link(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    if file.stat().st_mode & 0o077:
        raise QwenlongError(f"{file} can be read by others; remove it, and a new key is made")
    return file.read_text(encoding="utf-8").strip(), file


def hosts() -> list[str]:
    """Return the machines of the Slurm job that this process is in, else this one."""
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if nodes is None or os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1":
        return [host()]
    return list(hostnames(nodes))


def run(order: Order, ready: Callable[[str], None]) -> None:
    """Serve until told to end, or until nobody needs the service any more; `ready` and errors as in `opened`."""
    with opened(order, ready) as work:
        asyncio.run(work.run())


@contextmanager
def opened(order: Order, ready: Callable[[str], None]) -> Iterator[Work]:
    """Yield a service that listens and does not yet run; `ready` is given its address when a replica is.

    Raises UsageError for what cannot be placed, QwenlongError when another process serves it, or when every replica
    was given up.
    """
    file = order.folder / FILE
    order.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock(order.folder / "lock", f"service {order.name}", order.folder)
    file.unlink(missing_ok=True)
    key, key_file = key_of(order.folder)
    service = order.service
    # A local service in a job of several machines stays on its own: the others are its consumer's.
    machines = hosts() if service.where == "slurm" else [host()]
    devices = argv.visible(service.slurm.gpus if len(machines) > 1 else None) if service.gpus_each else []
    places = argv.spots(service, machines, devices, host())
    outside = order.service.where == "slurm"
    with bind("0.0.0.0" if outside else "127.0.0.1", service.port) as listening:
        port = listening.getsockname()[1]
        url = f"http://{host() if outside else '127.0.0.1'}:{port}/v1"
        own = Identity.own()
        record = {
            "service": order.name, "model": service.served_name, "base_url": url, "key_file": str(key_file.resolve()),
            "host": host(), "pid": own.pid, "start": own.start, "replicas": service.replicas,
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        }  # fmt: skip
        replicas: list[Replica] = []
        balancer = front.Balancer(replicas, service.hold_seconds)
        for number, spot in enumerate(places):
            log = order.logs / f"replica-{number}.log"
            replicas.append(Replica(number, spot, service, secrets.token_urlsafe(32), log, lambda: balancer.changed()))
        balancer.replicas = replicas

        def announce() -> None:
            write_json(file, record)
            ready(url)

        try:
            yield Work(order, balancer, key, listening, announce)
        finally:
            file.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Signals are the service's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Work:
    """One service from its start to its end, in an event loop."""

    def __init__(
        self,
        order: Order,
        balancer: front.Balancer,
        key: str,
        listening: socket.socket,
        announce: Callable[[], None],
    ) -> None:
        self.order, self.balancer, self.key, self.listening, self.announce = order, balancer, key, listening, announce
        self.over = asyncio.Event()
        self.why = ""
        self.failure: QwenlongError | None = None

    async def run(self) -> None:
        """Run until something ends it. Raises QwenlongError when every replica was given up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.end, signal.Signals(number).name)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=4.0)
        # A reply may take as long as it takes: the client's own time-out decides.
        patience = httpx.Timeout(None, connect=10.0)
        async with httpx.AsyncClient(limits=limits, timeout=patience, trust_env=False) as client:
            keeping = [asyncio.ensure_future(r.keep(client)) for r in self.balancer.replicas]
            bounds = Bounds(request_bytes=self.order.service.max_request_mb * 2**20, running=front.INSIDE, waiting=0)
            about = {"service": self.order.name, "model": self.order.service.served_name}
            app = front.application(self.balancer, client, self.key, bounds, about)
            server = _Server(
                uvicorn.Config(
                    app, log_config=None, access_log=False, server_header=False, lifespan="off",
                    timeout_graceful_shutdown=GRACE, timeout_keep_alive=30, h11_max_incomplete_event_size=64 * 1024,
                )
            )  # fmt: skip
            serving = asyncio.ensure_future(server.serve(sockets=[self.listening]))
            watching = [asyncio.ensure_future(self._watch()), asyncio.ensure_future(self._first_ready())]
            for task in (serving, *keeping):
                task.add_done_callback(lambda done: self.end("a part of it ended"))
            try:
                await self.over.wait()
                _LOG.info("service %s ends: %s", self.order.name, self.why)
            finally:
                # First the file, so that nobody comes any more; then the requests in flight; then the replicas.
                (self.order.folder / FILE).unlink(missing_ok=True)
                server.should_exit = True
                await asyncio.gather(serving, return_exceptions=True)
                for task in (*keeping, *watching):
                    task.cancel()
                ends = await asyncio.gather(*keeping, *watching, return_exceptions=True)
        if self.failure is not None:
            raise self.failure
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def end(self, why: str) -> None:
        """End the service, saying why in the log."""
        replicas = self.balancer.replicas
        if all(replica.given_up for replica in replicas):
            logs = ", ".join(str(replica.log) for replica in replicas[:3])
            self.failure = QwenlongError(
                f"service {self.order.name}: every replica was given up after {self.order.service.failures} failed "
                f"starts; the reason stands in {logs}"
            )
        elif why == "a part of it ended" and any(replica.given_up for replica in replicas) and not self.over.is_set():
            return
        self.why = self.why or why
        self.over.set()

    async def _first_ready(self) -> None:
        while not any(replica.ready for replica in self.balancer.replicas):
            await asyncio.sleep(0.1)
        self.announce()

    async def _watch(self) -> None:
        """End the service when what it is there for has ended."""
        order = self.order
        parent = os.getppid()
        owner = leases.owner(os.environ.get(VARIABLE))
        needed = time.monotonic() + FIRST
        while True:
            await asyncio.sleep(WATCH)
            if not order.stay and not order.leased and os.getppid() != parent:
                self.end("its parent ended")
            if not order.stay and owner is not None and owner != Identity.own() and not owner.alive():
                self.end("the run that it belongs to ended")
            if not order.leased:
                continue
            now = time.monotonic()
            if await asyncio.to_thread(leases.live, order.folder):
                needed = now + order.service.linger_seconds
                idle = now - self.balancer.last_request
                if idle > 60 * order.service.idle_minutes and not self.balancer.busy:
                    self.end(f"no request for {order.service.idle_minutes:g} minutes")
            elif now > needed:
                self.end("nobody needs it any more")


def chosen(services: dict[str, ServiceConfig], name: str, model: str | None) -> ServiceConfig:
    """Return a service of the configuration, with another model where one is given. Raises UsageError."""
    if name not in services:
        raise UsageError(f"no service {name!r}; services has {', '.join(sorted(services)) or 'none'}")
    found = services[name]
    if model is None:
        return found
    values: dict[str, Any] = found.model_dump() | {"model": model}
    return ServiceConfig.model_validate(values | {"name": found.name or label(model)})
