"""MMLU-Pro's letter extraction against the official patterns: time, and that both find the same letters.

python benchmarks/mmlu_pro_extraction.py [--outputs FILE] [--official N]
Without --outputs, 12,000 responses of 2 to 4 KB are made from the questions of the published test set, in every form
that the three rules tell apart; a letter may stand anywhere, as option letters do in a model's reasoning. --outputs
takes a model's real outputs as the benchmark's repository publishes them (JSON, or a ZIP of one JSON, whose rows hold
`model_outputs` or `generated_text`). The official patterns run on every n-th response, N in all.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from qwenlong.evaluation.rules import choices

TEST_SET = Path(__file__).parents[1] / "tests/data/benchmarks/mmlu_pro/hf_test-00000-of-00001.parquet"
ENDINGS = (
    "So the answer is ({}).",
    "The answer is {}",
    "Answer: {}",
    "answer:\n{}",
    "Answer: none of these. Answer: {}",
    "I therefore choose {}.",
    r"\boxed{{{}}}",
    "it cannot be decided.",
)


def official(text: str) -> str | None:
    """Return the letter by the patterns that define the score."""
    if match := re.search(r"answer is \(?([A-J])\)?", text):
        return match[1]
    if match := re.search(r".*[aA]nswer:\s*([A-J])", text):
        return match[1]
    match = re.search(r"\b[A-J]\b(?!.*\b[A-J]\b)", text, re.DOTALL)
    return match[0] if match else None


def made(count: int) -> list[str]:
    """Return responses made from questions and options of the test set."""
    records = pq.read_table(TEST_SET, columns=["question", "options"]).to_pylist()
    draw = random.Random(17)
    found = []
    for _ in range(count):
        size, text = draw.randint(2000, 4000), ""
        while len(text) < size:
            record = draw.choice(records)
            options = (
                f"{letter}. {option}" for letter, option in zip(choices.LETTERS, record["options"], strict=False)
            )
            text += draw.choice((" ", " ", "\n")).join((record["question"], *options)) + draw.choice((" ", "\n\n"))
        ending = draw.choice(ENDINGS).format(draw.choice(choices.LETTERS))
        found.append(text[: size - len(ending)] + " " + ending)
    return found


def read(path: Path) -> list[str]:
    """Return the outputs of a published file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__"))
            rows = json.loads(archive.read(name))
    else:
        rows = json.loads(path.read_text(encoding="utf-8"))
    # Older files name it otherwise.
    return [row["model_outputs"] if "model_outputs" in row else row["generated_text"] for row in rows]


def timed(extract: Callable[[str], str | None], texts: Sequence[str]) -> tuple[float, list[str | None]]:
    """Return seconds of this process and the letters."""
    start = time.process_time()
    letters = [extract(text) for text in texts]
    return time.process_time() - start, letters


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--outputs", type=Path)
    parser.add_argument("--official", type=int, default=600)
    options = parser.parse_args()
    texts = made(12_000) if options.outputs is None else read(options.outputs)
    seconds, ours = timed(choices.mmlu_pro, texts)
    step = max(1, len(texts) // options.official)
    sample = texts[::step]
    slow, theirs = timed(official, sample)
    different = sum(a != b for a, b in zip(ours[::step], theirs, strict=True))
    kilobytes = sum(map(len, texts)) / len(texts) / 1000
    name = "made" if options.outputs is None else options.outputs.stem
    print("| responses | mean size | none found | ours | official, scaled up | ratio | compared | different |")
    print("|---|---|---|---|---|---|---|---|")
    whole = slow * len(texts) / len(sample)
    print(
        f"| {len(texts):,} ({name}) | {kilobytes:.1f} KB | {sum(x is None for x in ours):,} | {seconds:.2f} s | "
        f"{whole:.0f} s | {whole / seconds:.0f} | {len(sample):,} | {different} |"
    )
    print("\n| length of a text without an answer | ours | official |\n|---|---|---|")
    for size in (1_000, 2_000, 4_000, 8_000):
        # One line that names option letters, as reasoning does, without any form of "answer".
        text = ("so A is less than B, and C " * size)[:size]
        ours_s = timed(choices.mmlu_pro, [text] * 50)[0] / 50
        print(f"| {size:,} | {1e3 * ours_s:.3f} ms | {1e3 * timed(official, [text])[0]:.1f} ms |")


if __name__ == "__main__":
    main()
