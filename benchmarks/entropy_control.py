"""Whether AEPO keeps the entropy of the nano policy inside a band, under a stress that drives GRPO's out of it.

    python benchmarks/entropy_control.py [--at-once 2] [--out benchmarks/entropy_control.md]

Band and stress are those of configs/entropy_control.yaml, seeds and counting those of benchmarks/entropy_control.yaml;
neither may differ from its last commit, and a run that began before that commit is refused. What is there is not made
again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qwenlong.core import config_files, processes
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json, write_json, write_text
from qwenlong.datacard.figures import BAND, BLUE, GREY, figure, svg
from qwenlong.training.entropy_band import Summary, summarise

CONFIG = Path("configs/entropy_control.yaml")
PROTOCOL = Path("benchmarks/entropy_control.yaml")
ROOT = Path("results/entropy_control")
BASE = Path("models/nano")
#: Steps at the end whose mean reward is shown.
LAST = 10
_MASK = "#f3c9b5"
_COLOURS = {"aepo": BLUE, "grpo": GREY}


@dataclass(frozen=True)
class Run:
    """A row trained with a seed: its steps' metrics, in order, and when it began (seconds since 1970)."""

    row: str
    seed: int
    lines: Sequence[Mapping[str, float]]
    began: float

    @property
    def entropies(self) -> list[float]:
        """Batch entropy of each step."""
        return [line["aepo/entropy"] for line in self.lines]

    @property
    def masked(self) -> list[int]:
        """Steps at which negatives were masked."""
        return [int(line["step"]) for line in self.lines if line.get("aepo/masked")]


def call(threads: int, *words: object) -> None:
    """Run a qwenlong verb with a number of threads; its output goes to the terminal."""
    command = [str(Path(sys.executable).with_name("qwenlong")), *map(str, words)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})


def committed(file: Path) -> tuple[str, int]:
    """Return the commit that last changed a file and its time. Raises DataError when the file differs from it."""
    changed = subprocess.run(["git", "status", "--porcelain", "--", file], capture_output=True, text=True, check=True)
    last = ["git", "log", "-1", "--format=%H %ct", "--", str(file)]
    found = subprocess.run(last, capture_output=True, text=True, check=True).stdout.split()
    if changed.stdout or not found:
        raise DataError(f"{file} is not as committed; commit it before the runs: they are not to choose it")
    return found[0], int(found[1])


def data(threads: int) -> Path:
    """Make corpus and samples, once."""
    corpus, samples = ROOT / "corpus", ROOT / "synthesis"
    if not (corpus / "documents.parquet").exists():
        call(threads, "corpus", "fetch", "--config", CONFIG)
        call(threads, "corpus", "build", "--config", CONFIG, "--sources", "data/cache", "--out", corpus)
    if not (samples / "samples.parquet").exists():
        call(threads, "synthesize", "run", "--config", CONFIG, "--corpus", corpus, "--tokenizer", BASE,
             "--out", samples)  # fmt: skip
    return samples


def train(row: str, seed: int, samples: Path, threads: int) -> Run:
    """Train a row from the base with a seed, once, and return it."""
    folder = ROOT / row / str(seed)
    config = config_files.load(CONFIG)
    run = config.run.model_copy(update={"seed": seed, "results": str(folder)})
    text = config_files.dump(config.model_copy(update={"run": run}))
    resolved = folder / "config.yaml"
    if resolved.exists() and resolved.read_text(encoding="utf-8") != text:
        raise DataError(f"{folder} was begun with other settings than {CONFIG} has; move it away")
    if not (folder / "begun.json").exists():
        write_text(resolved, text)
        write_json(folder / "begun.json", {"time": time.time()})
    if not (folder / "policy").exists():
        given = ["--samples", samples / "samples.parquet", "--documents", samples / "documents.parquet"]
        call(threads, "train", "stage", row, "--ablation", "--config", resolved, *given, "--model", BASE,
             "--out", folder / "policy")  # fmt: skip
    lines = [yaml.safe_load(line) for line in (folder / "policy" / "metrics.jsonl").read_text().splitlines()]
    steps = [int(line["step"]) for line in lines]
    if steps != list(range(1, config.ablation(row).steps + 1)):
        raise DataError(f"{folder}/policy/metrics.jsonl has the steps {steps}; remove {folder} and run again")
    return Run(row, seed, lines, read_json(folder / "begun.json")["time"])


