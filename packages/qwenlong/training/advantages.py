"""Advantages of a batch of rollouts (SPEC section 3, Eqs. 3 and 7). Pure functions: no state, no randomness."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Kind = Literal["grpo", "batch_std", "task_std"]


def estimate(rewards: Tensor, groups: Sequence[Any], tasks: Sequence[Any], kind: str) -> Tensor:
    """Return the advantage of each of N rollouts, float64 on the device of `rewards`.

    A_i = (r_i - mean of i's group) / s, where s is the sample standard deviation (ddof 1) of i's group (`grpo`),
    of the whole batch (`batch_std`) or of all rewards of i's task in the batch (`task_std`, Eq. 7).

    Args:
        rewards: [N], any real dtype.
        groups: N labels of any hashable type, in any order; rollouts of one prompt share a label.
        tasks: N task labels; one per group.
        kind: "grpo", "batch_std" or "task_std".

    A group whose rewards are all equal gets exactly 0, and so does everything whose s is taken over equal rewards:
    that is decided by max == min, because a computed std of equal numbers need not be 0, and one of unequal numbers
    need not be above 0.

    Raises ValueError for an unknown kind, an empty batch, lengths that differ, rewards that are NaN or infinite,
    a group of one rollout, and a group with two task labels.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"no advantage kind {kind!r}; choose one of {', '.join(get_args(Kind))}")
    values = _rewards(rewards)
    group_labels, task_labels = labels(groups, "groups"), labels(tasks, "tasks")
    if not len(values) == len(group_labels) == len(task_labels):
        raise ValueError(
            f"{len(values)} rewards, {len(group_labels)} group labels and {len(task_labels)} task labels: "
            "give one of each per rollout"
        )
    members = members_of(group_labels)
    for label, rows in members.items():
        if len(rows) < 2:
            raise ValueError(f"group {label!r} has one rollout; an advantage needs at least two, drop the group first")
        if any(task_labels[row] != task_labels[rows[0]] for row in rows):
            found = sorted({repr(task_labels[row]) for row in rows})
            raise ValueError(
                f"group {label!r} has more than one task label ({', '.join(found)}); a prompt has one task"
            )

    whole: list[Hashable] = [None] * len(values)
    scopes = {"grpo": group_labels, "batch_std": whole, "task_std": task_labels}[kind]
    scope_members = members_of(scopes)
    # Everything within a scope is scaled by one power of two. An advantage does not change by that, and neither the
    # differences nor their squares can overflow or vanish then, whatever the magnitude of the rewards.
    scaled = list(values)
    spread: dict[Hashable, float] = {}
    for label, rows in scope_members.items():
        exponent = math.frexp(max(abs(values[row]) for row in rows))[1] + 1
        for row in rows:
            scaled[row] = math.ldexp(values[row], -exponent)
        spread[label] = _std([values[row] for row in rows], [scaled[row] for row in rows])

    advantages = [0.0] * len(values)
    for rows in members.values():
        std = spread[scopes[rows[0]]]
        if std == 0.0 or _equal([values[row] for row in rows]):
            continue
        for row, deviation in zip(rows, _deviations([scaled[row] for row in rows]), strict=True):
            advantages[row] = deviation / std
    return torch.tensor(advantages, dtype=torch.float64, device=rewards.device)


