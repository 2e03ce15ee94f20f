"""What RL with AEPO adds to the nano policy on two CPU cores, and what it adds with shuffled rewards.

    python benchmarks/nano_rl.py [--seeds 1 2 3] [--control-seeds 1] [--out benchmarks/nano_rl.md]

Runs the commands of the stages: corpus, synthesis, one RL stage per seed, conversion, greedy evaluation on one fixed
held-out set; then compares item by item. What is there is not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong.core import config_files, processes
from qwenlong.core.files import read_json, read_jsonl, write_json, write_text
from qwenlong.core.records import Prediction, Sample
from qwenlong.evaluation import compare, metrics
from qwenlong.rewards.extract import after_thinking, marked

CONFIG = Path("configs/nano_rl.yaml")
ROOT = Path("results/nano_rl")
BASE = Path("models/nano")


def call(*words: object) -> None:
    """Run a qwenlong verb; its output goes to the terminal."""
    command = [str(Path(sys.executable).with_name("qwenlong")), *map(str, words)]
    subprocess.run(command, check=True)


def well_formed(prediction: Prediction) -> bool:
    """Tell whether a response ended by itself and has an answer after its thinking."""
    text = after_thinking(prediction.response)
    return prediction.finish_reason == "stop" and text is not None and marked(text) is not None


def data() -> Path:
    """Make corpus and samples, once."""
    corpus, samples = ROOT / "corpus", ROOT / "synthesis"
    if not (corpus / "documents.parquet").exists():
        call("corpus", "fetch", "--config", CONFIG)
        call("corpus", "build", "--config", CONFIG, "--sources", "data/cache", "--out", corpus)
    if not (samples / "samples.parquet").exists():
        call("synthesize", "run", "--config", CONFIG, "--corpus", corpus, "--tokenizer", BASE, "--out", samples)
    return samples


def evaluate(model: Path, samples: Path, out: Path) -> None:
    """Answer the held-out set greedily, once."""
    if not (out / "scores.json").exists():
        given = ["--data", samples / "heldout.parquet", "--documents", samples / "documents.parquet"]
        call("evaluate", "run", "heldout", *given, "--model", model, "--out", out, "--config", CONFIG)


def train(row: str, seed: int, samples: Path) -> Path:
    """Train a row from the base with a seed, timed from the start of the command to its end; return the scores."""
    folder = ROOT / row / str(seed)
    if not (folder / "policy").exists():
        config = config_files.load(CONFIG)
        run = config.run.model_copy(update={"seed": seed, "results": str(folder)})
        resolved = folder / "config.yaml"
        write_text(resolved, config_files.dump(config.model_copy(update={"run": run})))
        given = ["--samples", samples / "samples.parquet", "--documents", samples / "documents.parquet"]
        begin = time.monotonic()
        call("train", "stage", row, "--ablation", "--config", resolved, *given, "--model", BASE,
             "--out", folder / "policy")  # fmt: skip
        write_json(folder / "time.json", {"seconds": time.monotonic() - begin})
    if not (folder / "model").exists():
        call("checkpoint", "convert", folder / "policy", folder / "model", "--like", BASE)
    evaluate(folder / "model", samples, folder / "heldout")
    return folder / "heldout"


def rows(name: str, before: Path, after: Path, seconds: float) -> list[str]:
    """Return the table's lines of one run: each task before and after, paired differences, format, format held."""
    first, second = compare.read_scores(before), compare.read_scores(after)
    difference = compare.compare(first, second, 17)["difference"]
    a, b = compare.item_values(first), compare.item_values(second)
    whole = [{p.id: well_formed(p) for p in read_jsonl(f / "predictions.jsonl", Prediction)} for f in (before, after)]
    both: dict[str, list[float]] = {}
    lines = []
    for task in sorted(a):
        items = sorted(a[task])
        held = [item for item in items if whole[0][item] and whole[1][item]]
        both[task] = [b[task][item] - a[task][item] for item in held]
        shares = [sum(w[item] for item in items) / len(items) for w in whole]
        lines.append(
            _line(name, task, _mean(a[task]), _mean(b[task]), difference[task], metrics.mean(both[task], 17, task),
                  shares, len(items), "")
        )  # fmt: skip
    shares = [sum(w.values()) / len(w) for w in whole]
    averages = [sum(map(_mean, values.values())) / len(values) for values in (a, b)]
    n = sum(map(len, a.values()))
    held_average = metrics.average(both, 17)
    lines.append(_line(name, "average", *averages, difference["avg"], held_average, shares, n, f"{seconds / 60:.1f}"))
    return lines


