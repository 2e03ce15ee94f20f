"""The memory agent's gains against its plain loop: wall time, tokens and score of each, of all, through one endpoint.

    python benchmarks/agent_gains.py --corpus results/nano_rl/corpus [--out benchmarks/agent_gains.md]
    python benchmarks/agent_gains.py --corpus … --real models/nano [--base-url http://127.0.0.1:8000/v1]

Plain is MemAgent's loop, chunk 5000 and memory 1024, with every token count divided by `SCALE`. The endpoint
(`agent_endpoint`) runs in a process of its own and really sleeps. Scores come from all items, asked 8 at once without
sleeping; wall times from `--timed` documents, first one question after another (latency), then 8 at once, in the order
of the documents (throughput). Differences are paired by item; intervals are 95%, by bootstrap.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import agent_endpoint
import agent_items
import agent_readers
import httpx
from qwenlong.memory_agent.gains import Gains

from qwenlong.core import templates
from qwenlong.core.files import read_parquet, write_text
from qwenlong.core.records import Document as Text
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import metrics
from qwenlong.memory_agent import backends, chunking, loop

SEED = 17
SCALE = 4
# The templates keep their length: the window has room for them.
CHUNK, MEMORY, ANSWER, WINDOW = 5000 // SCALE, 1024 // SCALE, 256 // SCALE, 10240 // SCALE
SIZES = (MEMORY, ANSWER, WINDOW)
#: Chunks of a document, about; characters a token of the nano tokenizer on the corpus, about.
CHUNKS, CHARACTERS = 24, 2.7
AT_ONCE = 8
RECALL = 256 // SCALE
PARALLEL = 4


@dataclass(frozen=True)
class Setting:
    """A row: what is on in the loop, and in the server."""

    gains: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)


_CHEAP = {"skip": True, "recall_tokens": RECALL, "order": "section_first", "repair": True}
SETTINGS = {
    "plain": Setting(),
    "skip": Setting({"skip": True}),
    "early exit": Setting({"early_exit": True}),
    "recall of memories": Setting({"recall_tokens": RECALL}),
    "recall of memories and chunks": Setting({"recall_tokens": RECALL, "recall_chunks": True}),
    f"parallel, {PARALLEL} groups": Setting({"parallel": PARALLEL}),
    "section first": Setting({"order": "section_first"}),
    "n-gram decoding": Setting(server={"ngram": True}),
    "all but parallel and early exit": Setting({**_CHEAP, "recall_chunks": True}, {"ngram": True}),
    "all": Setting(
        {**_CHEAP, "recall_chunks": True, "early_exit": True, "parallel": PARALLEL},
        {"ngram": True},
    ),
}


@dataclass
class Run:
    """What a setting gave: item → right by kind, the endpoint's counts, chunks by fate, seconds an item by mode."""

    right: dict[str, dict[str, float]]
    stats: dict[str, float]
    chunks: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)


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

    def measure(self, reader: str, setting: Setting, timed: int, walls: bool) -> Run:
        """Return scores and counts on all documents with the seconds by mode; with `walls` those over HTTP too."""
        run, seconds = self.inside(reader, setting, len(self.documents), AT_ONCE)
        run.seconds["one by one"] = self.inside(reader, setting, 2 * timed, 1)[1]
        run.seconds[f"{AT_ONCE} at once"] = seconds
        if walls:
            run.seconds["one by one, wall"] = self.outside(reader, setting, timed, 1)
            # Few documents at once would mostly measure the end, when the last questions are alone.
            run.seconds[f"{AT_ONCE} at once, wall"] = self.outside(reader, setting, 3 * timed, AT_ONCE)
        return run


def _questions(documents: Sequence[agent_items.Document]) -> int:
    return sum(len(document.questions) for document in documents)


