"""Rows of a group behind one copy of their prompt: what the actor computes on CPU, where prompts cost most.

A pack is a prompt followed by all its responses. Each response sees the prompt and itself, at the positions it would
have alone, so logits are those of separate rows up to float noise. A group of G rows with prompts of P and responses
of R tokens costs P + G·R tokens instead of G·(P + R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packs:
    """Model inputs of some rows, and where the logits of their response tokens are.

    `input_ids`, `position_ids` [packs, L], `attention_mask` [packs, 1, L, L] bool; `columns` [C] are the positions
    whose logits are needed; token k of all responses, row by row, is predicted at `logits[pack[k], column[k]]` of
    logits [packs, C, vocabulary] and has the id `labels[k]`.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    columns: Tensor
    pack: Tensor
    column: Tensor
    labels: Tensor


def by_prompt(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return row numbers grouped by equal prompts, in the order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    return list(groups.values())


def micro_batches(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], max_tokens: int
) -> list[list[int]]:
    """Return rows split into micro-batches of whole groups, packs × longest pack within `max_tokens` where one fits.

    Packs of similar length come together, so that little is padded; a pack above `max_tokens` is split by rows.
    """
    packs: list[tuple[int, list[int]]] = []
    for rows in by_prompt(prompts):
        part: list[int] = []
        size = len(prompts[rows[0]])
        for row in rows:
            if part and size + len(responses[row]) > max_tokens:
                packs.append((size, part))
                part, size = [], len(prompts[row])
            part.append(row)
            size += len(responses[row])
        packs.append((size, part))
    batches: list[list[int]] = []
    count, longest = 0, 0
    for size, rows in sorted(packs, key=lambda pack: (pack[0], pack[1][0])):
        longest = max(longest, size)
        if count and (count + 1) * longest > max_tokens:
            count, longest = 0, size
        if count == 0:
            batches.append([])
        batches[-1] += rows
        count += 1
    return batches


def pack(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Packs:
    """Return the packs of rows given as token ids. Raises ValueError for no rows, empty prompts or empty responses."""
    if not prompts or len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts, {len(responses)} responses; give one of each per row, at least one")
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not prompt or not response:
            raise ValueError(f"row {row} has {len(prompt)} prompt and {len(response)} response tokens; give both")
    groups = by_prompt(prompts)
    length = max(len(prompts[rows[0]]) + sum(len(responses[row]) for row in rows) for rows in groups)
    input_ids = torch.zeros((len(groups), length), dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    # Padding sees itself alone: a row of an empty mask would be NaN.
    mask = torch.eye(length, dtype=torch.bool).repeat(len(groups), 1, 1)
    predicted: list[tuple[int, list[int]]] = [(0, [])] * len(prompts)
    for number, rows in enumerate(groups):
        prompt = prompts[rows[0]]
        n = len(prompt)
        input_ids[number, :n] = torch.tensor(prompt)
        position_ids[number, :n] = torch.arange(n)
        mask[number, :n, :n] = torch.ones((n, n), dtype=torch.bool).tril()
        start = n
        for row in rows:
            size = len(responses[row])
            end = start + size
            input_ids[number, start:end] = torch.tensor(responses[row])
            position_ids[number, start:end] = torch.arange(n, n + size)
            mask[number, start:end, :n] = True
            mask[number, start:end, start:end] = torch.ones((size, size), dtype=torch.bool).tril()
            # The first token is predicted where the prompt ends, each other one by the token before it.
            predicted[row] = (number, [n - 1, *range(start, end - 1)])
            start = end
    places = torch.tensor([place for _, row in predicted for place in row])
    columns, column = places.unique(return_inverse=True)
    return Packs(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=mask[:, None],
        columns=columns,
        pack=torch.tensor([number for number, row in predicted for _ in row]),
        column=column,
        labels=torch.tensor([token for response in responses for token in response]),
    )


def token_statistics(logits: Tensor, labels: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """Return log-probability of `labels` [n] and, if asked, entropy (nats, no gradient) under `logits` [n, V]."""
    log_probs = torch.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(-1, labels[:, None]).squeeze(-1)
    if not entropy:
        return chosen, None
    fixed = log_probs.detach()
    return chosen, -(fixed.exp() * fixed).sum(-1)
