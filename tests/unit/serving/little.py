"""A service of little servers, run in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qwenlong.core.config import EndpointConfig, ServiceConfig
from qwenlong.core.llm.places import locate
from qwenlong.serving import replica
from qwenlong.serving.run import Order, Work, opened

SERVER = Path(__file__).with_name("replica_server.py")


def service(folder: Path, replicas: int = 1, environment: dict[str, str] | None = None, **more: Any) -> ServiceConfig:
    command = (sys.executable, str(SERVER), "{port}", str(folder))
    values = {"restart_seconds": 0.05, "linger_seconds": 0.2, "hold_seconds": 20, **more}
    return ServiceConfig(
        model="/models/little", replicas=replicas, command=command, environment=environment or {}, **values
    )


def events(folder: Path) -> list[dict[str, Any]]:
    file = folder / "events"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def order(folder: Path, config: ServiceConfig, **how: bool) -> Order:
    return Order("little", config, folder / "state/services/little", folder / "logs", **how)


def endpoint(folder: Path, **more: Any) -> EndpointConfig:
    url = f"service:{folder / 'state/services/little'}"
    return EndpointConfig(base_url=url, model="little", timeout_seconds=30, **more)


@asynccontextmanager
async def running(folder: Path, config: ServiceConfig, **how: bool) -> AsyncIterator[Work]:
    """Run a service while the block does; wait until all its replicas are ready."""
    replica.LOOK, replica.GRACE = 0.05, 1.0
    with opened(order(folder, config, **how), lambda url: None) as work:
        task = asyncio.ensure_future(work.run())
        try:
            while not all(r.ready for r in work.balancer.replicas) or not (work.order.folder / "service.json").exists():
                assert not task.done(), task
                await asyncio.sleep(0.02)
            yield work
        finally:
            work.end("the test is over")
            await task


def address(folder: Path) -> tuple[str, dict[str, str]]:
    place = locate(folder / "state/services/little")
    return place.url, {"Authorization": f"Bearer {place.key}"}
