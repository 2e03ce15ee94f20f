"""The memory agent's gains against its plain loop: score, tokens and seconds of each, of all, through one endpoint.

    python benchmarks/agent_gains.py --corpus results/nano_rl/corpus [--out benchmarks/agent_gains.md]

Plain is MemAgent's loop, chunk 5000 and memory 1024, with every token count divided by `SCALE`. Documents and questions
are those of `agent_items`, readers those of `agent_readers`, the server is `agent_endpoint`.

Every row is measured twice. By a clock without other load: loop and endpoint in one process, where time passes only in
the endpoint's sleeps, the same in every run; all items, 8 at once in the order of the documents (throughput), and few
one after another (latency). Over HTTP: the endpoint in a process of its own, really sleeping, fewer items, wall time as
it passed, with all that client, HTTP and whatever else runs there take. The six questions of a document follow each
other, so that with section_first a chunk is in the prefix cache for all of them but the first.
Differences are paired by item; intervals are 95%, by bootstrap.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import agent_endpoint
import agent_items
import agent_readers
import httpx
from agent_gains_asking import answer_all, sections
from agent_gains_tables import SEED, Run, cost_table, replaced, score_table

from qwenlong.core.config.models import FAST
from qwenlong.core.files import read_parquet, write_text
from qwenlong.core.records import Document as Text
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import backends

SCALE = 4
# The templates keep their length: the window has room for them.
CHUNK, MEMORY, ANSWER, WINDOW = 5000 // SCALE, 1024 // SCALE, 256 // SCALE, 10240 // SCALE
SIZES = (MEMORY, ANSWER, WINDOW)
#: Chunks of a document, about.
CHUNKS = 24
AT_ONCE = 8
RECALL = 256 // SCALE
PARALLEL = 4


@dataclass(frozen=True)
class Setting:
    """A row: what is on in the loop, and in the server."""

    gains: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)


_CHEAP = {"skip": True, "recall_tokens": RECALL, "recall_chunks": True, "order": "section_first", "repair": True}
SETTINGS = {
    "plain": Setting(),
    "skip": Setting({"skip": True}),
    "early exit": Setting({"early_exit": True}),
    "recall of memories": Setting({"recall_tokens": RECALL}),
    "recall of memories and chunks": Setting({"recall_tokens": RECALL, "recall_chunks": True}),
    f"parallel, {PARALLEL} groups": Setting({"parallel": PARALLEL}),
    "section first": Setting({"order": "section_first"}),
    "n-gram decoding": Setting(server={"ngram": True}),
    "mode fast": Setting({**FAST, "recall_tokens": RECALL}),
    "all but parallel and early exit": Setting(_CHEAP, {"ngram": True}),
    "all": Setting({**_CHEAP, "early_exit": True, "parallel": PARALLEL}, {"ngram": True}),
}
_BOTH = ("all but parallel and early exit", "all")
#: Which settings a reader is measured in.
ROWS = {
    "perfect": tuple(SETTINGS),
    "fallible": tuple(SETTINGS),
    "forgetful": ("plain", "skip", "recall of memories", "recall of memories and chunks", *_BOTH),
    "narrow": ("plain", "recall of memories", "recall of memories and chunks", *_BOTH),
    "terse": ("plain", "skip", "n-gram decoding", *_BOTH),
}
#: Readers whose latency is taken; that of the others, who write as much, would be the same.
TIMED = ("perfect", "terse")


class Remembering(Tokenizer):
    """A tokenizer that remembers what it just did: loop and endpoint, in one process, count the same prompts."""

    @functools.lru_cache(maxsize=64)  # noqa: B019 one tokenizer a run
    def encode(self, text: str) -> list[int]:
        """Return token ids of plain text; nobody may change them."""
        return super().encode(text)


@dataclass(frozen=True)
class Bench:
    """Documents as chunks, the scripted endpoint in this process, and (where there is one) its address outside."""

    tokenizer: Tokenizer
    folder: Path
    documents: Sequence[agent_items.Document]
    chunks: Mapping[str, Sequence[str]]
    address: str

    def inside(self, reader: str, setting: Setting, documents: int, at_once: int) -> tuple[Run, float]:
        """Return what a setting gives on the first documents, and its seconds an item by a clock without other load."""
        endpoint = agent_endpoint.Endpoint(self.tokenizer, replace(agent_endpoint.Settings(), **setting.server))
        some = self.documents[:documents]
        asking = answer_all(
            agent_endpoint.Inside(endpoint, reader, self.tokenizer), setting.gains, some, self.chunks, at_once, SIZES
        )
        with asyncio.Runner(loop_factory=agent_endpoint.Clock) as runner:
            right, chunks, seconds = runner.run(asking)
        return Run(right, endpoint.stats, chunks), seconds / _questions(some)

    def outside(self, reader: str, setting: Setting, documents: int, at_once: int) -> float:
        """Return the seconds an item on the first documents over HTTP, as they passed."""
        settings = {"ngram": False, **setting.server}
        httpx.post(f"{self.address}/settings", json=settings).raise_for_status()
        backend = backends.open_backend(reader, base_url=f"{self.address}/v1", tokenizer=str(self.folder))
        some = self.documents[:documents]
        return asyncio.run(answer_all(backend, setting.gains, some, self.chunks, at_once, SIZES))[2] / _questions(some)

    def measure(self, reader: str, setting: str, latency: int) -> Run:
        """Return scores and counts on all documents, and seconds; one by one on the first `latency` documents."""
        run, seconds = self.inside(reader, SETTINGS[setting], len(self.documents), AT_ONCE)
        if reader in TIMED:
            run.seconds["one by one"] = self.inside(reader, SETTINGS[setting], latency, 1)[1]
        run.seconds[f"{AT_ONCE} at once"] = seconds
        return run


def _questions(documents: Sequence[agent_items.Document]) -> int:
    return sum(len(document.questions) for document in documents)


#: For the processes of the pool, which are copies of this one.
_bench: Bench | None = None


def _measure(row: tuple[str, str], latency: int) -> Run:
    assert _bench is not None
    return _bench.measure(*row, latency)


def main() -> None:
    """Measure and write the tables."""
    global _bench
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with documents.parquet")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/nano"))
    parser.add_argument("--documents", type=int, default=30, help="of six questions each")
    parser.add_argument("--latency", type=int, default=5, help="documents whose questions are asked one by one")
    parser.add_argument("--walls", type=int, default=2, help="as many over HTTP, 8 at once three times as many")
    parser.add_argument("--readers", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--jobs", type=int, default=2, help="processes; wall times are taken when they are done")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/agent_gains.md"))
    arguments = parser.parse_args()
    texts = read_parquet(arguments.corpus / "documents.parquet", Text)
    tokenizer = Remembering(arguments.tokenizer)
    made = agent_items.make(texts, arguments.documents, int(CHUNKS * CHUNK * agent_readers.CHARACTERS), SEED)
    chunks = {d.id: sections(d, tokenizer, CHUNK) for d in made}
    page = arguments.out.read_text(encoding="utf-8") if arguments.out.exists() else "# The memory agent's gains\n"
    rows = [(reader, name) for reader in arguments.readers for name in ROWS[reader] if name in arguments.settings]
    with agent_endpoint.running(arguments.tokenizer) as address:
        _bench = Bench(tokenizer, arguments.tokenizer, made, chunks, address)
        runs: dict[str, dict[str, Run]] = {reader: {} for reader in arguments.readers}
        measure = functools.partial(_measure, latency=arguments.latency)
        with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("fork")) as pool:
            for (reader, name), run in zip(rows, pool.map(measure, rows), strict=True):
                runs[reader][name] = run
                print(reader, score_table(runs[reader])[-1], cost_table(runs[reader])[-1], run.chunks, flush=True)
        for name, run in runs.get("perfect", {}).items() if arguments.walls else ():
            run.seconds["one by one, wall"] = _bench.outside("perfect", SETTINGS[name], arguments.walls, 1)
            # Few documents at once would mostly measure the end, when the last questions are alone.
            walls = _bench.outside("perfect", SETTINGS[name], 3 * arguments.walls, AT_ONCE)
            run.seconds[f"{AT_ONCE} at once, wall"] = walls
            print("perfect", cost_table({"plain": runs["perfect"]["plain"], name: run})[-1], flush=True)
    for reader, by_setting in runs.items():
        lines = [f"{_questions(made)} questions.", "", *score_table(by_setting), "", *cost_table(by_setting)]
        page = replaced(page, f"Scripted endpoint, {reader} reader", lines)
    write_text(arguments.out, page)


if __name__ == "__main__":
    main()
