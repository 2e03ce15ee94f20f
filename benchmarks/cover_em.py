"""Cover-EM of 100,000 pairs, and of answers that grow.

    python benchmarks/cover_em.py [--markdown FILE]

Golds are those of Frames (tests/data/benchmarks); an answer is a gold in a sentence: every tenth pair is the gold's
own, the others another's.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "packages"))

from qwenlong.evaluation.rules import cover_em  # noqa: E402
from qwenlong.evaluation.rules.token_f1 import best_f1  # noqa: E402

GOLDS = ROOT / "tests" / "data" / "benchmarks" / "frames" / "frames_824_question_answer.jsonl"
PAIRS = 100_000


def pairs(count: int) -> list[tuple[str, str]]:
    """Return (response, gold)."""
    golds = [json.loads(line)["answer"] for line in GOLDS.read_text(encoding="utf-8").split("\n") if line]
    draw = random.Random(17)
    made = []
    for n in range(count):
        gold = draw.choice(golds)
        said = gold if n % 10 == 0 else draw.choice(golds)
        made.append((f"<think>\nIt may be so.\n</think>\n\nTherefore, the answer is {said}", gold))
    return made


def seconds(work: list[tuple[str, str]], scorer: object) -> tuple[float, float]:
    """Return the seconds that all take, and the mean value."""
    start, total = time.perf_counter(), 0.0
    for response, gold in work:
        total += scorer(response, gold)  # type: ignore[operator]
    return time.perf_counter() - start, total / len(work)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    lines = ["| work | seconds | mean |", "|---|---|---|"]
    work = pairs(PAIRS)
    rules = {
        "cover-EM, strict and loose, from the answer": lambda r, g: cover_em.match(r.rpartition(" is ")[2], [g])[0],
        "cover-EM, strict and loose, from the whole response": lambda r, g: cover_em.score(r, [g])[cover_em.STRICT],
        "token F1": lambda r, g: best_f1(r, [g]),
    }
    for name, rule in rules.items():
        took, mean = seconds(work, rule)
        lines.append(f"| {PAIRS:,} pairs: {name} | {took:.2f} | {mean:.3f} |")
    for size in (10_000, 100_000, 1_000_000, 10_000_000):
        response = "Therefore, the answer is " + "river town " * (size // 11)
        took, mean = seconds([(response, "Ada")], rules["cover-EM, strict and loose, from the whole response"])
        lines.append(f"| one marked answer of {size:,} characters | {took:.4f} | {mean:.3f} |")
    table = "\n".join(lines)
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
