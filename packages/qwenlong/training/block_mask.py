"""Which blocks of attention a stream of shared prompts needs: input to PyTorch's FlexAttention. Pure functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Tokens a side of a block; a stream's length must be a multiple.
BLOCK = 128


def allowed(pack: Tensor, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return whether token `query` may attend to token `key` of a stream: its own prompt and itself, never ahead.

    `pack` and `row` are [N] (`packing.Stream`); `query` and `key` index them and broadcast.
    """
    own = (row[key] == 0) | (row[key] == row[query])
    return (key <= query) & (pack[key] == pack[query]) & own


def blocks(pack: Tensor, row: Tensor, size: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return the blocks that hold both kinds of pairs, and those of which every pair is allowed, bool [n, n] each.

    `pack` and `row` are [N], N a multiple of `size`, n = N / size; within a pack, rows stand in ascending order. A
    block of the first kind may turn out to hold one kind only, never the other way round: block by block only the
    smallest and largest labels are looked at, so the cost is n², not N². Raises ValueError when `size` does not
    divide N.
    """
    if len(pack) % size or not len(pack):
        raise ValueError(f"a stream of {len(pack)} tokens is no multiple of the block size {size}; pad it")
    packs, rows = pack.view(-1, size), row.view(-1, size)
    first, last = packs.amin(1), packs.amax(1)
    low, high = rows.amin(1), rows.amax(1)
    n = torch.arange(len(packs), device=pack.device)
    before = n[None, :] < n[:, None]  # [query, key]
    same = (first[:, None] == last[:, None]) & (first[None, :] == last[None, :]) & (first[:, None] == first[None, :])
    prompt = high[None, :] == 0
    one = (low[:, None] == high[:, None]) & (low[None, :] == high[None, :]) & (low[:, None] == low[None, :])
    full = before & same & (prompt | one)
    meet = (first[:, None] <= last[None, :]) & (first[None, :] <= last[:, None])
    # Rows are numbered through the stream, so labels of two packs' responses never agree by chance.
    touch = (low[None, :] == 0) | ((low[None, :] <= high[:, None]) & (low[:, None] <= high[None, :]))
    partial = (before | (n[None, :] == n[:, None])) & meet & touch & ~full
    return partial, full


def flex_mask(pack: Tensor, row: Tensor, size: int = BLOCK) -> Any:
    """Return the `BlockMask` of a stream, on the device of its labels."""
    from torch.nn.attention.flex_attention import BlockMask

    partial, full = blocks(pack, row, size)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed(pack, row, query, key)

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=size, mask_mod=mask, seq_lengths=(len(pack), len(pack))
    )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks each query block has, [1, 1, n], and which, [1, 1, n, n], those that count first."""
    order = torch.argsort(chosen.to(torch.int8), dim=-1, descending=True, stable=True)
    return chosen.sum(-1).to(torch.int32)[None, None], order.to(torch.int32)[None, None].contiguous()
