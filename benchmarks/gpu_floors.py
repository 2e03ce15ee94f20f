"""What arithmetic alone would take for the actor's part of a step of SmolLM2-135M, each prompt computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Dense bfloat16 FLOP/s by name of the card.
PEAKS = {"H100": 989e12, "H200": 989e12}
LAYERS, HEADS, KV_HEADS, WIDTH, HIDDEN, INNER, VOCABULARY = 30, 9, 3, 64, 576, 1536, 49152
#: Parameters of the layers' matrix products, and of the head.
BODY = LAYERS * (2 * HIDDEN * WIDTH * (HEADS + KV_HEADS) + 3 * HIDDEN * INNER)
HEAD = HIDDEN * VOCABULARY


#: Prompt tokens of each group, and response tokens of each of its rows.
Groups = Sequence[tuple[float, Sequence[float]]]


def lengths(rows: Sequence[Any]) -> Groups:
    """Return the lengths of rows that have `group`, `prompt` and `response`."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return [(len(members[0].prompt), [len(row.response) for row in members]) for members in groups.values()]


def forward(groups: Groups) -> tuple[float, float, float]:
    """Return FLOPs of one forward pass: matrix products of the layers, attention, the head over response tokens."""
    tokens = pairs = responses = 0.0
    for prompt, members in groups:
        tokens += prompt + sum(members)
        responses += sum(members)
        pairs += prompt**2 / 2 + sum(n * prompt + n**2 / 2 for n in members)
    return 2 * BODY * tokens, 4 * HEADS * WIDTH * LAYERS * pairs, 2 * HEAD * responses


def peak(device: str) -> float:
    """Return the FLOP/s of a card."""
    return next(value for name, value in PEAKS.items() if name in device)


def seconds(device: str, groups: Groups) -> dict[str, float]:
    """Return the floor of each part: log-probabilities once forward, the update forward and back.

    A backward pass is twice a forward one, attention's two and a half times, and the head's logits are made once more.
    """
    layers, attention, head = forward(groups)
    return {
        "old_log_prob": (layers + attention + head) / peak(device),
        "update_actor": (3 * layers + 3.5 * attention + 4 * head) / peak(device),
    }


def table(floor: dict[str, float], measured: dict[str, float]) -> list[str]:
    """Return floors beside what was measured."""
    lines = ["| part | floor | measured | measured / floor |", "|---|---|---|---|"]
    return lines + [f"| {n} | {floor[n]:.3f} | {measured[n]:.2f} | {measured[n] / floor[n]:.1f} |" for n in floor]
