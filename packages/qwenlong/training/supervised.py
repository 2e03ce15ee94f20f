"""Supervised training steps over examples padded on the right: batches, loss, deterministic kernels."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

#: An example: kind, token ids of prompt and response, tokens of the prompt.
Item = tuple[str, "np.ndarray[Any, np.dtype[np.int32]]", int]


@contextmanager
def deterministic(on: bool = True) -> Iterator[None]:
    """Choose the kernels that give the same bits on the same kind of device, within the block; `on` false: any.

    Where measurements decide how training goes on, two runs with atomic additions soon see different data.
    """
    # Read when cuBLAS is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    chosen, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(chosen, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def optimizer(model: Any, learning_rate: float, weight_decay: float, device: str) -> torch.optim.AdamW:
    """Return AdamW over a model's parameters; matrices decay, norms and biases do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=device.startswith("cuda"))


def batches(items: Sequence[Item], tokens: int, rng: random.Random) -> list[list[Item]]:
    """Return items in batches of similar length, at most `tokens` padded tokens each, in random order."""
    ordered = sorted(items, key=lambda item: len(item[1]))
    made: list[list[Item]] = [[]]
    for item in ordered:
        if made[-1] and len(item[1]) * (len(made[-1]) + 1) > tokens:
            made.append([])
        made[-1].append(item)
    rng.shuffle(made)
    return [batch for batch in made if batch]


def loss_of(
    model: Any, batch: Sequence[Item], prompt_weight: float, device: str
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """Return the loss of a batch, and the mean response loss of each example by kind (nats per token)."""
    width = -(-max(len(ids) for _, ids, _ in batch) // 64) * 64
    ids = np.zeros((len(batch), width), dtype=np.int64)
    weight = np.zeros((len(batch), width), dtype=np.float32)
    answer = np.zeros((len(batch), width), dtype=bool)
    for row, (_, tokens, begin) in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        # Position t predicts token t + 1.
        weight[row, : begin - 1 : 8] = prompt_weight
        weight[row, begin - 1 : len(tokens) - 1] = 1.0
        answer[row, begin - 1 : len(tokens) - 1] = True
    inputs = torch.from_numpy(ids).to(device, non_blocking=True)
    weights = torch.from_numpy(weight).to(device, non_blocking=True)
    cuda = device.startswith("cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
        # Padding stands on the right, where causal attention never sees it: no mask.
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        where = weights > 0
        logits = model.lm_head(hidden[where])
    every = torch.nn.functional.cross_entropy(logits.float(), inputs.roll(-1, 1)[where], reduction="none")
    chosen = weights[where]
    loss = (every * chosen).sum() / chosen.sum()
    rows = torch.arange(len(batch), device=device)[:, None].expand_as(inputs)[where]
    responses = torch.from_numpy(answer).to(device)[where]
    sums = torch.zeros(len(batch), device=device).index_add_(0, rows[responses], every.detach()[responses])
    counts = torch.zeros(len(batch), device=device).index_add_(0, rows[responses], torch.ones_like(every[responses]))
    means = (sums / counts).tolist()
    by_kind: dict[str, list[float]] = {}
    for (kind, _, _), mean in zip(batch, means, strict=True):
        by_kind.setdefault(kind, []).append(mean)
    return loss, by_kind
