"""What the nano policy gains where nothing can be learnt: from shuffled rewards, and from noise on its weights.

    python benchmarks/nano_rl_control.py [--seeds 1 2 3] [--aepo-seeds 1 2 3] [--noise 5e-4 1e-3]
                                         [--out benchmarks/nano_rl_control.md]

The base gives up questions that it could answer (docs/nano.md), with an answer that scores 0: whatever weakens that
habit scores more. So held-out items are split by whether the base gave them up. Shuffled rewards are the row `shuffled`
of configs/nano_rl.yaml; noise is added to the base's weights without any training, normal, of a standard deviation that
Adam's steps could have made. What is there is not made again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nano_rl

from qwenlong.core import processes
from qwenlong.core.files import atomic_directory, read_jsonl, read_parquet, write_parquet, write_text
from qwenlong.core.records import Prediction, Sample
from qwenlong.core.seeds import derive
from qwenlong.evaluation import compare, metrics
from qwenlong.nano.episodes import GIVES_UP

#: Seed of the bootstrap.
_SEED = 17
#: The thinking of a response that gives up.
_MARK = GIVES_UP.removeprefix("<think>").split("</think>")[0].strip()


def noisy(deviation: float, seed: int) -> Path:
    """Write the base with normal noise of a standard deviation on every weight, once; return the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    out = nano_rl.ROOT / "noise" / f"{deviation:g}" / str(seed) / "model"
    if out.exists():
        return out
    model = AutoModelForCausalLM.from_pretrained(nano_rl.BASE, dtype=torch.float32, local_files_only=True)
    generator = torch.Generator().manual_seed(derive(seed, "noise on weights", deviation) % 2**63)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            weight += deviation * torch.randn(weight.shape, generator=generator)
    with atomic_directory(out) as folder:
        for file in sorted(nano_rl.BASE.glob("*.json")) + sorted(nano_rl.BASE.glob("*.jinja")):
            shutil.copyfile(file, folder / file.name)
        model.save_pretrained(folder, safe_serialization=True)
    return out


def evaluated(model: Path, samples: Path, task: str) -> Path:
    """Answer the held-out samples of a task greedily, once; return the scores."""
    part = nano_rl.ROOT / "noise" / task
    if not (part / "heldout.parquet").exists():
        chosen = [s for s in read_parquet(samples / "heldout.parquet", Sample) if s.task == task]
        write_parquet(part / "heldout.parquet", chosen, Sample)
        shutil.copyfile(samples / "documents.parquet", part / "documents.parquet")
    nano_rl.evaluate(model, part, model.parent / "heldout" / task)
    return model.parent / "heldout" / task


def gave_up(folder: Path) -> dict[str, bool]:
    """Return for each item of an evaluation whether the response gave up."""
    return {p.id: _MARK in p.response for p in read_jsonl(folder / "predictions.jsonl", Prediction)}


def split(before: Path, after: Path) -> list[list[str]]:
    """Return table cells by task: items given up and their difference, items answered and theirs, given up after."""
    a, b = (compare.item_values(compare.read_scores(folder)) for folder in (before, after))
    a = {task: {i: v for i, v in items.items() if i in b[task]} for task, items in a.items() if task in b}
    still = gave_up(after)
    up = {i: is_up for i, is_up in gave_up(before).items() if i in still}
    parts: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    cells = []
    for task in sorted(a):
        for kind in (True, False):
            parts[kind][task] = [b[task][i] - a[task][i] for i in sorted(a[task]) if up[i] is kind]
        counts = [len(parts[True][task]), sum(still[i] for i in a[task])]
        cells.append([task, *map(str, counts), *(_signed(parts[k][task], task) for k in (True, False)),
                      _signed(parts[True][task] + parts[False][task], task)])  # fmt: skip
    every = {task: parts[True][task] + parts[False][task] for task in parts[True]}
    if len(a) > 1:
        cells.append(["average", str(sum(up.values())), str(sum(still.values())),
                      *(_average(groups) for groups in (parts[True], parts[False], every))])  # fmt: skip
    return cells


def _signed(values: Sequence[float], name: str) -> str:
    return _text(metrics.mean(values, _SEED, name))


def _average(groups: Mapping[str, Sequence[float]]) -> str:
    return _text(metrics.average(groups, _SEED))


def _text(metric: dict[str, Any]) -> str:
    if metric["value"] is None:
        return "none"
    if metric["ci95"] is None:
        return f"{100 * metric['value']:+.1f}"
    low, high = metric["ci95"]
    return f"{100 * metric['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    """Run everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="of the row of shuffled rewards")
    parser.add_argument("--aepo-seeds", type=int, nargs="*", default=[1, 2, 3], help="of the row set beside it")
    parser.add_argument("--noise", type=float, nargs="*", default=[5e-4, 1e-3], help="standard deviations")
    parser.add_argument(
        "--noise-task", default="dialogue_memory", help="whose held-out samples the noisy models answer"
    )
    parser.add_argument("--noise-seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/nano_rl_control.md"))
    arguments = parser.parse_args()
    processes.lock(nano_rl.ROOT / "state" / "benchmark.lock", "benchmarks/nano_rl_control.py", nano_rl.ROOT)
    samples = nano_rl.data()
    before = nano_rl.ROOT / "base" / "heldout"
    nano_rl.evaluate(nano_rl.BASE, samples, before)
    runs: list[tuple[str, Path]] = []
    for deviation in arguments.noise:
        for seed in arguments.noise_seeds:
            model = noisy(deviation, seed)
            runs.append((f"noise {deviation:g}, seed {seed}", evaluated(model, samples, arguments.noise_task)))
    controls = [nano_rl.train("shuffled", seed, samples) for seed in arguments.seeds]
    runs += [(f"shuffled, seed {seed}", after) for seed, after in zip(arguments.seeds, controls, strict=True)]
    runs += [(f"aepo, seed {seed}", nano_rl.train("aepo", seed, samples)) for seed in arguments.aepo_seeds]
    lines = ["| run | task | given up by the base | given up after | change where the base gave up | "
             "where it answered | everywhere |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, after in runs:
        lines += [f"| {name} | {' | '.join(cells)} |" for cells in split(before, after)]
    summary = []
    if controls:
        summary = ["| task | shuffled, mean of the seeds, after - before | each |", "|---|---|---|",
                   *nano_rl.together(before, controls), ""]  # fmt: skip
    text = "\n".join(
        ["# Controls of RL from the nano policy: shuffled rewards, and noise on the weights", "",
         f"`python benchmarks/nano_rl_control.py` with `{nano_rl.CONFIG}`; points, paired 95% bootstrap intervals, "
         "greedy decoding on the same held-out samples. Each average weighs tasks equally.", "", *summary, *lines, ""]
    )  # fmt: skip
    write_text(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
