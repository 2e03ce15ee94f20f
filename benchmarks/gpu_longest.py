"""The longest prompt whose group of 8 rollouts a training step takes, by number of GPUs that share a row.

    python benchmarks/gpu_longest.py --ranks 1 [--gib 24] [--lengths 32000 64000 ...] --out F.json
    python benchmarks/gpu_longest.py --table F.json G.json --out benchmarks/gpu_longest.md

A model of 0.6B parameters (Qwen3-0.6B's width and depth, random weights) through verl's own actor worker and this
project's engine, bfloat16, gradient checkpointing, no offload; log-probabilities, then the update, on one prompt x 8
rollouts of at most 192 tokens. Each GPU may use `--gib` GiB, so that the search takes minutes; lengths rise until one
does not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/engines"), str(ROOT / "benchmarks")]

SHAPE = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4_000_000,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def work(rank: int, options: argparse.Namespace, model: Path, port: int) -> None:
    """Try the lengths as one rank."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": options.ranks, "LOCAL_WORLD_SIZE": options.ranks}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    import gpu_engine
    import transfer_queue
    import verl  # noqa: F401  registers the project's parts
    from gradient_worker import Ranks, Store, _extend
    from omegaconf import OmegaConf
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from qwenlong.training.verl_plugin.trainer import QwenlongTrainer

    torch.cuda.set_device(rank)
    initialize_global_process_group_ray()
    torch.cuda.set_per_process_memory_fraction(options.gib * 2**30 / torch.cuda.mem_get_info()[1])
    longest = max(options.lengths)
    gpu_engine.MOST = 2 * longest
    config = gpu_engine.configuration(model, longest, False)
    for name, value in {
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size": options.ranks,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 2 * longest,
        "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": 2 * longest,
        "data.train_batch_size": 2,
    }.items():
        OmegaConf.update(config, name, value, merge=False, force_add=True)
    worker = ActorRolloutRefWorker(
        config=config.actor_rollout_ref, role="actor", distillation_config=config.get("distillation")
    )
    worker.init_model()
    records = []
    for length in options.lengths:
        store = Store()
        transfer_queue.kv_batch_get, transfer_queue.kv_batch_put = store.get, store.put
        trainer = QwenlongTrainer(config)
        trainer.global_steps = 1
        trainer.actor_rollout_wg = Ranks(store, worker, False)
        trainer.tokenizer = worker.actor.model_config.tokenizer
        metrics: dict[str, Any] = {}
        # A second prompt, since a batch of equal lengths comes as a plain tensor here; it costs next to nothing.
        small = [replace(row, group="small") for row in gpu_engine.rows(64, 1)]
        rows = gpu_engine.rows(length, 1) + small
        record = {"ranks": options.ranks, "gib": options.gib, "tokens": len(rows[0].prompt)}
        torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        try:
            batch = trainer._balance_batch(store.fill(rows, False), metrics)
            batch = _extend(trainer._compute_old_log_prob(batch, metrics), batch)
            batch = _extend(trainer._compute_advantage(batch, metrics), batch)
            trainer._update_actor(batch, metrics)
            torch.cuda.synchronize()
            record |= {"fits": True, "seconds": round(time.perf_counter() - begin, 1)}
        except torch.OutOfMemoryError as error:
            record |= {"fits": False, "error": str(error).splitlines()[0][:200]}
        record |= {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
        records.append(record)
        if rank == 0:
            print(record, flush=True)
            about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "records": records}
            options.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if not record["fits"]:
            # Ranks that wait for this one in a collective cannot be told; the parent ends them all.
            os._exit(3)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measure(options: argparse.Namespace) -> None:
    """Start the ranks and wait for them, or for the first that runs out of memory."""
    import socket

    import gpu_engine

    from qwenlong.core.config import Config
    from qwenlong.training.verl_plugin import launch

    settings = Config.model_validate({"engine": {"platform": "cuda", "micro_batch_tokens": gpu_engine.MOST}})
    os.environ.update(launch.environment(settings))
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        model = gpu_engine.model_folder(Path(folder) / "model", SHAPE)
        try:
            torch.multiprocessing.spawn(work, (options, model, port), nprocs=options.ranks)
        except torch.multiprocessing.ProcessExitedException as error:
            if error.exit_code != 3:
                raise


def table(sources: list[Path], out: Path) -> None:
    """Write the table of measured files."""
    from qwenlong.core.files import write_text

    given = [json.loads(source.read_text(encoding="utf-8")) for source in sources]
    lines = [
        "# The longest prompt of a training step", "",
        f"`python benchmarks/gpu_longest.py`, torch {given[0]['torch']}: 0.6B parameters, one "
        "prompt x 8 rollouts of at most 192 tokens, GPUs share each row; seconds and peak GiB a GPU of "
        "log-probabilities and update. The first length of each run also compiles.", "",
        "| card | GPUs | GiB each | prompt tokens | fits | seconds | peak GiB |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in given:
        for r in one["records"]:
            fits, seconds = ("yes", r["seconds"]) if r["fits"] else ("no", "–")
            about = f"{one['device']} | {r['ranks']} | {r['gib']}"
            lines.append(f"| {about} | {r['tokens']} | {fits} | {seconds} | {r['peak_gib']} |")
    write_text(out, "\n".join([*lines, ""]))
    print("\n".join(lines))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--gib", type=float, default=24)
    parser.add_argument("--lengths", type=int, nargs="+",
                        default=[32000, 64000, 96000, 128000, 160000, 192000, 256000, 320000, 384000])  # fmt: skip
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.table:
        table(options.table, options.out)
    else:
        measure(options)


if __name__ == "__main__":
    main()
