"""Rows of a group behind one copy of their prompt: what the actor computes, since prompts cost most.

A pack is a prompt followed by all its responses. Each response sees the prompt and itself, at the positions it would
have alone, so logits are those of separate rows up to float noise. A group of G rows with prompts of P and responses
of R tokens costs P + G·R tokens instead of G·(P + R). On CPU packs are padded to a rectangle (`pack`), on a GPU they
follow one another in one stream without padding (`stream`). Token ids are lists of int or 1-D tensors.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Ids: TypeAlias = Sequence[int] | Tensor


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


def by_prompt(prompts: Sequence[Ids]) -> list[list[int]]:
    """Return row numbers grouped by equal prompts, in the order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        # Bytes of a tensor are hashed at memory speed; a tuple of 100K numbers is not.
        key = prompt.cpu().numpy().tobytes() if isinstance(prompt, Tensor) else tuple(prompt)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def micro_batches(
    prompts: Sequence[Ids], responses: Sequence[Ids], max_tokens: int, padded: bool = True
) -> list[list[int]]:
    """Return rows split into micro-batches of whole groups within `max_tokens` where one fits.

    With `padded` packs × longest pack count, and packs of similar length come together, so that little is padded.
    Without, their sum counts, and micro-batches are of similar size. A pack above `max_tokens` is split by rows.
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
    packs.sort(key=lambda pack: (pack[0], pack[1][0]))
    if not padded:
        return _even(packs, max_tokens)
    batches: list[list[int]] = []
    count, longest = 0, 0
    for size, rows in packs:
        longest = max(longest, size)
        if count and (count + 1) * longest > max_tokens:
            count, longest = 0, size
        if count == 0:
            batches.append([])
        batches[-1] += rows
        count += 1
    return batches


def _even(packs: list[tuple[int, list[int]]], max_tokens: int) -> list[list[int]]:
    """Return packs put together to as few micro-batches as their sum asks for, where packs fit, of similar size."""
    total = sum(size for size, _ in packs)
    target = total / max(1, -(-total // max_tokens))
    batches: list[list[int]] = []
    filled = target
    for size, rows in packs:
        # Half of a pack may stand over: rounding down each time would ask for one more micro-batch.
        if filled >= target or filled + size > max_tokens or filled + size / 2 > target:
            batches.append([])
            filled = 0
        batches[-1] += rows
        filled += size
    return batches


def at_least(parts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Return the micro-batches, the largest halved until there are `count`: all ranks need the same number.

    Raises ValueError when there are fewer rows than that.
    """
    split = [list(part) for part in parts]
    while len(split) < count:
        largest = max(range(len(split)), key=lambda n: len(split[n]))
        rows = split[largest]
        if len(rows) < 2:
            raise ValueError(f"{sum(map(len, split))} rows cannot make {count} micro-batches; use fewer ranks")
        split[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return split


def pack(prompts: Sequence[Ids], responses: Sequence[Ids]) -> Packs:
    """Return the packs of rows given as token ids. Raises ValueError for no rows, empty prompts or empty responses."""
    _check(prompts, responses)
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
        input_ids[number, :n] = torch.as_tensor(prompt)
        position_ids[number, :n] = torch.arange(n)
        mask[number, :n, :n] = torch.ones((n, n), dtype=torch.bool).tril()
        start = n
        for row in rows:
            size = len(responses[row])
            end = start + size
            input_ids[number, start:end] = torch.as_tensor(responses[row])
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
        labels=torch.cat([torch.as_tensor(response) for response in responses]),
    )


@dataclass(frozen=True)
class Stream:
    """Packs one after another, N tokens with the padding at the end, and where their response tokens are predicted.

    `input_ids`, `position_ids`, `pack`, `row` are [N]: `row` is 0 for prompts and numbers the responses of the whole
    stream from 1, padding is a pack of its own. Token k of all responses, row by row in the order they were given, is
    predicted at `places[k]` and has the id `labels[k]`, [C] each.
    """

    input_ids: Tensor
    position_ids: Tensor
    pack: Tensor
    row: Tensor
    places: Tensor
    labels: Tensor


def stream(prompts: Sequence[Ids], responses: Sequence[Ids], multiple: int = 1) -> Stream:
    """Return rows as one stream, padded to a multiple of `multiple` tokens.

    Raises ValueError for no rows, empty prompts or empty responses.
    """
    _check(prompts, responses)
    ids: list[Tensor] = []
    # Position of the first token, pack and row of each piece.
    starts: list[int] = []
    packs: list[int] = []
    rows: list[int] = []
    places: list[Tensor] = [torch.empty(0)] * len(prompts)
    position = 0
    for number, members in enumerate(by_prompt(prompts)):
        prompt = torch.as_tensor(prompts[members[0]])
        ids.append(prompt)
        starts.append(0)
        packs.append(number)
        rows.append(0)
        position += len(prompt)
        end = position
        for row in members:
            response = torch.as_tensor(responses[row])
            ids.append(response)
            starts.append(len(prompt))
            packs.append(number)
            rows.append(row + 1)
            # The first token is predicted where the prompt ends, each other one by the token before it.
            places[row] = torch.arange(position - 1, position + len(response) - 1)
            places[row][0] = end - 1
            position += len(response)
    padding = -position % multiple
    if padding:
        ids.append(torch.zeros(padding, dtype=ids[0].dtype))
        starts.append(0)
        packs.append(packs[-1] + 1)
        rows.append(0)
    # NumPy repeats a few long pieces a hundred times faster than torch does.
    lengths = np.array([len(piece) for piece in ids])
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    return Stream(
        input_ids=torch.cat(ids),
        position_ids=torch.from_numpy(np.repeat(starts, lengths) + within),
        pack=torch.from_numpy(np.repeat(packs, lengths)),
        row=torch.from_numpy(np.repeat(rows, lengths)),
        places=torch.cat(places),
        labels=torch.cat([torch.as_tensor(response) for response in responses]),
    )


def _check(prompts: Sequence[Ids], responses: Sequence[Ids]) -> None:
    if not len(prompts) or len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts, {len(responses)} responses; give one of each per row, at least one")
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not len(prompt) or not len(response):
            raise ValueError(f"row {row} has {len(prompt)} prompt and {len(response)} response tokens; give both")
