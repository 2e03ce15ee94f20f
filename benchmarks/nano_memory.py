"""The memory agent against a truncated prompt, on documents eight times as long as the nano policy's window.

    python benchmarks/nano_memory.py [--model models/nano] [--items 100] [--out benchmarks/nano_memory.md]

Needles are the tasks whose answer stands in one place (dialogue_memory, reading_comprehension). Both read the same
held-out items with the same model, greedily; full context keeps head and tail of the documents and the whole question.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from qwenlong.core import config_files, processes
from qwenlong.core.files import read_json, read_parquet, write_json, write_parquet, write_text
from qwenlong.core.records import Sample
from qwenlong.evaluation import compare

CONFIG = Path("configs/nano_rl.yaml")
ROOT = Path("results/nano_memory")
NEEDLES = ("dialogue_memory", "reading_comprehension")
LENGTH = 8 * 2048


def call(*words: object) -> None:
    """Run a qwenlong verb; its output goes to the terminal."""
    subprocess.run([str(Path(sys.executable).with_name("qwenlong")), *map(str, words)], check=True)


def needles(items: int, model: Path) -> Path:
    """Make held-out needle items of eight windows, once; return the folder."""
    config = config_files.load(CONFIG)
    corpus, out = Path(config.run.results) / "corpus", ROOT / f"synthesis-{items}"
    if not (corpus / "documents.parquet").exists():
        call("corpus", "fetch", "--config", CONFIG)
        call("corpus", "build", "--config", CONFIG, "--sources", "data/cache", "--out", corpus)
    if not (out / "heldout_long.parquet").exists():
        synthesis = config.synthesis.model_copy(
            update={"tasks": NEEDLES, "samples_per_task": 1, "heldout_per_task": 1, "long_heldout_per_task": items,
                    "long_length_target": LENGTH}
        )  # fmt: skip
        run = config.run.model_copy(update={"results": str(ROOT)})
        resolved = ROOT / "config.yaml"
        write_text(resolved, config_files.dump(config.model_copy(update={"synthesis": synthesis, "run": run})))
        call("synthesize", "run", "--config", resolved, "--corpus", corpus, "--tokenizer", model, "--out", out)
    return out


def main() -> None:
    """Run both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/nano"))
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--chunks", type=int, nargs="*", default=[384])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/nano_memory.md"))
    arguments = parser.parse_args()
    processes.lock(ROOT / "state" / "benchmark.lock", "benchmarks/nano_memory.py", ROOT)
    data = needles(arguments.items, arguments.model)
    config = config_files.load(CONFIG)
    samples = read_parquet(data / "heldout_long.parquet", Sample)
    write_parquet(data / "needles.parquet", [s for s in samples if s.task in NEEDLES], Sample)
    room = config.base.window - config.evaluation.max_output_tokens
    runs = {
        f"full context, truncated to {limit}": ({"evaluation": {"max_input_tokens": limit}}, "heldout")
        for limit in (config.evaluation.max_input_tokens, room)
    } | {
        f"memory agent, chunks of {chunk}": (
            {"agent": {"chunk_tokens": chunk, "memory_tokens": 96, "answer_tokens": 112}}, "heldout_long",
        )
        for chunk in arguments.chunks
    }  # fmt: skip
    folders = {}
    for name, (changes, benchmark) in runs.items():
        folder = folders[name] = ROOT / arguments.model.name / f"{arguments.items}" / name.replace(" ", "_")
        if (folder / "scores.json").exists():
            continue
        changed = config.model_copy(
            update={section: getattr(config, section).model_copy(update=values) for section, values in changes.items()}
        )
        write_text(folder / "config.yaml", config_files.dump(changed))
        begin = time.monotonic()
        call("evaluate", "run", benchmark, "--data", data / "needles.parquet", "--documents",
             data / "documents.parquet", "--model", arguments.model, "--out", folder, "--config",
             folder / "config.yaml")  # fmt: skip
        write_json(folder / "time.json", {"seconds": time.monotonic() - begin})
    lines = [f"| reading | {' | '.join(NEEDLES)} | agent - it, average | seconds |", "|---|---|---|---|---|"]
    agent = compare.read_scores(folders[list(runs)[-1]])
    for name, folder in folders.items():
        scores = compare.read_scores(folder)
        cells = []
        for task in NEEDLES:
            metric = scores["metrics"][task]
            cells.append("{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in (metric["value"], *metric["ci95"]))))
        cell = ""
        if scores["benchmark"] != agent["benchmark"]:
            gain = compare.compare({**scores, "benchmark": agent["benchmark"]}, agent, 17)["difference"]["avg"]
            cell = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in (gain["value"], *gain["ci95"])))
        lines.append(f"| {name} | {' | '.join(cells)} | {cell} | {read_json(folder / 'time.json')['seconds']:.0f} |")
    mean = sum(s.n_tokens for s in samples) / len(samples)
    text = "\n".join(
        ["# Memory agent and truncation, nano policy, two CPU cores", "",
         f"`python benchmarks/nano_memory.py`: {arguments.items} held-out items a task, prompts of {mean:.0f} tokens, "
         "eight windows; in percent, 95% bootstrap intervals, differences paired.", "", *lines, ""]
    )  # fmt: skip
    write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
