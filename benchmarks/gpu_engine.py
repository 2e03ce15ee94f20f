"""What verl's actor worker takes on a GPU: its own engine and loss as they come, and this project's, on equal batches.

    python benchmarks/gpu_engine.py [--prompts 1536 8192] [--repeat 2] [--profile] --out F.json
    python benchmarks/gpu_engine.py --table F.json --out benchmarks/gpu_engine.md

No Ray, no vLLM: verl's `ActorRolloutRefWorker` alone, driven as in tests/engines/gradient_worker.py. SmolLM2-135M's
shape with random weights, 64 prompts x 8 rollouts of 192 tokens, no two rewards equal, so that no row may be left out.
`stock` is verl's FSDP2 engine and token-mean loss at its defaults, with sdpa over padded rows (there is no flash-attn
package) in micro-batches of 16 rows; `ours` is benchmarks/gpu.yaml.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/engines"), str(ROOT / "benchmarks")]

GROUPS, GROUP, RESPONSE = 64, 8, 192
#: Holds any row.
MOST = 200_000
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 16384,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def model_folder(folder: Path, shape: dict[str, Any] = SHAPE) -> Path:
    """Write a model of SmolLM2-135M's shape, or another, with random weights, and a tokenizer of as many words."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    words = {f"<{n}>": n for n in range(shape["vocab_size"])}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<2>")),
        pad_token="<0>", eos_token="<1>", unk_token="<2>",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def rows(prompt: int, groups: int = GROUPS) -> list[Any]:
    """Return the batch: prompts within a tenth of `prompt` tokens, responses within a quarter of 192."""
    import random

    from gradient_batch import Row

    dice = random.Random(prompt)

    def ids(low: int, high: int) -> list[int]:
        return [dice.randrange(3, SHAPE["vocab_size"]) for _ in range(dice.randint(low, high))]

    made = []
    for group in range(groups):
        shared = ids(9 * prompt // 10, prompt)
        for rollout in range(GROUP):
            response = ids(3 * RESPONSE // 4, RESPONSE)
            made.append(Row(f"g{group}", rollout, 0, "task", dice.random(), shared, response, [0.0] * len(response)))
    return made


def configuration(model: Path, prompt: int, stock: bool) -> Any:
    """Return verl's configuration as the stage makes it, or with verl's own engine, loss and micro-batches."""
    import yaml
    from omegaconf import OmegaConf

    from qwenlong.core.config import Config, StageConfig
    from qwenlong.training.verl_plugin import launch

    engine = yaml.safe_load((ROOT / "benchmarks/gpu.yaml").read_text(encoding="utf-8"))["engine"]
    # The check of sizes looks at stages that are not run here.
    tokens = engine.pop("micro_batch_tokens")
    settings = Config.model_validate({"run": {"seed": 3}, "engine": engine | {"micro_batch_tokens": MOST}})
    stage = StageConfig.model_validate(
        {"max_input_tokens": prompt, "max_output_tokens": RESPONSE, "batch_prompts": GROUPS, "group_size": GROUP,
         "advantage": "grpo", "aepo": None, "temperature": 0.7, "log_rollout_groups": 0}
    )  # fmt: skip
    place = model.parent
    values = launch.overrides(
        settings, stage, samples=place / "s", documents=place / "d", model=model, state=place, resume=None
    )
    values["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] = tokens
    values["actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu"] = tokens
    config = launch.build_config(values)
    if stock:
        rows_at_a_time = 16 if prompt < 4096 else 4
        for name, value in {
            "actor_rollout_ref.model.use_remove_padding": False,
            "actor_rollout_ref.model.enable_gradient_checkpointing": True,
            "actor_rollout_ref.actor.use_dynamic_bsz": False,
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": rows_at_a_time,
            "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": False,
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": rows_at_a_time,
            "actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla",
        }.items():
            OmegaConf.update(config, name, value, merge=False, force_add=True)
    return config


def measure(prompts: list[int], engines: list[str], repeat: int, out: Path, profile: bool) -> None:
    """Time both parts of a step, engine by engine; the first repetition warms up, the last is profiled if asked."""
    os.environ.update(
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
         "MASTER_PORT": "29533"}
    )  # fmt: skip
    from qwenlong.core.config import Config
    from qwenlong.training.verl_plugin import launch

    os.environ.update(
        launch.environment(Config.model_validate({"engine": {"platform": "cuda", "micro_batch_tokens": MOST}}))
    )
    import transfer_queue
    import verl  # noqa: F401  registers the project's parts
    from gradient_worker import Ranks, Store, _engine_class, _extend
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from qwenlong.training.verl_plugin.trainer import QwenlongTrainer

    torch.cuda.set_device(0)
    initialize_global_process_group_ray()
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(Path(folder) / "model")
        for prompt in prompts:
            batch_rows = rows(prompt)
            for engine in engines:
                config = configuration(model, prompt, engine == "stock")
                with _engine_class(engine):
                    worker = ActorRolloutRefWorker(
                        config=config.actor_rollout_ref, role="actor", distillation_config=config.get("distillation")
                    )
                    worker.init_model()
                for number in range(repeat + 1):
                    store = Store()
                    transfer_queue.kv_batch_get, transfer_queue.kv_batch_put = store.get, store.put
                    trainer = QwenlongTrainer(config)
                    trainer.global_steps = number + 1
                    trainer.actor_rollout_wg = Ranks(store, worker, False)
                    trainer.tokenizer = worker.actor.model_config.tokenizer
                    metrics: dict[str, Any] = {}
                    batch = trainer._balance_batch(store.fill(batch_rows, False), metrics)
                    torch.cuda.reset_peak_memory_stats()
                    times = {}
                    for part in ("old_log_prob", "advantage", "update_actor"):
                        torch.cuda.synchronize()
                        begin = time.perf_counter()
                        with profiled(part if profile and number == repeat else None):
                            batch = _extend(getattr(trainer, f"_{_NAMES[part]}")(batch, metrics), batch)
                        torch.cuda.synchronize()
                        times[part] = round(time.perf_counter() - begin, 3)
                    record = {
                        "engine": engine, "prompt": prompt, "repetition": number, **times,
                        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
                        "grad_norm": float(metrics.get("actor/grad_norm", float("nan"))),
                    }  # fmt: skip
                    records.append(record)
                    print(record, flush=True)
                    save(records, out)
                del worker, trainer
                import gc

                gc.collect()
                torch.cuda.empty_cache()


@contextmanager
def profiled(name: str | None) -> Iterator[None]:
    """Print where the time of a part goes, by function and by kernel; with none, do nothing."""
    if name is None:
        yield
        return
    import cProfile
    import pstats

    from torch.profiler import ProfilerActivity, profile

    calls = cProfile.Profile()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as kernels:
        calls.enable()
        yield
        calls.disable()
    print(f"== {name}", flush=True)
    pstats.Stats(calls).sort_stats("tottime").print_stats(25)
    print(kernels.key_averages().table(sort_by="cuda_time_total", row_limit=20, max_name_column_width=60), flush=True)


_NAMES = {"old_log_prob": "compute_old_log_prob", "advantage": "compute_advantage", "update_actor": "update_actor"}


def save(records: list[dict[str, Any]], out: Path) -> None:
    """Write what is there so far."""
    import transformers
    import verl

    versions = {"torch": torch.__version__, "verl": verl.__version__, "transformers": transformers.__version__}
    about = {"device": torch.cuda.get_device_name(), "versions": versions}
    text = json.dumps(about | {"records": records}, indent=1) + "\n"
    out.with_suffix(".part").write_text(text, encoding="utf-8")
    out.with_suffix(".part").replace(out)


def table(source: Path, out: Path) -> None:
    """Write the table: medians of the repetitions after the first, ratios, floors."""
    from statistics import median

    import gpu_floors

    from qwenlong.core.files import write_text

    given = json.loads(source.read_text(encoding="utf-8"))
    lines = [
        "# The actor's part of a training step on one GPU", "",
        f"`python benchmarks/gpu_engine.py`: SmolLM2-135M's shape, {GROUPS} prompts x {GROUP} rollouts, bfloat16, "
        f"{given['device']}; seconds, medians of the repetitions after the first "
        f"({', '.join(f'{k} {v}' for k, v in given['versions'].items())}). Rollouts are not in it.",
        "",
        "| prompt tokens | engine | log-probabilities and entropy | update | both | peak GiB |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    both: dict[tuple[int, str], float] = {}
    parts: dict[tuple[int, str, str], float] = {}
    for prompt in sorted({r["prompt"] for r in given["records"]}):
        for engine in ("stock", "ours"):
            found = [r for r in given["records"] if (r["prompt"], r["engine"]) == (prompt, engine) and r["repetition"]]
            if not found:
                continue
            for part in ("old_log_prob", "update_actor"):
                parts[prompt, engine, part] = median(r[part] for r in found)
            both[prompt, engine] = median(r["old_log_prob"] + r["update_actor"] for r in found)
            lines.append(
                f"| {prompt} | {engine} | {parts[prompt, engine, 'old_log_prob']:.2f} | "
                f"{parts[prompt, engine, 'update_actor']:.2f} | {both[prompt, engine]:.2f} | "
                f"{max(r['peak_gib'] for r in found):.1f} |"
            )
    for prompt in sorted({prompt for prompt, _ in both}):
        if (prompt, "stock") in both and (prompt, "ours") in both:
            ratio = both[prompt, "stock"] / both[prompt, "ours"]
            lines += ["", f"Prompts of {prompt} tokens: {ratio:.1f} times faster than verl as it comes."]
        if (prompt, "ours") in both:
            measured = {part: parts[prompt, "ours", part] for part in ("old_log_prob", "update_actor")}
            floor = gpu_floors.seconds(given["device"], gpu_floors.lengths(rows(prompt)))
            lines += ["", f"Arithmetic at {gpu_floors.peak(given['device']) / 1e12:.0f} TFLOP/s:", ""]
            lines += gpu_floors.table(floor, measured)
    write_text(out, "\n".join([*lines, ""]))
    print("\n".join(lines))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1536, 8192])
    parser.add_argument("--engines", nargs="+", choices=("ours", "stock"), default=["ours", "stock"])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.table:
        table(options.table, options.out)
    else:
        measure(options.prompts, options.engines, options.repeat, options.out, options.profile)


if __name__ == "__main__":
    main()
