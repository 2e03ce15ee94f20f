"""Real FSDP2 shards of a tiny Qwen3-MoE, saved as verl's FSDPCheckpointManager saves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


def tiny_model(*, tied: bool = False, seed: int = 0, vocabulary: int = 67) -> Any:
    """A Qwen3-MoE of odd sizes (67 words, 3 experts), so that two ranks hold shards of different size."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=3,
        num_experts_per_tok=2,
        tie_word_embeddings=tied,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )
    torch.manual_seed(seed)
    return Qwen3MoeForCausalLM(config).to(torch.float32)


@dataclass(frozen=True)
class Job:
    """One checkpoint to write: `target`/actor, of the model in `source`, in `replicas` copies over the ranks."""

    target: Path
    source: Path
    replicas: int = 1


def save_shards(rank: int, world: int, store: str, jobs: list[Job]) -> None:
    """One rank of a process group: load, shard and save each model the way verl 0.9.1 does."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        for job in jobs:
            _save(rank, world, job)
            dist.barrier()
    finally:
        dist.destroy_process_group()


def _save(rank: int, world: int, job: Job) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    if job.replicas > 1:
        mesh = init_device_mesh("cpu", (job.replicas, world // job.replicas), mesh_dim_names=("ddp", "fsdp"))
    else:
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
    model = AutoModelForCausalLM.from_pretrained(job.source, dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    actor = job.target / "actor"
    actor.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), actor / f"model_world_size_{world}_rank_{rank}.pt")
    # A parameter with fewer rows than ranks: the last ranks hold nothing of it.
    narrow = torch.nn.Linear(4, 1)
    with torch.no_grad():
        narrow.weight.copy_(torch.arange(4.0))
        narrow.bias.zero_()
    fully_shard(narrow, mesh=mesh)
    folder = job.target / "narrow"
    folder.mkdir(exist_ok=True)
    torch.save(narrow.state_dict(), folder / f"model_world_size_{world}_rank_{rank}.pt")
    if rank == 0:
        model.config.save_pretrained(actor / "huggingface")
        (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": world}))


def make(world: int, jobs: list[Job], store: Path) -> None:
    """Write the shards of `world` ranks: in this process for one rank, in spawned ones for more."""
    import torch.multiprocessing as mp

    if world == 1:
        save_shards(0, 1, str(store), jobs)
    else:
        mp.spawn(save_shards, (world, str(store), jobs), nprocs=world)
