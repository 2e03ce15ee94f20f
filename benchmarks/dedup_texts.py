"""Texts for benchmarks/dedup.py: put together from the sentences of real documents, with copies planted among them."""

from __future__ import annotations

import html
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from qwenlong.core.files import read_parquet, write_jsonl
from qwenlong.core.records import Document

SEED = 17
#: Shares of the big corpus that repeat an earlier document exactly, or nearly, or hold a benchmark's question.
EXACT, NEAR, CONTAMINATED = 0.05, 0.05, 0.001
#: Of every hundred documents so many are records of JSON-lines files; of the others a third each is .txt, .md, .html.
RECORDS = 70
#: Records of a JSON-lines file, and files of a folder.
FILE_RECORDS, FOLDER_FILES = 5000, 1000
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
    """Return the 5-word shingles of a text, as datasketch takes them, by the fastest way that we know in Python."""
    words = _WORD.findall(value.lower())
    if len(words) < 5:
        return {" ".join(words).encode()}
    return set(map(str.encode, map(" ".join, zip(words, words[1:], words[2:], words[3:], words[4:], strict=False))))


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


def questions(pool: list[str]) -> list[str]:
    """Return 200 questions of 20 words that stand in no text by chance."""
    rng = random.Random(f"{SEED} questions")
    words = [word for line in rng.sample(pool, 2000) for word in _WORD.findall(line)]
    return [" ".join(rng.sample(words, 20)).capitalize() + "?" for _ in range(200)]


def texts(pool: list[str], megabytes: float, part: int, planted: dict[str, int]) -> Iterator[str]:
    """Yield texts of so many megabytes; EXACT and NEAR of them repeat earlier ones, CONTAMINATED hold a question.

    `planted` counts them. Copies are of any document before, not only of the last ones, so that they lie in other
    shards too; a near copy has one word in a hundred replaced (a similarity of about 0.9).
    """
    rng = random.Random(f"{SEED} {part}")
    asked = questions(pool)
    known: list[str] = []
    size = 0
    while size < megabytes * 2**20:
        draw = rng.random()
        if known and draw < EXACT:
            value = rng.choice(known)
            planted["duplicate"] += 1
        elif known and draw < EXACT + NEAR:
            words = rng.choice(known).split(" ")
            for n in rng.sample(range(len(words)), max(1, len(words) // 100)):
                words[n] = f"x{rng.randrange(10**9)}"
            value = " ".join(words)
            planted["near_duplicate"] += 1
        elif draw > 1 - CONTAMINATED:
            value = text(rng, pool, rng.randint(500, 6000)) + "\n" + rng.choice(asked).upper()
            planted["contaminated"] += 1
        else:
            value = text(rng, pool, rng.randint(500, 6000))
            # A tenth of all, thrown out at random: copies may be of a text long ago.
            if len(known) < 5000:
                known.append(value)
            elif rng.random() < 0.1:
                known[rng.randrange(5000)] = value
        yield value
        size += len(value)


def folder(root: Path, pool: list[str], megabytes: float, part: int) -> dict[str, int]:
    """Write a folder of files that hold so much text; return how many documents and planted ones there are.

    The counts lie beside the folder, so that it is written once.
    """
    note = root.with_suffix(".json")
    if note.exists():
        return dict(json.loads(note.read_text()))
    planted = dict.fromkeys(("documents", "duplicate", "near_duplicate", "contaminated"), 0)
    records: list[dict[str, str]] = []
    files = 0

    def flush() -> None:
        if records:
            write_jsonl(root / f"records-{planted['documents']:08d}.jsonl", records)
            records.clear()

    for number, value in enumerate(texts(pool, megabytes, part, planted)):
        planted["documents"] += 1
        title = f"Text {number}"
        if number % 100 < RECORDS:
            records.append({"title": title, "text": value})
            if len(records) == FILE_RECORDS:
                flush()
            continue
        below = root / f"files-{files // FOLDER_FILES:04d}"
        below.mkdir(parents=True, exist_ok=True)
        kind = ("txt", "md", "html")[files % 3]
        if kind == "html":
            paragraphs = "".join(f"<p>{html.escape(line)}</p>\n" for line in value.split("\n"))
            value = f"<html><head><title>{title}</title></head><body>{paragraphs}</body></html>"
        (below / f"{number:08d}.{kind}").write_text(value)
        files += 1
    flush()
    note.write_text(json.dumps(planted))
    return planted
