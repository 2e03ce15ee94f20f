"""MRCR's ratio: our function against difflib and cydifflib, on responses of many kinds and sizes.

    python benchmarks/mrcr_ratio.py [--seconds 60] [--out benchmarks/mrcr_ratio.md]

cydifflib is compared where it is installed. A cell is the best of up to three runs; one that takes longer than
`--seconds` is stopped and says so. Every value is checked against difflib's where difflib ends in time.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import platform
import random
import time
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from pydoc_data import topics

from qwenlong.rewards.similarity import ratio


def text(draw: random.Random, length: int) -> str:
    """Return English prose of so many characters: paragraphs of Python's own documentation, in random order."""
    paragraphs = [p for topic in topics.topics.values() for p in topic.split("\n\n") if len(p) > 80]
    draw.shuffle(paragraphs)
    found = "\n\n".join(paragraphs)
    return (found * (length // len(found) + 1))[:length]


def pairs() -> list[tuple[str, str, str]]:
    """Return name, response and answer of each case."""
    draw = random.Random(0)
    answer = text(draw, 3000)
    long = text(draw, 10_000)
    edited = "".join(draw.choice("xyz ,.") if draw.random() < 0.05 else c for c in answer)
    other = text(draw, 3000)
    spaced = "".join(char + "☃☄" for char in answer)
    return [
        ("the answer, 5% of its characters changed, 3 KB", edited, answer),
        ("another text, 3 KB", other, answer),
        ("another text, 10 KB on 10 KB", text(draw, 10_000), long),
        ("another text, 100 KB", text(draw, 100_000), answer),
        ("the answer again and again, 250 KB", (answer + "\n") * 83, answer),
        ("one sentence again and again, 250 KB", (other[:60] + ". ") * 4000, answer),
        ("the answer letter by letter, then 250 KB of another", spaced + text(draw, 250_000), answer),
        ("another text, 1 MB", text(draw, 1_000_000), answer),
        ("another text, 10 MB", text(draw, 1_000_000) * 10, answer),
        ("the answer backwards, to 10 MB", answer[::-1] * 3333, answer),
    ]


def _ours(given: str, gold: str) -> float:
    return ratio(given, gold)


def _difflib(given: str, gold: str) -> float:
    return SequenceMatcher(None, given, gold).ratio()


def _cydifflib(given: str, gold: str) -> float:
    import cydifflib

    return float(cydifflib.SequenceMatcher(None, given, gold).ratio())


def _timed(function: Callable[[str, str], float], given: str, gold: str, pipe: object) -> None:
    best, value = float("inf"), 0.0
    for _ in range(3):
        began = time.process_time()
        value = function(given, gold)
        best = min(best, time.process_time() - began)
        if best > 2:
            break
    pipe.send((best, value))  # type: ignore[attr-defined]


def measured(function: Callable[[str, str], float], given: str, gold: str, limit: float) -> tuple[float, float] | None:
    """Return seconds and value; None when it took longer than `limit` seconds."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_timed, args=(function, given, gold, send))
    process.start()
    found = receive.recv() if receive.poll(limit) else None
    process.kill()
    process.join()
    return found


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    functions = {"ours": _ours, "difflib": _difflib}
    if importlib.util.find_spec("cydifflib"):
        functions["cydifflib"] = _cydifflib
    lines = [
        f"# Time of MRCR's ratio, seconds\n\nPython {platform.python_version()}, one core; the answer has 3 KB.\n",
        f"| response | ratio | {' | '.join(functions)} |",
        "|---|---:|" + "---:|" * len(functions),
    ]
    for name, said, gold in pairs():
        found = {label: measured(function, said, gold, given.seconds) for label, function in functions.items()}
        values = {result[1] for result in found.values() if result is not None}
        if len(values) != 1:
            raise SystemExit(f"{name}: values differ: {found}")
        cells = [f"> {given.seconds:.0f}" if r is None else f"{r[0]:.3f}" for r in found.values()]
        lines.append(f"| {name} | {values.pop():.6f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
