"""What the address before the replicas costs: the same requests straight to one replica, and through the front.

    python benchmarks/service_front.py [--requests N] [--markdown FILE]

Replicas are little servers that answer at once (tests/unit/serving/replica_server.py), so that all that is measured is
the way there and back; a model's own time comes on top and is the same for both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "packages"), str(ROOT / "tests/unit/serving")]

from little import address, running, service  # noqa: E402

MESSAGE = "word " * 4000


async def _timed(url: str, headers: dict[str, str], requests: int, at_once: int, text: str) -> float:
    """Return the seconds that `requests` take, `at_once` in flight."""
    limits = httpx.Limits(max_connections=at_once)
    body = {"model": "little", "messages": [{"role": "user", "content": text}]}
    turns = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=60, trust_env=False) as client:

        async def one() -> None:
            async with turns:
                (await client.post(f"{url}/chat/completions", json=body)).raise_for_status()

        await one()
        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(requests)))
        return time.perf_counter() - began


async def _measure(requests: int) -> str:
    lines = ["| prompt | at once | straight, ms a request | through the front | added |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with running(folder, service(folder)) as work:
            replica = work.balancer.replicas[0]
            url, headers = address(folder)
            for label, text in (("10 B", "word word "), ("20 KB", MESSAGE), ("500 KB", MESSAGE * 25)):
                for at_once in (1, 64):
                    n = requests if len(text) < 10**5 else max(20, requests // 10)
                    # In turns, so that what else the machine does falls on both.
                    pairs = [
                        (
                            await _timed(f"{replica.url}/v1", replica.headers, n, at_once, text),
                            await _timed(url, headers, n, at_once, text),
                        )
                        for _ in range(3)
                    ]
                    straight, front = (1000 * min(side) / n for side in zip(*pairs, strict=True))
                    lines.append(f"| {label} | {at_once} | {straight:.2f} | {front:.2f} | {front - straight:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    table = asyncio.run(_measure(arguments.requests))
    print(table)
    if arguments.markdown:
        arguments.markdown.write_text(
            "# Cost of the address before a service's replicas\n\n"
            "Milliseconds of wall time a request, best of three runs in turns. Client, front and replica shared "
            f"{os.cpu_count()} cores\nwith other work (load average {os.getloadavg()[0]:.0f}): compare columns of a "
            f"row, not with other machines.\n\n{table}"
        )


if __name__ == "__main__":
    main()
