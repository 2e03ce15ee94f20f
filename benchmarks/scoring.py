"""Seconds to score stored predictions again: reading, matching, rules, every metric with its interval; and to compare.

python benchmarks/scoring.py [--out benchmarks/scoring.md]

The questions are MMLU-Pro's published test set, the responses 2-4 KB of words with an answer at the end. Beside it, the
interval of one metric alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qwenlong.core.files import read_json, write_json, write_text
from qwenlong.evaluation import compare, metrics, predictions, scoring
from qwenlong.evaluation.registry import find

DATA = Path(__file__).parents[1] / "tests" / "data" / "benchmarks" / "mmlu_pro" / "hf_test-00000-of-00001.parquet"
SIZES = (1_500, 3_000, 6_000, 12_032)
TEXT = "so we see that each of these would hold when the value is taken as given and the rest follows"
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what the work gives, and its CPU seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


def written(folder: Path, items: Sequence[Any], right: float) -> Path:
    """Write predictions, a share of them right."""
    rng, words = random.Random(right), TEXT.split()
    file = folder / f"{right}.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for item in items:
            said = item.record.answer if rng.random() < right else "A"
            text = f"{' '.join(rng.choices(words, k=rng.randrange(450, 900)))} The answer is ({said})."
            row = {
                "id": item.id,
                "response": text,
                "finish_reason": "stop",
                "n_prompt_tokens": 1,
                "n_response_tokens": 1,
            }
            stream.write(json.dumps(row | {"model": "m"}) + "\n")
    return file


def row(n: int, folder: Path) -> str:
    """Return the table's line of the first n questions."""
    benchmark = find("mmlu_pro")
    items, loading = timed(lambda: benchmark.load(DATA, None))
    items = items[:n]
    files = [written(folder, items, right) for right in (0.6, 0.7)]
    stored, reading = timed(lambda: predictions.read(files[0]))
    answered = predictions.match(items, stored.predictions, stored)
    found, scored = timed(lambda: scoring.scores(benchmark, answered, 17))
    other = predictions.read(files[1])
    write_json(folder / "b.json", scoring.scores(benchmark, predictions.match(items, other.predictions, other), 17))
    _, writing = timed(lambda: write_json(folder / "a.json", found))
    _, compared = timed(lambda: compare.compare(read_json(folder / "a.json"), read_json(folder / "b.json"), 17))
    rng = random.Random(1)
    dense = [rng.random() for _ in range(n)]
    _, interval = timed(lambda: metrics.mean(dense, 17, "dense"))
    size = sum(file.stat().st_size for file in files) / 2e6
    cells = [f"{seconds:.2f}" for seconds in (loading, reading, scored, writing, compared, interval)]
    return f"| {n:,} | {size:.0f} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    head = "| items | MB | load all questions | read | score | write | compare two | one interval |"
    with tempfile.TemporaryDirectory() as folder:
        lines = [row(n, Path(folder)) for n in SIZES]
    text = "\n".join(
        ["# Scoring again", "",
         "`python benchmarks/scoring.py`, CPU seconds of one core. Cost grows with characters (read, score) and with",
         "items (intervals: 2000 draws an item, whatever its values).", "",
         head, "|---" * 8 + "|", *lines, ""]
    )  # fmt: skip
    write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