def together(before: Path, afters: Sequence[Path]) -> list[str]:
    """Return the lines of all seeds of a row: the mean difference per item over seeds, its interval over items."""
    a = compare.item_values(compare.read_scores(before))
    seeds = [compare.item_values(compare.read_scores(after)) for after in afters]
    lines, every = [], {}
    for task in sorted(a):
        items = sorted(a[task])
        each = [[b[task][item] - a[task][item] for item in items] for b in seeds]
        every[task] = [sum(column) / len(column) for column in zip(*each, strict=True)]
        lines.append(f"| {task} | {_signed(metrics.mean(every[task], 17, task))} | {_each(each)} |")
    lines.append(f"| average | {_signed(metrics.average(every, 17))} | |")
    return lines


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _signed(metric: dict[str, Any]) -> str:
    low, high = metric["ci95"] or (float("nan"), float("nan"))
    return f"{100 * metric['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _each(differences: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{100 * sum(values) / len(values):+.1f}" for values in differences)


def _line(
    name: str, task: str, before: float, after: float, difference: dict[str, Any], held: dict[str, Any],
    shares: list[float], n: int, minutes: str,
) -> str:  # fmt: skip
    return (
        f"| {name} | {task} | {n} | {100 * before:.1f} | {100 * after:.1f} | {_signed(difference)} | {_signed(held)} | "
        f"{100 * shares[0]:.1f} | {100 * shares[1]:.1f} | {minutes} |"
    )


def gold_positions(samples: Path) -> str:
    """Return how often each option is the right one, in training and held-out samples of multiple choice."""
    from qwenlong.core.files import read_parquet

    lines = []
    for name in ("samples", "heldout"):
        right = [s.answers[0] for s in read_parquet(samples / f"{name}.parquet", Sample) if s.task == "multiple_choice"]
        counts = {letter: right.count(letter) for letter in sorted(set(right))}
        lines.append(f"{name}: {', '.join(f'{letter} {count}' for letter, count in counts.items())}")
    return "; ".join(lines)


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--control-seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/nano_rl.md"))
    arguments = parser.parse_args()
    processes.lock(ROOT / "state" / "benchmark.lock", "benchmarks/nano_rl.py", ROOT)
    samples = data()
    before = ROOT / "base" / "heldout"
    evaluate(BASE, samples, before)
    lines = [
        "| run | task | n | before | after | after - before | where well formed in both | well formed before | after |"
        " minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    summary = ["| run | task | mean of the seeds, after - before | each |", "|---|---|---|---|"]
    for row, seeds in (("aepo", arguments.seeds), ("shuffled", arguments.control_seeds)):
        afters = []
        for seed in seeds:
            after = train(row, seed, samples)
            afters.append(after)
            seconds = read_json(ROOT / row / str(seed) / "time.json")["seconds"]
            lines += rows(f"{row}, seed {seed}", before, after, seconds)
        if afters:
            summary += [f"| {row}, seeds {', '.join(map(str, seeds))} {line}" for line in together(before, afters)]
    text = "\n".join(
        ["# RL from the nano policy on two CPU cores", "",
         f"`python benchmarks/nano_rl.py` with `{CONFIG}`; in percent, differences in points with paired 95% bootstrap "
         "intervals, greedy decoding on the same held-out samples before and after.", "", *summary, "", *lines, "",
         f"Right options: {gold_positions(samples)}.", ""]
    )  # fmt: skip
    write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