async def answer_all(
    backend: backends.Backend,
    gains: Mapping[str, Any],
    documents: Sequence[agent_items.Document],
    chunks: Mapping[str, Sequence[str]],
    at_once: int,
    sizes: tuple[int, int, int],
) -> tuple[dict[str, dict[str, float]], dict[str, int], float]:
    """Ask all questions of documents in order, `at_once` at a time.

    Returns item → right by kind, chunks by what became of them, and the seconds of the event loop's clock.
    """
    generate = backends.generator(backend, temperature=0.0, top_p=1.0, seed=SEED)
    slots = asyncio.Semaphore(at_once)
    right: dict[str, dict[str, float]] = {kind: {} for kind in agent_items.KINDS}
    counts: dict[str, int] = {}

    async def one(document: agent_items.Document, question: agent_items.Question) -> None:
        async with slots:
            result = await loop.fold(
                question.text,
                templates.ANSWER_INSTRUCTION,
                chunks[document.id],
                generate,
                tokenizer=backend.tokenizer,
                memory_tokens=sizes[0],
                answer_tokens=sizes[1],
                window=sizes[2],
                gains=Gains(**gains),
            )
        right[question.kind][question.id] = float(scored(result.answer, question.answer))
        for name, count in result.chunks().items():
            counts[name] = counts.get(name, 0) + count

    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(one(d, q) for d in documents for q in d.questions))
    seconds = asyncio.get_running_loop().time() - began
    await backend.close()
    return right, counts, seconds


def scored(said: str, answer: str) -> bool:
    """Tell whether the answer in brackets is the right one, to the letter."""
    found = re.findall(r"the answer is \(([^()]*)\)", said)
    return bool(found) and found[-1].strip().lower() == answer


