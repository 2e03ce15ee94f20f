"""A whole benchmark run against a real model, killed twice a benchmark and resumed; it must equal an unbroken run.

    python benchmarks/evaluation_run.py --out DIR [--small] [--model DIR] [--markdown FILE]

SmolLM2-135M behind `transformers serve` on this machine's cores: 60 AIME problems, 200 needle items of RULER's
generator, 100 MRCR-form items made from real dialogues. Greedy: this server has one seed for all that is under way, and
what a killed client asked for goes on beside what its successor asks.
`qwenlong evaluate run` is killed with SIGKILL after a third and after two thirds of each benchmark's replies, and
started again by the same command. What so small a model scores is not the matter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "packages"), str(ROOT / "benchmarks")]

import llm_paths  # noqa: E402

from qwenlong.core.config import Config  # noqa: E402
from qwenlong.core.files import read_jsonl, write_jsonl  # noqa: E402
from qwenlong.core.records import Document, Prediction  # noqa: E402
from qwenlong.core.tokens import Tokenizer  # noqa: E402
from qwenlong.evaluation.mrcr_items import mrcr_items  # noqa: E402

#: Needle tasks of RULER's suite that need no question set.
TASKS = "niah_single_1,niah_single_2,niah_multikey_1,niah_multikey_2,niah_multivalue"
#: Conversations that are read of the package.
DIALOGUES = 1500
FILES = ("predictions.jsonl", "scores.json")


@dataclass(frozen=True)
class Size:
    """How many items of each kind, and how long."""

    aime: int
    """Of each year."""
    needles: int
    """Of each of the five tasks."""
    dialogues: int
    length: int = 256
    """Tokens of a needle or MRCR prompt."""
    tokens: int = 6
    """Longest response."""


FULL = Size(30, 40, 100)
SMALL = Size(3, 1, 5)


def dialogues(cache: Path) -> list[Document]:
    """Return conversations of the registry's dialogue package."""
    from qwenlong.corpus.fetch import fetch_all
    from qwenlong.corpus.hostile import Losses
    from qwenlong.corpus.origins import documents, origins
    from qwenlong.corpus.sources import chosen

    config = Config.model_validate({"corpus": {"cache": str(cache), "sources": ["chitchat"]}})
    fetch_all(chosen(str(ROOT / config.corpus.registry), ("chitchat",)), cache)
    (origin,) = origins(config.corpus, cache)
    return list(islice(documents(origin, config.corpus, Losses(origin.name)), DIALOGUES))


def make_items(work: Path, size: Size, tokenizer: Path, cache: Path) -> dict[str, Path]:
    """Write the items of every benchmark; return the files by benchmark."""
    files = {}
    for year in ("aime24", "aime25"):
        lines = (ROOT / f"tests/data/benchmarks/aime/{year}.jsonl").read_text(encoding="utf-8").splitlines()
        files[year] = work / f"{year}.jsonl"
        files[year].write_text("\n".join(lines[: size.aime]) + "\n", encoding="utf-8")
    prose = read_jsonl(ROOT / "tests/unit/synthesis/documents.jsonl", Document)
    (work / "essays.txt").write_text("\n\n".join(one.text for one in prose), encoding="utf-8")
    files["ruler"] = work / "ruler.jsonl"
    line = ["evaluate", "ruler", "--lengths", str(size.length), "--tasks", TASKS, "--n", str(size.needles)]
    line += ["--tokenizer", str(tokenizer), "--essays", str(work / "essays.txt")]
    subprocess.run([*command(line), "--out", str(files["ruler"])], check=True, env=environment())
    count = Tokenizer(tokenizer).count_chat
    files["mrcr"] = work / "mrcr.jsonl"
    write_jsonl(files["mrcr"], mrcr_items(dialogues(cache), size.dialogues, (2,), 4 * size.length, 17, count))
    return files


def environment() -> dict[str, str]:
    """Return the environment of a command."""
    return os.environ | {"PYTHONPATH": str(ROOT / "packages"), "OMP_NUM_THREADS": "1"}


def command(words: Sequence[str]) -> list[str]:
    """Return a command line of this checkout."""
    return [sys.executable, "-m", "qwenlong", *words]


@dataclass
class Row:
    """One benchmark: items, replies that the server gave in all starts, and what the two runs have in common."""

    benchmark: str
    items: int
    kills: int
    replies: int
    equal: int
    prompt_tokens: int
    response_tokens: int
    whole_seconds: float
    killed_seconds: float
    metrics: dict[str, Any]


