"""Lists, commands and a counting endpoint for tests of `agent batch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qwenlong

SERVER = Path(__file__).with_name("agent_server.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(qwenlong.__file__).parents[1]), "QWENLONG_LOG_LEVEL": "ERROR"}


class Counting:
    """The scripted endpoint in its own process, as a test sees it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._address = f"http://127.0.0.1:{port}"

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._address + path, timeout=30) as response:
            return json.loads(response.read())

    def count(self) -> int:
        """Return how many calls came."""
        return int(self._get("/count"))

    def log(self) -> list[tuple[str, str, str]]:
        """Return each call as item, digest of the prompt, kind of fault."""
        return [(item, digest, kind) for item, digest, kind in self._get("/log")]


@contextmanager
def counting(**settings: Any) -> Iterator[Counting]:
    """Run the endpoint until the block ends."""
    process = subprocess.Popen([sys.executable, str(SERVER), json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Counting(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


def write_list(folder: Path, items: int, chunks: int) -> Path:
    """Write a list of items with a document each, of so many paragraphs of a chunk each; every second has a format."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(items):
        paragraphs = [f"Note {n} of {number}: the gate was opened, then it rained for {n} days." for n in range(chunks)]
        (folder / f"doc{number}.txt").write_text("\n\n".join(paragraphs))
        row = {"id": f"q{number:03d}", "question": f"<<q{number:03d}>> how long did it rain? One word."}
        rows.append(row | {"document": f"doc{number}.txt"} | ({"format": "One word."} if number % 2 else {}))
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(source: Path, out: Path, url: str, tokenizer: Path, *more: str) -> list[str]:
    """Return the words of a batch whose chunks hold a paragraph each."""
    line = ["batch", str(source), str(out), "--base-url", url, "--model", "m", "--tokenizer", str(tokenizer)]
    return [*line, "--chunk-tokens", "48", "--memory-tokens", "64", "--answer-tokens", "32", *more]


def start(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `qwenlong agent …` as a process."""
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "qwenlong", "agent", *line]
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=ENVIRONMENT)


def kill_at(process: subprocess.Popen[bytes], server: Counting, calls: int) -> bool:
    """Kill the process when the endpoint has seen so many calls; tell whether it was still running."""
    while process.poll() is None and server.count() < calls:
        time.sleep(0.002)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def repeats(log: list[tuple[str, str, str]]) -> Counter[str]:
    """Return how many calls of each item the endpoint had seen before."""
    seen = Counter((item, digest) for item, digest, _ in log)
    again: Counter[str] = Counter()
    for (item, _), times in seen.items():
        again[item] += times - 1
    return again


def records(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return the records of an output by id, in its order."""
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
