"""The stored rollout batch of the gradient comparison: rows of token ids with rewards, read by driver and reference.

`python tests/engines/gradient_batch.py` writes gradient_batch.json anew, to the byte as it stands.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

FILE = Path(__file__).with_name("gradient_batch.json")
#: Rows of each rank, and trajectories of each group.
ROWS, GROUP_SIZE = 24, 4
#: Ranks for which rows are stored.
RANKS = 2
#: Token ids are below this, so that any model with as many can read them.
VOCABULARY = 320
_TASKS = ("multiple_choice", "needle", "numeric")
_PROMPTS = (4, 9, 21, 47, 110)
_RESPONSES = (1, 2, 3, 5, 9, 17, 33, 64)
#: Turns of the eight memory trajectories of a rank: 24 rows.
_TURNS = ((1, 5, 2, 4, 3, 5, 1, 3), (2, 2, 4, 5, 1, 3, 5, 2))


@dataclass(frozen=True)
class Row:
    """One model call. `shift` holds, per response token, log pi_theta - log pi_old for the off-policy case."""

    group: str
    trajectory: int
    turn: int
    task: str
    reward: float
    prompt: list[int]
    response: list[int]
    shift: list[float]


def load(layout: str, rows: int) -> list[Row]:
    """Return the first `rows` rows of a layout: "flat" (one row a rollout) or "memory" (one row a turn)."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))[layout]
    return [Row(**row) for row in stored[:rows]]


def _reward(dice: random.Random, group: int, task: str) -> float:
    if group % 6 == 4:
        return 1.0  # nothing to learn in this group: all its rewards are equal
    return round(dice.random(), 3) if task == "needle" else float(dice.random() < 0.5)


def _row(dice: random.Random, group: int, trajectory: int, turn: int, reward: float, prompt: list[int]) -> Row:
    response = [dice.randrange(3, VOCABULARY) for _ in range(dice.choice(_RESPONSES))]
    shift = [round(dice.uniform(-0.5, 0.5), 3) for _ in response]
    return Row(f"g{group:02}", trajectory, turn, _TASKS[group % 3], reward, prompt, response, shift)


def _flat(dice: random.Random) -> Iterator[Row]:
    for group in range(RANKS * ROWS // GROUP_SIZE):
        prompt = _tokens(dice)
        for trajectory in range(GROUP_SIZE):
            yield _row(dice, group, trajectory, 0, _reward(dice, group, _TASKS[group % 3]), prompt)


def _memory(dice: random.Random) -> Iterator[Row]:
    turns = [count for rank in _TURNS for count in rank]
    for group in range(len(turns) // GROUP_SIZE):
        first = _tokens(dice)
        for trajectory in range(GROUP_SIZE):
            reward = _reward(dice, group, _TASKS[group % 3])
            for turn in range(turns[group * GROUP_SIZE + trajectory]):
                # All trajectories begin with the same chunk and an empty memory; later prompts hold their own memory.
                yield _row(dice, group, trajectory, turn, reward, first if turn == 0 else _tokens(dice))


def _tokens(dice: random.Random) -> list[int]:
    return [dice.randrange(3, VOCABULARY) for _ in range(dice.choice(_PROMPTS))]


def make() -> str:
    """Return the text of gradient_batch.json: one row a line."""
    dice = random.Random(20)
    parts = []
    for name, rows in (("flat", list(_flat(dice))), ("memory", list(_memory(dice)))):
        assert len(rows) == RANKS * ROWS and all(len({r.task for r in g}) == 1 for _, g in groupby(rows, _group))
        lines = ",\n".join(json.dumps(asdict(row), separators=(",", ":")) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _group(row: Row) -> str:
    return row.group


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
