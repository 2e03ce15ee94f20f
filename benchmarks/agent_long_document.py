"""A document of millions of tokens through `qwenlong agent answer`: calls, needles, memory and time of the client.

    python benchmarks/agent_long_document.py --cache data/cache --tokenizer DIR --out DIR [--markdown FILE]

The document is made of the corpora in `--cache` (qwenlong corpus fetch), with eight needles at uniform places inside
its running text. The client is the command itself; the endpoint (agent_long_server.py) is another process and answers
at once, so that what is left is the client's own work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "packages"))

NEEDLES = 8
#: chunk_tokens, memory_tokens, answer_tokens: the defaults, and MemAgent's.
SIZES = ((32000, 15000, 12000), (5000, 1024, 1024))
TOKENS = (500_000, 1_000_000, 2_000_000, 4_000_000)
QUESTION = "Which codes did the keepers write down? List the codes, parted by blanks."
#: Memory that the client may take at its highest, in MiB, and seconds of its own work.
MOST_MEMORY, MOST_SECONDS = 500, 60
#: Seconds between two looks at the client's memory.
INTERVAL = 0.02


def needles(seed: int) -> list[dict[str, str]]:
    """Return the needles: a sentence with a keeper at its beginning and a code at its end."""
    draw = random.Random(seed)
    names = ("Ansgar", "Berit", "Corvin", "Dagny", "Eskil", "Fenja", "Gustav", "Hedda")
    found = []
    for name in names[:NEEDLES]:
        keeper, code = f"{name} Q{draw.randrange(10**5):05d}", f"K{draw.randrange(10**8):08d}"
        sentence = f"{keeper} wrote down, e.g. in the log of No. {draw.randrange(2, 99)}: the code is; {code}."
        found.append({"keeper": keeper, "code": code, "sentence": sentence})
    return found


def plant(paragraphs: Iterable[str], places: Sequence[int], planted: Sequence[dict[str, str]]) -> Iterator[str]:
    """Yield paragraphs with each needle as a sentence of the first one that begins at its place or later.

    `places` are numbers of characters, ascending. A paragraph without a sentence's end gets it behind its last line.
    """
    from qwenlong.memory_agent.borders import sentences

    waiting, at = list(zip(places, planted, strict=True)), 0
    for paragraph in paragraphs:
        at += len(paragraph)
        while waiting and at >= waiting[0][0] and paragraph.strip():
            sentence = waiting.pop(0)[1]["sentence"]
            parts = sentences(paragraph)
            if len(parts) > 1 and parts[len(parts) // 2 - 1][-1:] == " ":
                middle = len(parts) // 2
                paragraph = "".join([*parts[:middle], sentence + " ", *parts[middle:]])
            else:
                paragraph = f"{paragraph.rstrip()}\n{sentence}\n\n"
        yield paragraph


def build(cache: Path, tokenizer: Path, sizes: Sequence[int], out: Path, seed: int) -> None:
    """Write one document of each size, its needles and what is known of it."""
    from qwenlong.core.config import Config
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.corpus.hostile import Losses
    from qwenlong.corpus.origins import origins

    tokens = Tokenizer(tokenizer)
    found = needles(seed)
    assert all(tokens.count(needle["sentence"]) <= 64 for needle in found)
    documents = [
        f"{document.title}\n\n{document.text}\n\n"
        for origin in origins(Config().corpus, cache)
        for document in origin.read(Losses(origin.name))
    ]
    random.Random(seed).shuffle(documents)
    for size in sizes:
        taken, total = [], 0
        for document in documents:
            taken.append(document)
            total += tokens.count(document)
            if total >= size:
                break
        else:
            raise SystemExit(f"the corpora have {total} tokens, {size} are asked for; fetch more sources")
        text = "".join(taken)
        draw = random.Random(f"{seed}/{size}")
        places = sorted(draw.randrange(len(text) * 99 // 100) for _ in found)
        text = "".join(plant(text.splitlines(keepends=True), places, found))
        # To the token: what is above the size goes from the end, where no needle lies.
        (ids,) = tokens.encode_batch([text])
        text = tokens.decode(ids[:size]).rstrip("\ufffd")
        assert all(text.count(needle["sentence"]) == 1 for needle in found)
        folder = out / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "document.txt").write_text(text, encoding="utf-8")
        (folder / "needles.json").write_text(json.dumps(found), encoding="utf-8")
        (folder / "facts.json").write_text(json.dumps({"tokens": tokens.count(text), "characters": len(text)}))


def expected_text(document: Path, tokenizer: Path) -> str:
    """Return the digest of what all sections should hold together, blanks aside."""
    from qwenlong.core.config import AgentConfig
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.memory_agent.documents import render
    from qwenlong.memory_agent.prompting import Prompts

    safe = Prompts(AgentConfig().prompts, Tokenizer(tokenizer)).safe(render([document]))
    return hashlib.sha256("".join(safe.split()).encode()).hexdigest()


@dataclass
class Run:
    """One run of the client."""

    record: dict[str, Any]
    answer: dict[str, Any]
    seconds: float
    cpu: float
    peak: int
    """Highest resident memory in bytes, as the kernel keeps it (VmHWM)."""
    cutting: float
    """Seconds from the start to the first request."""

    @property
    def own(self) -> float:
        """Seconds that the client did not wait for the endpoint."""
        return self.seconds - float(self.record["seconds"])


@contextmanager
def endpoint(needles_file: Path, memory: int) -> Iterator[str]:
    """Run the scripted endpoint; yield its address."""
    command = [sys.executable, str(Path(__file__).with_name("agent_long_server.py")), str(needles_file), str(memory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def client(
    documents: Sequence[Path], needles_file: Path, tokenizer: Path, sizes: tuple[int, int, int], log: Path
) -> Run:
    """Run the command over documents in a process of its own and watch it. Raises SystemExit where it fails."""
    chunk, memory, answer = sizes
    # Between a third and two thirds of what a memory may have.
    with endpoint(needles_file, 3 * memory // 2) as url:
        command = [sys.executable, "-c", "from qwenlong.cli import main; main()", "agent", "answer", "--json"]
        command += [word for document in documents for word in ("--document", str(document))]
        command += ["--question", QUESTION, "--base-url", f"{url}/v1", "--model", "scripted"]
        command += ["--tokenizer", str(tokenizer), "--window", str(chunk + 2 * memory + answer + 4000)]
        command += ["--chunk-tokens", str(chunk), "--memory-tokens", str(memory), "--answer-tokens", str(answer)]
        paths = os.pathsep.join(filter(None, (str(ROOT / "packages"), os.environ.get("PYTHONPATH"))))
        with log.open("wb") as errors:
            wall, began = time.time(), time.monotonic()
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "PYTHONPATH": paths}
            )
            peaks = [0]
            watcher = threading.Thread(target=_watch, args=(child.pid, peaks), daemon=True)
            watcher.start()
            assert child.stdout is not None
            printed = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.monotonic() - began
            child.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
        if child.returncode:
            raise SystemExit(f"the client ended with {child.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
        with urllib.request.urlopen(f"{url}/record") as reply:
            record = json.load(reply)
    cpu = usage.ru_utime + usage.ru_stime
    return Run(record, json.loads(printed), seconds, cpu, max(peaks), record["first"] - wall)


def _watch(pid: int, peaks: list[int]) -> None:
    """Keep the highest VmHWM of a process until it ends."""
    while True:
        try:
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
                values = dict(line.split(":", 1) for line in stream)
        except OSError:
            return
        if "VmHWM" not in values:
            return
        peaks.append(int(values["VmHWM"].split()[0]) * 1024)
        time.sleep(INTERVAL)


def problems(run: Run, expected: str) -> list[str]:
    """Return what is not as it should be: calls, order, needles, text, answer."""
    record, total = run.record, run.answer["chunks"]["total"]
    found = []
    if record["calls"] != {"split": 1, "update": total, "answer": 1}:
        found.append(f"{total} chunks, calls {record['calls']}")
    if run.answer["calls"] != total + 2:
        found.append(f"{run.answer['calls']} calls are reported")
    if record["order"] != list(range(1, total + 1)):
        found.append("sections out of order")
    for code, times in record["whole"].items():
        # Its keeper and its code, both once: no part of it was shown elsewhere.
        if times != 1 or record["mentioned"][code] != 2:
            found.append(f"needle {code} was whole {times} times, mentioned {record['mentioned'][code]} times")
        if code not in run.answer["answer"].split():
            found.append(f"needle {code} is not in the answer")
    if record["text"] != expected:
        found.append("the sections together are not the document")
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = (
        "tokens",
        "chunk / memory",
        "calls",
        "needles whole, once",
        "peak MiB",
        "client's own s",
        "of it to the first call",
    )
    head += ("CPU s", "endpoint s", "load")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (
            f"{row['tokens']:,}", f"{row['chunk']} / {row['memory']}", f"1 + {row['chunks']} + 1",
            f"{row['needles']} of {NEEDLES}", f"{row['peak'] / 2**20:.0f}", f"{row['own']:.1f}",
            f"{row['cutting']:.1f}", f"{row['cpu']:.1f}", f"{row['endpoint']:.1f}", f"{row['load']:.0f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Build the documents, run the client over each with both sizes, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="fetched corpora")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory with tokenizer.json")
    parser.add_argument(
        "--out", type=Path, required=True, help="documents (those that are there are kept), logs, rows.json"
    )
    parser.add_argument("--markdown", type=Path, help="table to write")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(options.cache, options.tokenizer, options.tokens, options.out, options.seed)
        return
    missing = [size for size in options.tokens if not (options.out / str(size) / "facts.json").is_file()]
    if missing:
        # In a process of its own: its memory is none of the client's.
        sizes = ["--tokens", *map(str, missing)]
        subprocess.run([sys.executable, __file__, *sys.argv[1:], *sizes, "--build"], check=True)
    rows, wrong = [], []
    for size in options.tokens:
        folder = options.out / str(size)
        facts = json.loads((folder / "facts.json").read_text())
        expected = expected_text(folder / "document.txt", options.tokenizer)
        for sizes in SIZES:
            files = folder / "document.txt", folder / "needles.json"
            run = client([files[0]], files[1], options.tokenizer, sizes, folder / f"client_{sizes[0]}.log")
            wrong += [f"{size} tokens, chunks of {sizes[0]}: {problem}" for problem in problems(run, expected)]
            rows.append(
                {
                    **facts,
                    "chunk": sizes[0],
                    "memory": sizes[1],
                    "chunks": run.answer["chunks"]["total"],
                    "needles": sum(times == 1 for times in run.record["whole"].values()),
                    "peak": run.peak,
                    "own": run.own,
                    "cpu": run.cpu,
                    "cutting": run.cutting,
                    "endpoint": run.record["seconds"],
                    "load": os.getloadavg()[0],
                }  # fmt: skip
            )
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    (options.out / "rows.json").write_text(json.dumps(rows, indent=1))
    cores = len(os.sched_getaffinity(0))
    for row in rows:
        if row["peak"] > MOST_MEMORY * 2**20:
            wrong.append(f"{row['tokens']} tokens: peak {row['peak'] / 2**20:.0f} MiB, above {MOST_MEMORY}")
        # Where others wait for the cores too, wall time says more about them than about the client.
        name = "own" if row["load"] <= cores else "cpu"
        if row[name] > MOST_SECONDS:
            wrong.append(f"{row['tokens']} tokens: {row[name]:.0f} s ({name}), above {MOST_SECONDS}")
    if options.markdown is not None:
        options.markdown.write_text(_page(table(rows)), encoding="utf-8")
    if wrong:
        raise SystemExit("\n".join(wrong))


def _page(rows: str) -> str:
    return f"""# A document of millions of tokens through `qwenlong agent answer`

Made by `{Path(__file__).name}`: Qwen3's tokenizer, documents of the corpora in a drawn order, eight needles (one
sentence of at most 64 tokens with an abbreviation, a colon and a semicolon inside) at uniform places in running text.
The client is the command in paper mode, in a process of its own; the endpoint, in another, answers at once with
memories of a third to two thirds of the limit. Every row was checked: calls in order and in number, each needle once
and whole and no part of it elsewhere, all codes in the answer, and all sections together the document.

{rows}
Peak is VmHWM of the client; its own seconds are wall time less what the endpoint took for its replies; CPU is user and
system time of the client, all threads; load is the machine's, on {len(os.sched_getaffinity(0))} cores: where it is
above them, other work had its share, and CPU seconds are what the client needs. Cost grows with the length, memory does
not.
"""


if __name__ == "__main__":
    main()
