"""Deduplication against the `datasketch` package, and load, filter, deduplicate at growing sizes.

    python benchmarks/dedup.py --documents results/laptop/corpus/documents.parquet \
        [--megabytes 256 512 1024] [--compare-megabytes 32] [--workers 2] [--out benchmarks/dedup.md]

Texts are put together from the sentences of real documents, drawn at random with a seed, so that they are natural and
no duplicates; near duplicates of known similarity and exact ones are planted among them. Both implementations see the
same texts in one run, one process each, with the same bands, so that the recall to expect is the same; recall and
precision are measured against the true Jaccard similarity of 5-word shingles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from qwenlong.core.files import read_parquet, write_text
from qwenlong.core.records import Document

THRESHOLD = 0.8
SEED = 17
#: Similarities at which pairs are planted, and how many at each.
LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
PAIRS = 100
#: Shares of the big corpus that repeat an earlier document exactly, or nearly.
EXACT, NEAR = 0.05, 0.05
_WORD = re.compile(r"\w+")


def sentences(file: Path) -> list[str]:
    """Return the distinct sentences and lines of 5 words and more of a corpus."""
    found: dict[str, None] = {}
    for document in read_parquet(file, Document):
        for part in re.split(r"(?<=[.!?])\s+|\n+", document.text):
            if 5 <= len(part.split()) <= 60:
                found[part.strip()] = None
    return list(found)


def text(rng: random.Random, pool: list[str], characters: int) -> str:
    """Return sentences drawn at random, with paragraphs.

    One word in eight is another sentence's, or texts of a large corpus made from a small one would repeat its shingles
    more than natural ones do.
    """
    parts, size = [], 0
    while size < characters:
        words = rng.choice(pool).split()
        others = rng.choice(pool).split()
        for n in range(rng.randrange(8), len(words), 8):
            words[n] = rng.choice(others)
        parts.append(" ".join(words))
        size += len(parts[-1]) + 1
    return "\n".join(" ".join(parts[n : n + 5]) for n in range(0, len(parts), 5))


def shingles(value: str) -> set[bytes]:
    """Return the 5-word shingles of a text, as datasketch takes them."""
    words = _WORD.findall(value.lower())
    if len(words) < 5:
        return {" ".join(words).encode()}
    return {" ".join(words[n : n + 5]).encode() for n in range(len(words) - 4)}


def jaccard(left: set[bytes], right: set[bytes]) -> float:
    """Return the true similarity."""
    return len(left & right) / len(left | right)


def changed(rng: random.Random, value: str, level: float) -> str:
    """Return a copy whose similarity is `level` or a little more: single words replaced, far from each other."""
    words = value.split(" ")
    whole = shingles(value)
    best = value
    for n in rng.sample(range(len(words)), len(words)):
        words[n] = f"x{rng.randrange(10**9)}"
        copy = " ".join(words)
        if jaccard(whole, shingles(copy)) < level:
            break
        best = copy
    return best


def ours(texts: list[str]) -> dict[int, int]:
    """Return {document: its twin} by qwenlong.corpus.minhash."""
    from qwenlong.corpus.minhash import find_twins

    return find_twins(texts, THRESHOLD, SEED)


def datasketch(texts: list[str]) -> dict[int, int]:
    """Return the same by datasketch: batch updates, our bands, which recall more than its own, candidates checked."""
    from datasketch import MinHash, MinHashLSH

    from qwenlong.corpus.minhash import banding

    template = MinHash(num_perm=128, seed=SEED)
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128, params=banding(THRESHOLD))
    sets: dict[int, set[bytes]] = {}
    found = {}
    for number, value in enumerate(texts):
        pieces = shingles(value)
        signature = template.copy()
        signature.update_batch(pieces)
        twin = next((n for n in sorted(index.query(signature)) if jaccard(pieces, sets[n]) >= THRESHOLD), None)
        if twin is None:
            index.insert(number, signature, check_duplication=False)
            sets[number] = pieces
        else:
            found[number] = twin
    return found


def compare(pool: list[str], megabytes: float) -> list[str]:
    """Return the lines of the table that holds both side by side."""
    rng = random.Random(SEED)
    texts: list[str] = []
    size = 0
    while size < megabytes * 2**20 or len(texts) < len(LEVELS) * PAIRS:
        texts.append(text(rng, pool, rng.randint(500, 6000)))
        size += len(texts[-1])
    clean = len(texts)
    planted = []
    for level in LEVELS:
        for _ in range(PAIRS):
            original = len(planted)
            texts.append(changed(rng, texts[original], level))
            planted.append((level, original, len(texts) - 1))
    size = sum(map(len, texts))
    truth = {copy: jaccard(shingles(texts[original]), shingles(texts[copy])) for _, original, copy in planted}
    print(f"{clean} texts and {len(planted)} planted copies, {size / 2**20:.0f} MB", flush=True)
    results, seconds = {}, {}
    # Turn about, twice, the better time of each: a machine that others use slows both alike.
    for function in (ours, datasketch, ours, datasketch):
        start = time.process_time()
        results[function.__name__] = function(texts)
        taken = time.process_time() - start
        seconds[function.__name__] = min(taken, seconds.get(function.__name__, taken))
        print(f"{function.__name__}: {taken:.1f} s", flush=True)
    names = ("ours", "datasketch")
    lines = [
        f"{clean:,} texts ({size / 2**20:.0f} MB) and {len(planted)} planted copies; one process each, CPU seconds, "
        "the better of two turns. Both use the same bands of a signature of 128 values.",
        "",
        "| | ours | datasketch |",
        "|---|---|---|",
        "| CPU seconds | " + " | ".join(f"{seconds[name]:.1f}" for name in names) + " |",
        "| MB a second | " + " | ".join(f"{size / 2**20 / seconds[name]:.1f}" for name in names) + " |",
        f"| **times faster** | **{seconds['datasketch'] / seconds['ours']:.1f}** | 1 |",
    ]
    for level in LEVELS:
        copies = [copy for planned, _, copy in planted if planned == level]
        caught = [sum(copy in results[name] for copy in copies) for name in names]
        mean = sum(truth[copy] for copy in copies) / len(copies)
        what = "caught (recall)" if level >= THRESHOLD else "dropped (should be 0)"
        lines.append(
            f"| similarity {mean:.3f}: {what} | " + " | ".join(f"{count}/{len(copies)}" for count in caught) + " |"
        )
    rates = []
    for name in names:
        right = sum(
            jaccard(shingles(texts[copy]), shingles(texts[twin])) >= THRESHOLD for copy, twin in results[name].items()
        )
        rates.append(f"{right}/{len(results[name])}")
    lines.append("| precision of what is dropped | " + " | ".join(rates) + " |")
    false = [str(sum(copy < clean for copy in results[name])) for name in names]
    return [*lines, "| clean texts dropped | " + " | ".join(false) + " |"]


def documents(pool: list[str], megabytes: float) -> Iterator[Document]:
    """Yield documents of so much text; of them EXACT and NEAR repeat one of the last thousand."""
    rng = random.Random(SEED)
    recent: list[str] = []
    size, number = 0, 0
    while size < megabytes * 2**20:
        draw = rng.random()
        if recent and draw < EXACT:
            value = rng.choice(recent)
        elif recent and draw < EXACT + NEAR:
            value = rng.choice(recent)
            words = value.split(" ")
            for n in rng.sample(range(len(words)), max(1, len(words) // 100)):
                words[n] = "changed"
            value = " ".join(words)
        else:
            value = text(rng, pool, rng.randint(500, 6000))
            recent.append(value)
            del recent[:-1000]
        yield Document(
            id=f"bench/{number:08d}", source="bench", category="general", title=f"Text {number}", text=value,
            n_tokens=0, licence="CC0-1.0",
        )  # fmt: skip
        number += 1
        size += len(value)


#: What the measured process runs: the pipeline as the command line runs it, from shards to kept shards.
CHILD = """
import json, sys, time
from qwenlong.core.config import CorpusConfig
from qwenlong.corpus import shards
if __name__ == "__main__":
    out, workers, seed, *files = sys.argv[1:]
    start = time.monotonic()
    counts = shards.run(files, out, CorpusConfig(workers=int(workers)), int(seed))
    print(json.dumps({"seconds": time.monotonic() - start, "counts": counts}))