def _percent(metric: Mapping[str, Any], sign: str = "") -> str:
    low, high = metric["ci95"] or (metric["value"], metric["value"])
    return f"{100 * metric['value']:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def score_table(runs: Mapping[str, Run]) -> list[str]:
    """Return scores by kind and paired differences from the first row, in percent."""
    first = next(iter(runs.values()))
    lines = [
        "| setting | retrieval | multi-hop | counting | average | minus plain |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        by_kind = {kind: list(values.values()) for kind, values in run.right.items()}
        cells = [_percent(metrics.mean(values, SEED, kind)) for kind, values in by_kind.items()]
        differences = {k: [run.right[k][i] - v for i, v in values.items()] for k, values in first.right.items()}
        minus = "" if run is first else _percent(metrics.average(differences, SEED), "+")
        lines.append(f"| {name} | {' | '.join(cells)} | {_percent(metrics.average(by_kind, SEED))} | {minus} |")
    return lines


def cost_table(runs: Mapping[str, Run]) -> list[str]:
    """Return costs an item and how many times cheaper than the first row; the tokens are those of all items."""
    first = next(iter(runs.values()))
    head = ["setting", "calls", "prompt tokens", "of them cached", "written", "machine s", "×"]
    head += [cell for mode in first.seconds for cell in (f"{mode}, s", "×")]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, run in runs.items():
        items = sum(map(len, run.right.values()))
        s = {key: value / items for key, value in run.stats.items()}
        cells = [f"{s['requests']:.1f}", f"{s['prompt_tokens']:,.0f}", f"{s['cached_tokens']:,.0f}"]
        cells += [f"{s['completion_tokens']:,.0f}", f"{s['busy_seconds']:.3f}"]
        cells.append(f"{first.stats['busy_seconds'] / run.stats['busy_seconds']:.1f}")
        for mode, seconds in run.seconds.items():
            cells += [f"{seconds:.2f}", f"{first.seconds[mode] / seconds:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def scripted(bench: Bench, reader: str, settings: Sequence[str], timed: int, walls: bool) -> list[str]:
    """Return the tables of a reader of the scripted endpoint, see `Bench.measure`."""
    runs: dict[str, Run] = {}
    for name in settings:
        runs[name] = bench.measure(reader, SETTINGS[name], timed, walls)
        print(reader, cost_table(runs)[-1], score_table(runs)[-1], runs[name].chunks, flush=True)
    return [*score_table(runs), "", *cost_table(runs)]


def real(model: str, base_url: str | None, tokenizer: Path, texts: Sequence[Text], documents: int) -> list[str]:
    """Return the table of a real model on short documents, one question after another."""
    window, chunk, memory, answer = 2048, 384, 96, 64
    made = agent_items.make(texts, documents, int(6 * chunk * CHARACTERS), SEED)
    count = Tokenizer(tokenizer)
    chunks = {d.id: chunking.split(d.text, count, chunk) for d in made}
    runs: dict[str, Run] = {}
    for name, setting in SETTINGS.items():
        if setting.server and not setting.gains:
            continue
        counted = _Counted(backends.open_backend(model, base_url=base_url, tokenizer=str(tokenizer)))
        gains = {**setting.gains, **({"recall_tokens": memory} if "recall_tokens" in setting.gains else {})}
        found = asyncio.run(answer_all(counted, gains, made, chunks, 1, (memory, answer, window)))
        right, became, seconds = found
        runs[name] = Run(right, counted.stats | {"busy_seconds": seconds}, became)
        print(cost_table(runs)[-1], score_table(runs)[-1], became, flush=True)
    items = sum(len(d.questions) for d in made)
    each = sum(map(len, chunks.values())) / len(made)
    head = f"{items} questions, {each:.0f} chunks of {chunk}, memory {memory}, greedy."
    return [head, "", *score_table(runs), "", *cost_table(runs), ""]


class _Counted:
    """A backend that counts what it reads and writes."""

    def __init__(self, backend: backends.Backend) -> None:
        self._backend = backend
        self.name, self.tokenizer, self.window = backend.name, backend.tokenizer, backend.window
        self.stats = dict.fromkeys(agent_endpoint.STATS, 0.0)

    async def complete(self, messages: loop.Messages, **settings: Any) -> loop.Turn:
        turn = await self._backend.complete(messages, **settings)
        for name, n in (
            ("requests", 1),
            ("prompt_tokens", turn.prompt_tokens),
            ("completion_tokens", turn.completion_tokens),
        ):
            self.stats[name] += n
        return turn

    async def close(self) -> None:
        await self._backend.close()


def replaced(page: str, title: str, lines: Sequence[str]) -> str:
    """Return a page with the section of that title replaced, or put behind the others."""
    section = "\n".join([f"## {title}", "", *lines]).strip() + "\n"
    mark = re.compile(rf"(?ms)^## {re.escape(title)}\n.*?(?=^## |\Z)")
    if mark.search(page):
        return mark.sub(lambda _: section + "\n", page).strip() + "\n"
    return f"{page.strip()}\n\n{section}"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with documents.parquet")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/nano"))
    parser.add_argument("--documents", type=int, default=30, help=f"of {2 * agent_items.PER_KIND + 2} questions each")
    parser.add_argument("--timed", type=int, default=2, help="documents whose wall time is taken one question by one")
    parser.add_argument("--no-walls", action="store_true", help="leave out the wall times over HTTP")
    parser.add_argument(
        "--readers", nargs="*", default=list(agent_readers.READERS), choices=list(agent_readers.READERS)
    )
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--real", help="a model directory, or with --base-url a model's name, instead of the script")
    parser.add_argument("--base-url", help="OpenAI-compatible address of the real model")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/agent_gains.md"))
    arguments = parser.parse_args()
    texts = read_parquet(arguments.corpus / "documents.parquet", Text)
    page = arguments.out.read_text(encoding="utf-8") if arguments.out.exists() else "# The memory agent's gains\n"
    if arguments.real:
        lines = real(arguments.real, arguments.base_url, arguments.tokenizer, texts, arguments.documents)
        title = f"Real model: {backends.label(arguments.real)}"
        write_text(arguments.out, replaced(page, title, lines))
        return
    tokenizer = Tokenizer(arguments.tokenizer)
    made = agent_items.make(texts, arguments.documents, int(CHUNKS * CHUNK * CHARACTERS), SEED)
    chunks = {d.id: chunking.split(d.text, tokenizer, CHUNK) for d in made}
    with agent_endpoint.running(arguments.tokenizer) as address:
        bench = Bench(tokenizer, arguments.tokenizer, made, chunks, address)
        for reader in arguments.readers:
            walls = reader == "perfect" and not arguments.no_walls
            lines = scripted(bench, reader, arguments.settings, arguments.timed, walls)
            page = replaced(page, f"Scripted endpoint, {reader} reader", lines)
            write_text(arguments.out, page)


if __name__ == "__main__":
    main()
