"""A made-up results folder in the shape that the stages write: no number in it was measured."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from qwenlong.core import provenance
from qwenlong.core.config import MODELS, PARENTS, RL_STAGES, Config
from qwenlong.core.files import write_json, write_jsonl, write_parquet
from qwenlong.core.records import TASKS, Prediction, Sample

EVIL = "<script>alert('x')</script> & <b>bold</b>"
#: Made-up full-context and memory-agent levels; memory RL costs the one and lifts the other.
LEVELS = {
    "base": (0.3, 0.05),
    "naive_grpo": (0.4, 0.0),
    "rl_1": (0.5, 0.2),
    "rl_2": (0.6, 0.2),
    "rl_3": (0.7, 0.1),
    "memory_rl": (0.55, 0.4),
    "sce_merge": (0.7, 0.45),
    "rl_4": (0.8, 0.5),
}


def make_config(results: Path) -> Config:
    """A configuration with two ablation rows and tracking off."""
    return Config.model_validate(
        {
            "run": {"name": "made-up", "results": str(results)},
            "tracking": {"enabled": False},
            "stages": {"rl_2": {"aepo": {"low": 0.2, "high": 0.5}}, "rl_3": {"steps": 7}},
            "ablations": {
                "rows": [
                    {"name": "grpo", "tables": ["table2", "table4", "table5"], "stage": {"aepo": None}},
                    {"name": "aepo", "tables": ["table5"]},
                ]
            },
        }
    )


def write_scores(folder: Path, benchmark: str, level: float, n: int, seed: int) -> None:
    """Write scores.json in the shape of `evaluate score`, with items that succeed about `level` of the time."""
    rng = random.Random(seed)
    items, metrics, values = [], {}, []
    for task in TASKS:
        drawn = [float(rng.random() < level) for _ in range(n)]
        items += [
            {"id": f"{task}-{k}", "benchmark": benchmark, "values": {task: v}, "judge": None, "error": None}
            for k, v in enumerate(drawn)
        ]
        mean = sum(drawn) / n
        metrics[task] = {"value": mean, "ci95": [max(0, mean - 0.2), min(1, mean + 0.2)], "n": n}
        values.append(mean)
    avg = sum(values) / len(values)
    metrics["avg"] = {"value": avg, "ci95": [max(0, avg - 0.1), min(1, avg + 0.1)], "n": n * len(TASKS)}
    metrics["unfinished"] = metrics["truncated"] = {"value": 0.025, "ci95": [0.0, 0.05], "n": n * len(TASKS)}
    total = n * len(TASKS)
    write_json(
        folder / "scores.json",
        {"benchmark": benchmark, "n_attempted": total, "n_scored": total, "metrics": metrics, "items": items},
    )
    predictions = [
        Prediction(
            id=row["id"],
            response=f"<think>\n{EVIL}\n</think>\n\nTherefore, the answer is {row['id']}",
            finish_reason="stop",
            n_prompt_tokens=9,
            n_response_tokens=9,
            model=folder.parent.name,
        )
        for row in items
    ]
    write_jsonl(folder / "predictions.jsonl", predictions)


def write_metrics(file: Path, steps: int, seed: int, low: float, high: float, aepo: bool) -> None:
    """Write a metrics.jsonl whose entropy rises until it is masked and falls until it is not."""
    rng = random.Random(seed)
    entropy, masked = (low + high) / 2, False
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        for step in range(1, steps + 1):
            masked = entropy > high or (masked and entropy >= low)
            row: dict[str, Any] = {
                "step": step,
                "aepo/entropy": entropy,
                "reward/mean": 0.3 + 0.01 * step + 0.02 * rng.random(),
                "actor/grad_norm": 0.4 + entropy + 0.02 * rng.random(),
                "response_length/mean": 40 + step,
                "timing/step": 1.0,
                **{f"reward/{task}/mean": 0.3 + 0.1 * n + 0.005 * step for n, task in enumerate(TASKS)},
                **{f"reward/{task}/std": 0.5 - 0.02 * n for n, task in enumerate(TASKS)},
                **{f"response_length/{task}/mean": 30.0 + 10 * n + step for n, task in enumerate(TASKS)},
            }
            if aepo:
                row |= {"aepo/masked": float(masked), "aepo/masked_share": 0.4 * masked}
            stream.write(json.dumps(row) + "\n")
            entropy += (-0.15 if masked and aepo else 0.12) * (high - low)


def write_similarity(file: Path, n: int) -> None:
    """Write a similarity.json; the first stage has more pairs than were compared, the last none."""
    entry = {"rouge_l": 0.4 + 0.01 * n, "pairs": 200, "pairs_there": 1234 if n == 0 else 200, "prompts": 40}
    tasks = {task: entry | {"prompt_tokens": 350.0 + 10 * k} for k, task in enumerate(TASKS[:2])}
    some = n < len(RL_STAGES) - 1
    write_json(file, {"tasks": tasks if some else {}, "all": entry | {"prompt_tokens": 355.0} if some else None})


def write_merge(file: Path) -> None:
    """Write a MERGE.json of two experts: embedding, two layers of attention and experts stacked or one by one."""
    rng = random.Random(23)

    def part(elements: int) -> dict[str, Any]:
        first = rng.random()
        shares = {"selected": 1.0, "erased": 0.5 * rng.random(), "reverted": 0.01 * rng.random()}
        return {"elements": elements, "coefficients": [first, 1 - first], **shares}

    tensors: dict[str, Any] = {"model.embed_tokens.weight": part(640), "steps": {"elements": 1, "kept": True}}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}self_attn.{name}_proj.weight": part(64) for name in "qkvo"}
        tensors[f"{prefix}mlp.experts.gate_up_proj"] = {"elements": 192, "matrices": [part(96), part(96)]}
        tensors |= {f"{prefix}mlp.experts.{n}.down_proj.weight": part(48) for n in range(2)}
    total = part(1800) | {"tensors": len(tensors), "matrices": 17, "parameters": 1801}
    settings = {"method": "sce", "select_top": 1.0, "select_mode": "reference"}
    write_json(file, settings | {"experts": 2, "tensors": tensors, "total": total, "files": {}})


def make_results(root: Path, items: int = 20) -> Path:
    """Write a whole made-up results folder and return it."""
    results = root / "results"
    config = make_config(results)
    for n, model in enumerate(MODELS):
        full, agent = LEVELS[model]
        write_scores(results / "evaluation" / model / "heldout", "heldout", full, items, 7 * n)
        if model != "naive_grpo":
            write_scores(results / "evaluation" / model / "heldout_long", "heldout_long", agent, items, 7 * n + 1)
        write_json(results / "models" / model / "config.json", {"model": model})
    write_merge(results / "models" / "sce_merge" / "MERGE.json")
    for n, stage in enumerate(RL_STAGES):
        band = config.stage(stage).aepo
        low, high = (band.low, band.high) if band else (0.2, 0.5)
        folder = results / "stages" / stage / "policy"
        write_metrics(folder / "metrics.jsonl", 24, n, low, high, band is not None)
        write_similarity(folder / "similarity.json", n)
    write_scores(results / "ablations" / "grpo" / "evaluation" / "heldout", "heldout", 0.35, items, 91)
    write_metrics(results / "ablations" / "grpo" / "policy" / "metrics.jsonl", 12, 5, 0.2, 0.5, False)
    steps = ("candidates", "duplicate", "contaminated", "too_long", "not_extended", "kept")
    counts = {task: {"samples": dict(zip(steps, (90, 5, 3, 12, 10, 60), strict=True))} for task in TASKS}
    write_json(results / "synthesis" / "funnel.json", {"tasks": counts, "documents": {"train": 700, "heldout": 300}})
    write_json(results / "bins" / "bins.json", {"kept": 200, "by": {"general": {"0": 10, "1": 9}}})
    samples = [
        Sample(
            id=f"{task}-0",
            task=task,
            question_type="test",
            question=f"What about {EVIL}?",
            instruction="",
            documents=("d",),
            answers=("42",),
            category="general",
            source="test",
            generator="test",
            template="test",
            n_tokens=1,
        )
        for task in TASKS
    ]
    write_parquet(results / "synthesis" / "heldout.parquet", samples, Sample)
    for model in MODELS:
        inputs = {"samples": results / "synthesis" / "heldout.parquet"}
        if model in PARENTS:
            inputs["parent"] = results / "models" / PARENTS[model]
        output = results / "models" / model
        provenance.sidecar(output, inputs=inputs, config={"a": 1}, packages=("training",), seed=17)
    return results


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A made-up results folder."""
    return make_results(tmp_path)