class Runs:
    """Runs of one model behind one server."""

    def __init__(self, work: Path, server: llm_paths.Server, size: Size) -> None:
        self.work, self.server, self.size = work, server, size
        self.config = work / "config.yaml"
        self.config.write_text(
            json.dumps({"run": {"results": str(work / "results")}, "tracking": {"enabled": False}}), encoding="utf-8"
        )

    def line(self, benchmark: str, data: Path, out: Path) -> list[str]:
        """Return the command line of a run, one item at a time."""
        words = ["evaluate", "run", benchmark, "--data", str(data), "--out", str(out), "--config", str(self.config)]
        words += ["--model", self.server.model, "--base-url", self.server.url, "--tokenizer", str(self.server.folder)]
        # A problem is asked whole or not at all; chats lose their middle.
        most = 1024 if benchmark.startswith("aime") else self.size.length
        words += ["--samples", "1", "--concurrency", "1", "--temperature", "0", "--max-input-tokens", str(most)]
        return command([*words, "--max-output-tokens", str(self.size.tokens), "--json"])

    def whole(self, benchmark: str, data: Path) -> float:
        """Run without a break; return the seconds."""
        began = time.monotonic()
        done = subprocess.run(
            self.line(benchmark, data, self.work / "whole" / benchmark),
            capture_output=True,
            text=True,
            env=environment(),
        )
        if done.returncode:
            raise SystemExit(f"{benchmark}: {done.stderr[-2000:]}")
        return time.monotonic() - began

    def killed(self, benchmark: str, data: Path, items: int) -> tuple[float, int, int]:
        """Run with two kills; return seconds, kills and the replies that the server gave."""
        out = self.work / "killed" / benchmark
        before, began, kills = self.server.served(), time.monotonic(), 0
        for share in (1, 2):
            with (self.work / f"{benchmark}-{share}.log").open("wb") as log:
                process = subprocess.Popen(self.line(benchmark, data, out), stdout=log, stderr=log, env=environment())
                while self.server.served() - before < share * items // 3 and process.poll() is None:
                    time.sleep(0.02)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                process.wait()
        if out.exists():
            raise SystemExit(f"{benchmark}: a killed run left {out}")
        done = subprocess.run(self.line(benchmark, data, out), capture_output=True, text=True, env=environment())
        if done.returncode:
            raise SystemExit(f"{benchmark}: {done.stderr[-2000:]}")
        # The server writes its log line a moment after the reply.
        time.sleep(0.5)
        return time.monotonic() - began, kills, self.server.served() - before

    def measured(self, benchmark: str, data: Path) -> Row:
        """Run a benchmark both ways and compare item by item."""
        seconds = self.whole(benchmark, data)
        a = read_jsonl(self.work / "whole" / benchmark / "predictions.jsonl", Prediction)
        broken, kills, replies = self.killed(benchmark, data, len(a))
        b = read_jsonl(self.work / "killed" / benchmark / "predictions.jsonl", Prediction)
        equal = sum(one == other for one, other in zip(a, b, strict=True))
        same = [
            (self.work / "whole" / benchmark / name).read_bytes()
            == (self.work / "killed" / benchmark / name).read_bytes()
            for name in FILES
        ]
        if not all(same):
            equal = min(equal, len(a) - 1)
        scores = json.loads((self.work / "killed" / benchmark / "scores.json").read_text())
        read, written = sum(one.n_prompt_tokens for one in b), sum(one.n_response_tokens for one in b)
        return Row(benchmark, len(a), kills, replies, equal, read, written, seconds, broken, scores["metrics"])


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, with their sum."""
    lines = [
        "| benchmark | items | kills | replies in all starts | equal to the unbroken run | tokens in, out | "
        "unbroken, s | killed and resumed, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.benchmark} | {row.items} | {row.kills} | {row.replies} | {row.equal} | "
            f"{row.prompt_tokens}, {row.response_tokens} | {row.whole_seconds:.0f} | {row.killed_seconds:.0f} |"
        )
    total = [sum(getattr(row, name) for row in rows) for name in ("items", "kills", "replies", "equal")]
    tokens = [sum(getattr(row, name) for row in rows) for name in ("prompt_tokens", "response_tokens")]
    seconds = [sum(getattr(row, name) for row in rows) for name in ("whole_seconds", "killed_seconds")]
    lines.append(
        f"| all | {' | '.join(map(str, total))} | {tokens[0]}, {tokens[1]} | {seconds[0]:.0f} | {seconds[1]:.0f} |"
    )
    return "\n".join(lines) + "\n"


def measure(work: Path, server: llm_paths.Server, size: Size, cache: Path) -> list[Row]:
    """Make the items and run every benchmark both ways."""
    runs = Runs(work, server, size)
    rows = []
    for benchmark, data in make_items(work, size, server.folder, cache).items():
        rows.append(runs.measured(benchmark, data))
        # A run of an hour tells what it has.
        print(table(rows[-1:]).splitlines()[2], flush=True)
    return rows


def main() -> None:
    """Measure and print the table; fail where a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="where packages are fetched to")
    parser.add_argument("--small", action="store_true", help="as few items as the test has")
    parser.add_argument("--model", type=Path, help="a directory that was made before; default: made from the package")
    parser.add_argument("--markdown", type=Path, help="file whose table is replaced")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = arguments.model or stack.enter_context(llm_paths.model_folder(arguments.cache))
        server = stack.enter_context(llm_paths.served(folder, arguments.out))
        rows = measure(arguments.out, server, SMALL if arguments.small else FULL, arguments.cache)
    made = table(rows)
    print(made)
    if arguments.markdown:
        text = arguments.markdown.read_text(encoding="utf-8")
        text = re.sub(r"(?ms)^\| benchmark \|.*?(?=^\s*$|\Z)", lambda _: made, text)
        arguments.markdown.write_text(text, encoding="utf-8")
    if any(row.equal < row.items or row.kills < 2 for row in rows):
        raise SystemExit("a run differs from the unbroken one, or was not killed twice")


if __name__ == "__main__":
    main()
