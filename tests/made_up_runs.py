"""Results folders with made-up responses, scored by the project's own scorer: no model was asked for any of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong.core import config_files, provenance
from qwenlong.core.config import MODELS, RL_STAGES, Config
from qwenlong.core.files import write_json, write_jsonl, write_parquet
from qwenlong.core.records import TASKS, Prediction, Sample
from qwenlong.evaluation.registry import find
from qwenlong.evaluation.score_command import Source, score_files

EVIL = "<script>alert('x')</script> & <b>bold</b>"
#: Share of right answers, full context and through the agent, of each model.
LEVELS = {
    "base": (0.3, 0.05),
    "naive_grpo": (0.4, 0.0),
    "rl_1": (0.5, 0.3),
    "rl_2": (0.6, 0.25),
    "rl_3": (0.75, 0.1),
    "memory_rl": (0.5, 0.5),
    "sce_merge": (0.75, 0.5),
    "rl_4": (0.85, 0.55),
    "grpo": (0.4, 0.0),
    "aepo": (0.6, 0.0),
}
SHAPES = {
    "nano": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"head_dim": 64, "intermediate_size": 512, "moe_intermediate_size": 256, "num_experts_per_tok": 2}
    | {"num_local_experts": 4, "vocab_size": 6144},
    "smollm2": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    | {"head_dim": 64, "intermediate_size": 1536, "vocab_size": 49152},
}


def configuration(root: Path, scale: str, seed: int, rows: Sequence[str] = ("grpo", "aepo")) -> Path:
    """Write the configuration of a run and return its file; results lie in root/results/SCALE-sSEED."""
    made = [{"name": name, "tables": ["table5"]} for name in rows]
    values: dict[str, Any] = {
        "run": {"name": scale, "results": f"results/{scale}-s{seed}", "seed": seed},
        "base": {"kind": scale},
        "tracking": {"enabled": False},
        "ablations": {"rows": made},
    }
    file = root / f"{scale}-s{seed}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config_files.dump(Config.model_validate(values)), encoding="utf-8")
    return file


def samples(count: int, long: bool) -> list[Sample]:
    """Return `count` held-out samples a task; the same for every seed, as runs share their data."""
    made = []
    for task in TASKS:
        for k in range(count):
            answer = {"multiple_choice": "ABCD"[k % 4], "corpus_numerical": str(100 + k)}.get(task, f"word{k}")
            made.append(
                Sample(
                    id=f"{task}-{'long' if long else 'full'}-{k}",
                    task=task,
                    question_type="test",
                    question=f"What is number {k}? {EVIL}",
                    instruction="Answer.",
                    documents=("d",),
                    answers=(answer,),
                    choices=("w", "x", "y", "z") if task == "multiple_choice" else (),
                    category="general",
                    source="made-up",
                    generator="test",
                    template="test@1",
                    n_tokens=100,
                )  # fmt: skip
            )
    return made


def answer(folder: Path, examples: Path, every: Sequence[Sample], level: float, seed: int, words: int) -> None:
    """Write predictions that are right about `level` of the time, with their sidecar, and score them."""
    benchmark = folder.name
    model = folder.parts[-3] if folder.parts[-2] == "evaluation" else folder.parts[-2]
    rng = random.Random(f"{model} {benchmark} {seed}")
    vocabulary = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "su") for b in ("ra", "ti", "po", "da", "re")]
    predictions = []
    for sample in every:
        said = sample.answers[0] if rng.random() < level else "nothing of the kind"
        thought = " ".join(rng.choices(vocabulary, k=words))
        predictions.append(
            Prediction(
                id=sample.id,
                response=f"<think>\n{EVIL} {thought}\n</think>\n\nTherefore, the answer is {said}",
                finish_reason="stop",
                n_prompt_tokens=100,
                n_response_tokens=words,
                model=model,
            )  # fmt: skip
        )
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "run.json", {"benchmark": benchmark, "model": model, "seconds": 12.5, "seed": seed})
    used = {"evaluation": Config().evaluation.model_dump(mode="json")}
    file = folder / "predictions.jsonl"
    provenance.sidecar(file, inputs={"data": examples}, config=used, packages=("evaluation",), seed=seed)
    source = Source(examples, folder / "predictions.jsonl")
    score_files(find(benchmark), source, folder / "scores.json", seed, quiet=True)


def metrics(file: Path, steps: int, seed: int, aepo: bool) -> None:
    """Write a metrics.jsonl with the keys that verl's trainer writes."""
    rng = random.Random(f"{file.parts[-3:]} {seed}")
    file.parent.mkdir(parents=True, exist_ok=True)
    entropy, masked, lines = 0.2, False, []
    for step in range(1, steps + 1):
        masked = aepo and (entropy > 0.28 or (masked and entropy >= 0.117))
        row: dict[str, Any] = {
            "step": step,
            "aepo/entropy": entropy,
            "reward/mean": 0.3 + 0.01 * step + 0.02 * rng.random(),
            "actor/grad_norm": 0.4 + entropy + 0.02 * rng.random(),
            "response_length/mean": 40 + step,
            "prompt_length/mean": 900.0,
            "rollout/groups": 64.0,
            "rollout/trajectories": 512.0,
            "rollout/turns_mean": 1.0,
            "perf/total_num_tokens": 512.0 * (940 + step),
            "timing/step": 6.0 + rng.random(),
            "timing_s/gen": 2.5,
            "timing_s/old_log_prob": 1.2,
            "timing_s/update_actor": 1.4,
        }
        if aepo:
            row |= {"aepo/masked": float(masked), "aepo/masked_share": 0.4 * masked}
        lines.append(json.dumps(row))
        entropy += (-0.02 if masked else 0.015) + 0.004 * rng.random()
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(
    root: Path,
    scale: str,
    seed: int,
    *,
    items: int = 4,
    long_items: int = 4,
    words: int = 5,
    steps: int = 12,
    models: Sequence[str] = MODELS,
    rows: Sequence[str] = ("grpo", "aepo"),
) -> tuple[Path, Path]:
    """Write a whole results folder under `root` and return it with its configuration."""
    file = configuration(root, scale, seed, rows)
    results = root / "results" / f"{scale}-s{seed}"
    every = {"heldout": samples(items, False), "heldout_long": samples(long_items, True)}
    examples = {name: results / "synthesis" / f"{name}.parquet" for name in every}
    for name, rows_of in every.items():
        write_parquet(examples[name], rows_of, Sample)
    write_json(results / "models" / "base" / "config.json", SHAPES[scale])
    records = results / "state" / "replication"
    write_json(records / "environment-0a1b.json", {"gpus": ["NVIDIA H200, 580.95, 143771 MiB"], "cores": 16})
    ended = {"run": f"{scale}_stages-s{seed}", "state": "complete", "seconds": 600.0, "command": [str(root / "x")]}
    write_json(records / "attempts" / "one.json", ended)
    for model in models:
        full, agent = LEVELS[model]
        place = results / "evaluation" / model
        for name, level in (("heldout", full), *((("heldout_long", agent),) if model != "naive_grpo" else ())):
            answer(place / name, examples[name], every[name], level, seed, words)
    for row in rows:
        place = results / "ablations" / row
        where = place / "evaluation" / "heldout"
        answer(where, examples["heldout"], every["heldout"], LEVELS[row][0], seed, words)
        metrics(place / "policy" / "metrics.jsonl", steps, seed, row != "grpo")
    for stage in RL_STAGES:
        if stage in models:
            metrics(results / "stages" / stage / "policy" / "metrics.jsonl", steps, seed, stage != "naive_grpo")
    return results, file