def run_lines(run: Run, summary: Summary) -> str:
    """Return the table's line of one run."""
    largest = summary.largest
    reward = [line["reward/mean"] for line in run.lines[-LAST:]]
    cells = [
        run.seed,
        run.row,
        f"{100 * summary.share_inside:.1f}",
        f"{summary.above} / {summary.below}",
        len(summary.excursions),
        "none" if largest is None else f"{largest.peak:.3f} {largest.side}, step {largest.peak_step}",
        _steps(summary.median_return),
        _steps(summary.longest_return),
        f"{summary.open}" + (f" ({summary.excursions[-1].length} so far)" if summary.open else ""),
        len(run.masked) if run.row == "aepo" else "",
        f"{100 * sum(reward) / len(reward):.1f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _steps(value: float | None) -> str:
    return "none ended" if value is None else f"{value:g}"


def pair_line(seed: int, aepo: Summary, grpo: Summary) -> str:
    """Return the table's line of one seed: AEPO against GRPO."""
    far = [max((e.peak for e in s.excursions), default=0.0) for s in (aepo, grpo)]
    return (
        f"| {seed} | {100 * aepo.share_inside:.1f} | {100 * grpo.share_inside:.1f} | "
        f"{100 * (aepo.share_inside - grpo.share_inside):+.1f} | {far[0]:.3f} | {far[1]:.3f} |"
    )


def plot(runs: Mapping[tuple[str, int], Run], seeds: Sequence[int], low: float, high: float) -> str:
    """Return the picture: entropy per step, one panel a seed, the band, and the steps at which AEPO masked."""
    drawn, axes = figure(9.2, 0.6 + 2.1 * len(seeds), nrows=len(seeds), sharex=True, squeeze=False)
    for axis, seed in zip(axes.flat, seeds, strict=True):
        axis.axhspan(low, high, color=BAND, zorder=0, linewidth=0, label="band")
        label: str | None = "AEPO masks negatives"
        for step in runs["aepo", seed].masked:
            axis.axvspan(step - 0.5, step + 0.5, color=_MASK, alpha=0.5, linewidth=0, label=label)
            label = None
        for row in ("grpo", "aepo"):
            run = runs[row, seed]
            steps = [line["step"] for line in run.lines]
            axis.plot(steps, run.entropies, color=_COLOURS[row], marker="o", markersize=2.5, linewidth=1.2,
                      label=row.upper())  # fmt: skip
        axis.set_ylabel(f"seed {seed}\nentropy (nats)")
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False, fontsize=8, loc="upper left", ncols=4)
    axes[-1, 0].set_xlabel("step")
    axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    return svg(drawn)


def report(
    runs: Mapping[tuple[str, int], Run],
    protocol: Mapping[str, Any],
    commits: Mapping[Path, tuple[str, int]],
    image: str,
) -> str:
    """Return the page: what was fixed and when, each run, each pair."""
    config = config_files.load(CONFIG)
    stage = config.ablation("aepo")
    band, seeds, first = stage.aepo, protocol["seeds"], protocol["first_step"]
    assert band is not None
    found = {key: summarise(run.entropies[first - 1 :], band.low, band.high, first) for key, run in runs.items()}
    wins = [seed for seed in seeds if found["aepo", seed].share_inside > found["grpo", seed].share_inside]
    verdict = "in every seed" if len(wins) == len(seeds) else f"in {len(wins)} of {len(seeds)} seeds, not in all"
    first_run = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(run.began for run in runs.values())))
    fixed = [
        f"- `{file}`: commit {commit}, {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))} UTC"
        for file, (commit, at) in commits.items()
    ]
    heads = ["seed", "row", "inside, %", "steps above / below", "excursions", "largest, nats beyond the bound",
             "steps to return, median", "longest", "open at the end", "steps masked",
             f"reward of the last {LAST} steps, %"]  # fmt: skip
    return "\n".join(
        ["# Entropy control: AEPO and GRPO under one stress", "",
         "`python benchmarks/entropy_control.py`; nano policy, two CPU cores.", "",
         f"Band {band.low} to {band.high} nats, bounds inside. Stress: learning rate {stage.learning_rate:g}, sampling "
         f"at temperature {stage.temperature:g} and top-p {stage.top_p:g}, {stage.batch_prompts} prompts x "
         f"{stage.group_size} rollouts a batch, "
         f"{stage.steps} steps from the same base. The rows differ in AEPO alone; a seed gives both the same prompts. "
         f"Steps are counted from step {first} on.", "",
         "Fixed before the first run, which began at " + first_run + " UTC:", "", *fixed, "",
         f"AEPO's share of steps inside the band is larger {verdict}.", "",
         "| seed | AEPO inside, % | GRPO inside, % | difference, points | AEPO's largest excursion, nats | GRPO's |",
         "|---|---|---|---|---|---|",
         *(pair_line(seed, found["aepo", seed], found["grpo", seed]) for seed in seeds), "",
         f"![entropy per step]({image})", "",
         "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads),
         *(run_lines(runs[row, seed], found[row, seed]) for seed in seeds for row in ("grpo", "aepo")), "",
         "An excursion is a stretch of steps outside the band on one side; steps to return count from the first step "
         "outside to the first that is not, over excursions that ended; open ones had not when the run did.", ""]
    )  # fmt: skip


def main() -> None:
    """Run everything and write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side; the cores are shared out")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/entropy_control.md"))
    arguments = parser.parse_args()
    processes.lock(ROOT / "state" / "benchmark.lock", "benchmarks/entropy_control.py", ROOT)
    commits = {file: committed(file) for file in (CONFIG, PROTOCOL)}
    protocol = yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))
    threads = max(1, (os.cpu_count() or 1) // arguments.at_once)
    samples = data(threads)
    keys = [(row, seed) for seed in protocol["seeds"] for row in ("grpo", "aepo")]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        made = list(pool.map(lambda key: train(*key, samples, threads), keys))
    runs = dict(zip(keys, made, strict=True))
    early = [key for key, run in runs.items() if run.began < max(at for _, at in commits.values())]
    if early:
        raise DataError(f"{early} began before the last commit of {CONFIG} or {PROTOCOL}; move them out of {ROOT}")
    band = config_files.load(CONFIG).ablation("aepo").aepo
    assert band is not None
    image = arguments.out.with_suffix(".svg")
    write_text(image, plot(runs, protocol["seeds"], band.low, band.high))
    text = report(runs, protocol, commits, image.name)
    write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
