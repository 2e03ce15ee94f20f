"""The server as a user starts it: a process of its own over a scripted endpoint, called over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import qwenlong

KEY = "correct-horse-battery-staple-42"
SIZES = ("--window", "1024", "--chunk-tokens", "150", "--memory-tokens", "64", "--answer-tokens", "32")


@dataclass
class Running:
    """A server process: its address, the lines it printed, its log."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def logged(self) -> str:
        return self.log.read_text()


@contextmanager
def serving(log: Path, *words: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """Run `qwenlong agent serve` on a free port until the block ends; its exit code is then in `process`."""
    command = [sys.executable, "-m", "qwenlong", "agent", "serve", "--port", "0", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(qwenlong.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    environment |= {"QWENLONG_LOG_LEVEL": "DEBUG"} | (env or {})
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, env=environment, text=True)
    watch = threading.Timer(60, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        watch.cancel()
        if " at http" not in line:
            process.wait(10)
            raise AssertionError(f"no server: {log.read_text()}")
        yield Running(line.rpartition(" at ")[2].strip(), process, log)
    finally:
        watch.cancel()
        process.terminate()
        process.wait(40)
        process.stdout.close()


def until(condition: object, seconds: float = 60.0) -> bool:
    """Wait for a condition; return whether it came true."""
    assert callable(condition)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.02)
    return False
