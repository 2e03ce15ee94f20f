"""What arithmetic alone would take for the actor's part of a step, rows of a group behind one copy of their prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Dense bfloat16 FLOP/s by name of the card.
PEAKS = {"H100": 989e12, "H200": 989e12}
LAYERS, HEADS, KV_HEADS, WIDTH, HIDDEN, INNER, VOCABULARY = 30, 9, 3, 64, 576, 1536, 49152


def forward(rows: Sequence[Any]) -> tuple[float, float, float]:
    """Return FLOPs of one forward pass: matrix products of the layers, attention, the head over response tokens."""
    body = LAYERS * (2 * HIDDEN * WIDTH * (HEADS + KV_HEADS) + 3 * HIDDEN * INNER)
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    tokens = pairs = responses = 0.0
    for members in groups.values():
        prompt = len(members[0].prompt)
        lengths = [len(row.response) for row in members]
        tokens += prompt + sum(lengths)
        responses += sum(lengths)
        pairs += prompt**2 / 2 + sum(n * prompt + n**2 / 2 for n in lengths)
    return 2 * body * tokens, 4 * HEADS * WIDTH * LAYERS * pairs, 2 * HIDDEN * VOCABULARY * responses


def floors(device: str, rows: Sequence[Any], measured: dict[str, float]) -> list[str]:
    """Return the table of floors beside what was measured: log-probabilities once forward, the update forward and back.

    A backward pass is twice a forward one, attention's two and a half times, and the head's logits are made once more.
    """
    peak = next(value for name, value in PEAKS.items() if name in device)
    layers, attention, head = forward(rows)
    floor = {
        "old_log_prob": (layers + attention + head) / peak,
        "update_actor": (3 * layers + 3.5 * attention + 4 * head) / peak,
    }
    lines = [f"| part | arithmetic at {peak / 1e12:.0f} TFLOP/s | measured | measured / floor |", "|---|---|---|---|"]
    return lines + [f"| {n} | {floor[n]:.3f} | {measured[n]:.2f} | {measured[n] / floor[n]:.1f} |" for n in floor]
