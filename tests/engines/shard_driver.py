"""Checkpoints written by verl's own FSDPCheckpointManager, on gloo process groups of forked ranks; without Ray.

    python tests/engines/shard_driver.py JOBS.json

JOBS.json is a list of jobs: {"world": 2, "source": DIR, "target": DIR, "replicas": 1, "wrap": "fsdp2", "noise": 0.01}.
Each loads `source` in float32, moves every weight by `noise` (so that the checkpoint is not its base), writes
`target`/trained.pt (logits of `tokens`) and the checkpoint `target`/actor. `wrap` is fsdp1, fsdp2 or fsdp2-any-dim
(verl's placement on the first dimension that divides by the ranks). verl is imported once, for all ranks and worlds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VERL_PLATFORM", "cpu")

import torch

import qwenlong.training.cpu_platform.platform  # noqa: F401  (registers the platform)


def tokens(vocabulary: int) -> torch.Tensor:
    """Input ids [2, 20] over the whole vocabulary."""
    return (torch.arange(40) * 7 % vocabulary).reshape(2, 20)


def rank_main(rank: int, world: int, store: str, jobs: list[dict[str, Any]]) -> None:
    """Write the checkpoints of one rank."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        for job in jobs:
            save(rank, job)
            dist.barrier()
    finally:
        dist.destroy_process_group()


def save(rank: int, job: dict[str, Any]) -> None:
    """Load, train (after a fashion), shard and save one model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
    from verl.workers.engine.fsdp.utils import create_device_mesh

    world, target = job["world"], Path(job["target"])
    model = AutoModelForCausalLM.from_pretrained(job["source"], dtype=torch.float32).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * job["noise"]
        logits = model(tokens(model.config.vocab_size)).logits
    mesh = create_device_mesh(world, world // job.get("replicas", 1))
    wrapped = wrap(model, mesh, job["wrap"])
    tokenizer = None
    if (Path(job["source"]) / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(job["source"])
    manager = FSDPCheckpointManager(
        wrapped, None, None, tokenizer, {"save_contents": ["model", "extra"], "load_contents": ["model", "extra"]}
    )
    manager.save_checkpoint(str(target / "actor"), global_step=1)
    if rank == 0:
        torch.save(logits, target / "trained.pt")


def wrap(model: torch.nn.Module, mesh: Any, kind: str) -> torch.nn.Module:
    """Shard a model over the mesh the way verl's engine does."""
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel
        from verl.utils.fsdp_utils import get_fsdp_wrap_policy
        from verl.workers.engine.fsdp.utils import get_sharding_strategy

        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=get_fsdp_wrap_policy(module=model, config=None),
            sharding_strategy=get_sharding_strategy(mesh),
            device_mesh=mesh,
            device_id=torch.device("cpu"),
            use_orig_params=False,
        )
    from verl.utils.fsdp_utils import apply_fsdp2, get_shard_placement_fn

    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True}
    if kind == "fsdp2-any-dim":
        options["shard_placement_fn"] = get_shard_placement_fn(mesh.shape[-1])
    apply_fsdp2(model, options, {})
    return model


def main(file: Path) -> None:
    """Run all jobs, one process group for each world size."""
    import torch.multiprocessing as mp

    # Imported before the ranks are forked, so that it is paid once.
    import verl.utils.checkpoint.fsdp_checkpoint_manager
    import verl.utils.fsdp_utils
    import verl.workers.engine.fsdp.utils  # noqa: F401

    torch.set_num_threads(1)
    jobs = json.loads(file.read_text())
    for world in sorted({job["world"] for job in jobs}):
        with tempfile.TemporaryDirectory() as folder:
            mine = [job for job in jobs if job["world"] == world]
            mp.start_processes(
                rank_main, (world, f"{folder}/store", mine), nprocs=world, start_method="fork", join=True
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