"""


def tree_memory(pid: int) -> int:
    """Return the bytes that a process and its descendants use, shared pages counted once (PSS)."""
    import psutil

    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
            continue
    return total


def measure(work: Path, pool: list[str], megabytes: float, workers: int) -> dict[str, float]:
    """Run the pipeline over so much text in a process of its own; return its numbers."""
    from qwenlong.corpus.shard_files import write_shards

    files = write_shards(documents(pool, megabytes), work / "in", key=f"benchmark {SEED} {megabytes}")
    shutil.rmtree(work / "out", ignore_errors=True)
    script = work / "child.py"
    write_text(script, CHILD)
    command = [sys.executable, str(script), str(work / "out"), str(workers), str(SEED), *map(str, files)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while child.poll() is None:
        peak = max(peak, tree_memory(child.pid))
        time.sleep(0.25)
    assert child.stdout is not None
    printed = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"the pipeline ended with {child.returncode}")
    found = json.loads(printed.splitlines()[-1])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    row = {"megabytes": megabytes, "seconds": found["seconds"], "cpu": cpu, "peak": peak / 2**20, **found["counts"]}
    print(row, flush=True)
    return row


def scale(work: Path, pool: list[str], sizes: list[float], workers: int) -> list[str]:
    """Return the lines of the table over sizes."""
    lines = [
        f"`corpus shards` with {workers} workers, wall-clock seconds from Parquet shards to Parquet shards of what is "
        f"kept ({EXACT:.0%} exact and {NEAR:.0%} near duplicates planted); peak memory is the PSS of all processes.",
        "",
        "| text | documents | seconds | seconds a GiB | CPU seconds | peak memory | kept | dropped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        row = measure(work / f"{size:g}", pool, size, workers)
        dropped = ", ".join(f"{name} {count:,}" for name, count in row["dropped"].items())  # type: ignore[attr-defined]
        lines.append(
            f"| {size / 1024:.3g} GiB | {row['read']:,} | {row['seconds']:.1f} | {row['seconds'] * 1024 / size:.0f} | "
            f"{row['cpu']:.1f} | "
            f"{row['peak']:,.0f} MB | {row['kept']:,} | {dropped} |"
        )
        shutil.rmtree(work / f"{size:g}", ignore_errors=True)
    return lines


def main() -> None:
    """Run both and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents.parquet of `qwenlong corpus build`")
    parser.add_argument("--megabytes", type=float, nargs="*", default=[256, 512, 1024])
    parser.add_argument("--compare-megabytes", type=float, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("results/benchmark_dedup"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/dedup.md"))
    arguments = parser.parse_args()
    pool = sentences(arguments.documents)
    parts = [
        "# Deduplication",
        "",
        f"Made by `benchmarks/dedup.py` on {os.cpu_count()} cores, Python {platform.python_version()}; texts from "
        f"{len(pool):,} sentences of the corpus; threshold {THRESHOLD}.",
        "",
        "## Side by side with datasketch",
        "",
        *compare(pool, arguments.compare_megabytes),
    ]
    if arguments.megabytes:
        parts += ["", "## Load, filter, deduplicate", ""]
        parts += scale(arguments.work, pool, arguments.megabytes, arguments.workers)
    write_text(arguments.out, "\n".join(parts) + "\n")
    print("\n".join(parts))


if __name__ == "__main__":
    main()
