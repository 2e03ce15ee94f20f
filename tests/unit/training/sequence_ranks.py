"""Ranks that share a row, for test_sequence_parallel.py: `python sequence_ranks.py RANKS HEADS KV_HEADS OUT`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from qwenlong.training import sequence_parallel

LENGTH, WIDTH = 24, 4


def tensors(heads: int, kv_heads: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(heads)
    return [
        torch.randn((1, n, LENGTH, WIDTH), generator=random, dtype=torch.float64) for n in (heads, kv_heads, kv_heads)
    ]


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def work(rank: int, ranks: int, port: int, heads: int, kv_heads: int, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    part = slice(rank * LENGTH // ranks, (rank + 1) * LENGTH // ranks)
    own = [x[:, :, part].clone().requires_grad_() for x in tensors(heads, kv_heads)]
    mixed = attend(*sequence_parallel.to_heads(*own, dist.group.WORLD))
    assert mixed.shape == (1, heads // ranks, LENGTH, WIDTH)
    back = sequence_parallel.to_tokens(mixed, dist.group.WORLD)
    # Some places, not in the order of the stream; a rank may have none of them.
    places = torch.tensor([17, 3, 4, 5, 23])
    mine = (places >= part.start) & (places < part.stop)
    values = back[0, 0, places[mine] - part.start, 0]
    whole = sequence_parallel.together(values, mine, dist.group.WORLD)
    # Every rank has the same loss; FSDP's mean over ranks then gives its gradient once.
    (whole * torch.arange(1.0, 6, dtype=torch.float64)).sum().backward()
    torch.save(
        {"whole": whole.detach(), "gradients": [x.grad / ranks for x in own], "back": back.detach()}, out / f"{rank}.pt"
    )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks, heads, kv_heads = (int(word) for word in sys.argv[1:4])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (ranks, port, heads, kv_heads, Path(sys.argv[4])), nprocs=ranks)