def estimate_trajectories(
    rewards: Tensor,
    trajectories: Sequence[Any],
    groups: Sequence[Any],
    tasks: Sequence[Any],
    kind: str = "grpo",
    valid: Tensor | None = None,
) -> Tensor:
    """Return the advantage of each of M turns in memory RL, float64 [M] (SPEC section 4).

    Each trajectory counts once in mean and std however many turns it has, and each of its turns gets its advantage.

    Args:
        rewards: [M], the trajectory's reward repeated on each of its turns.
        trajectories: M labels; the turns of one trajectory share one, and no other trajectory of the batch has it.
        groups: M labels; the trajectories of one question share one.
        tasks: M task labels.
        kind: see `estimate`.
        valid: [M], bool, int or float; rows of 0 only pad: they are in no statistic and get 0, their reward and
            labels are not looked at.

    Raises ValueError as `estimate` does (a group needs two trajectories), and where the turns of a trajectory
    disagree on reward, group or task.
    """
    trajectory_labels, group_labels = labels(trajectories, "trajectories"), labels(groups, "groups")
    task_labels = labels(tasks, "tasks")
    if rewards.dim() != 1:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; give one number per turn, shape [M]")
    n_rows = rewards.shape[0]
    if not n_rows == len(trajectory_labels) == len(group_labels) == len(task_labels):
        raise ValueError(
            f"{n_rows} rewards, {len(trajectory_labels)} trajectory, {len(group_labels)} group and "
            f"{len(task_labels)} task labels: give one of each per turn"
        )
    if valid is None:
        kept = list(range(n_rows))
    else:
        if tuple(valid.shape) != (n_rows,):
            raise ValueError(f"valid has shape {tuple(valid.shape)}; {n_rows} turns need [{n_rows}]")
        kept = [row for row, flag in enumerate((valid != 0).tolist()) if flag]
    turns: dict[Hashable, list[int]] = {}
    for row in kept:
        turns.setdefault(trajectory_labels[row], []).append(row)
    # NaN is compared as a label too, and refused by name below.
    values: list[Hashable] = ["nan" if math.isnan(value) else value for value in rewards.detach().double().tolist()]
    for label, rows in turns.items():
        for name, column in (("reward", values), ("group", group_labels), ("task", task_labels)):
            if any(column[row] != column[rows[0]] for row in rows):
                raise ValueError(f"the turns of trajectory {label!r} have more than one {name}; a trajectory has one")
    first = [rows[0] for rows in turns.values()]
    per_trajectory = estimate(
        rewards[torch.tensor(first, dtype=torch.long, device=rewards.device)],
        [group_labels[row] for row in first],
        [task_labels[row] for row in first],
        kind,
    )
    advantages = torch.zeros(n_rows, dtype=torch.float64, device=rewards.device)
    for advantage, rows in zip(per_trajectory.tolist(), turns.values(), strict=True):
        for row in rows:
            advantages[row] = advantage
    return advantages


def labels(values: Sequence[Any] | Tensor, name: str) -> list[Hashable]:
    """Return labels as a list that can be compared by value. Raises ValueError when one is not hashable.

    Tensors and arrays are unpacked: a 0-d tensor hashes by identity, so that equal ones would be different labels.
    """
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)  # type: ignore[union-attr]
    for position, value in enumerate(listed):
        if isinstance(value, Tensor):
            value = listed[position] = value.item()
        try:
            hash(value)
        except TypeError:
            raise ValueError(f"{name}[{position}] = {value!r} is not hashable; use a string, number or tuple") from None
    return listed


def members_of(labels_: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Return the rows of each label, labels in order of first appearance."""
    members: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels_):
        members.setdefault(label, []).append(row)
    return members


def _rewards(rewards: Tensor) -> list[float]:
    if rewards.dim() != 1:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; give one number per rollout, shape [N]")
    values: list[float] = rewards.detach().to(torch.float64).tolist()
    if not values:
        raise ValueError("the batch is empty; advantages need at least one group of two rollouts")
    for row, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"rewards[{row}] = {value}; drop rollouts without a reward before advantages are computed")
    return values


def _equal(values: list[float]) -> bool:
    return max(values) == min(values)


def _deviations(values: list[float]) -> list[float]:
    # Shifted first: the mean of large, close numbers would lose the digits in which they differ.
    low = min(values)
    shifted = [value - low for value in values]
    mean = math.fsum(shifted) / len(shifted)
    return [value - mean for value in shifted]


def _std(values: list[float], scaled: list[float]) -> float:
    """Sample standard deviation of `scaled`; exactly 0 where the rewards themselves are equal, and of one reward."""
    if len(values) < 2 or _equal(values):
        return 0.0
    return math.sqrt(math.fsum(deviation**2 for deviation in _deviations(scaled)) / (len(scaled) - 1))
