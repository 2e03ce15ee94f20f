"""From the rows of one rollout batch to per-token policy-gradient weights: the whole of Eqs. 3, 4, 7-9 and 11 in order.

Pure mathematics: verl's adapter (`verl_plugin.trainer`) and the tests call the same function. A row is one model
call; a trajectory is one row in full-context RL and all turns of one memory-agent run in memory RL. Statistics are
taken over trajectories, each counted once however many turns it has (SPEC section 4).
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qwenlong.core.config import AEPOConfig, StageConfig
from qwenlong.core.config.objectives import Truncated
from qwenlong.training import advantages, aepo, clipping, losses


@dataclass(frozen=True)
class Rows:
    """One batch of model calls, N rows of at most T response tokens.

    group, trajectory, turn, task, dropped, padding: length N. `trajectory` is unique in the batch. `padding` rows
    are in no statistic and no denominator; `dropped` marks rows of trajectories whose reward could not be had.
    rewards: [N], the trajectory's reward, the same on each of its rows. entropies, response_mask: [N, T].
    truncated: length N, or empty for none: whether a response of the row's trajectory was cut off at its limit.
    """

    group: Sequence[str]
    trajectory: Sequence[str]
    turn: Sequence[int]
    task: Sequence[str]
    rewards: Tensor
    dropped: Sequence[bool]
    padding: Sequence[bool]
    entropies: Tensor
    response_mask: Tensor
    truncated: Sequence[bool] = ()


@dataclass
class Plan:
    """What the update needs: `weights` [N, T] and what to log.

    For the loss of Eq. 4 they are A_i × mask / (groups × tokens of the group); for verl's own losses, which divide by
    themselves, A_i × mask. `advantages` [N]: of the row's trajectory, NaN where it was dropped and in padding.
    `masked_tokens` [N]: response tokens that AEPO or clipping took out of the update.
    """

    weights: Tensor
    advantages: Tensor
    masked_tokens: Tensor
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from; the loss is 0 and the step is skipped."""
        return not bool((self.weights != 0).any())


def shuffled(rows: Rows, seed: int) -> Rows:
    """Return the rows with rewards permuted among trajectories, the control that shows what rewards teach.

    Padding and dropped trajectories keep theirs. Each row of a trajectory gets the same reward.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(rows.trajectory):
        if not rows.padding[index]:
            places[name].append(index)
    names = sorted(name for name, indices in places.items() if not any(rows.dropped[i] for i in indices))
    givers = random.Random(seed).sample(names, len(names))
    rewards = rows.rewards.clone()
    for name, giver in zip(names, givers, strict=True):
        rewards[places[name]] = rows.rewards[places[giver][0]]
    return replace(rows, rewards=rewards)


def settle_truncated(rows: Rows, policy: Truncated) -> tuple[Rows, dict[str, float]]:
    """Return the rows with `policy` applied to truncated trajectories, and how many there are to log.

    keep: as they are. zero_reward: their reward is 0. drop: dropped, as if their reward could not be had. Comes before
    `shuffled`: a reward taken away afterwards would teach the control something.
    """
    cut = [
        bool(flag) and not pad
        for flag, pad in zip(rows.truncated or [False] * len(rows.padding), rows.padding, strict=True)
    ]
    hit = {name for name, flag in zip(rows.trajectory, cut, strict=True) if flag}
    live = {name for name, pad in zip(rows.trajectory, rows.padding, strict=True) if not pad}
    counted = {"rollout/truncated": float(len(hit)), "rollout/truncated_share": len(hit) / len(live) if live else 0.0}
    if policy == "keep" or not hit:
        return rows, counted
    # A turn's flag stands for its whole trajectory.
    of_hit = [name in hit and not pad for name, pad in zip(rows.trajectory, rows.padding, strict=True)]
    if policy == "drop":
        flags = [old or new for old, new in zip(rows.dropped, of_hit, strict=True)]
        return replace(rows, dropped=flags), counted
    return replace(
        rows, rewards=torch.where(torch.tensor(of_hit), torch.zeros_like(rows.rewards), rows.rewards)
    ), counted


def plan(rows: Rows, stage: StageConfig, controller: aepo.EntropyController | None) -> Plan:
    """Return per-token weights whose sum over tokens of (ratio × weight) is the objective of Eq. 4.

    With another `stage.loss` they are masked advantages, undivided. `controller` is the AEPO state, updated once; none:
    AEPO off. It is not updated by a batch of which every rollout was dropped or is empty: that has no entropy. Raises
    ValueError for a group of one trajectory that was not caused by drops, and for a reward that is not finite.
    """
    mask = rows.response_mask != 0
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(rows.trajectory):
        if not rows.padding[index]:
            members[name].append(index)
    for indices in members.values():
        indices.sort(key=lambda i: rows.turn[i])

    kept, metrics = _kept(rows, members)
    # verl logs the same under this name, but only after a step's checkpoint: a kill in between must not change it.
    turns = mask[~torch.tensor(rows.padding)].sum(dim=1)
    metrics["response_length/mean"] = float(turns.float().mean()) if len(turns) else 0.0
    weights = torch.zeros(rows.entropies.shape, dtype=torch.float32)
    count = len(rows.group)
    outcome = (torch.full((count,), math.nan, dtype=torch.float64), torch.zeros(count, dtype=torch.int64))
    if not any(bool(mask[i].any()) for name in kept for i in members[name]):
        return Plan(weights, *outcome, metrics | {"aepo/skipped": 1.0})

    ordered = [members[name] for name in kept]
    first = [indices[0] for indices in ordered]
    groups = [rows.group[i] for i in first]
    tasks = [rows.task[i] for i in first]
    rewards = rows.rewards[first].to(torch.float64)
    advantage = advantages.estimate(rewards, groups, tasks, stage.advantage)

    entropies, tokens = _join(ordered, rows.entropies, mask)
    lengths = tokens.sum(dim=1)
    counted = lengths
    keep = tokens.to(torch.float32)
    if stage.clipping is not None:
        clip = stage.clipping
        keep = clipping.negative_mask(advantage, entropies, tokens, clip.level, clip.side, clip.threshold)
    entropy = aepo.batch_entropy(entropies, tokens)
    metrics["aepo/entropy"] = entropy
    if controller is not None and stage.aepo is not None:
        alive = _alive(stage.aepo, controller, entropy, advantage, rewards)
        keep = keep * alive.to(keep.dtype).unsqueeze(1)
        if stage.aepo.denominator == "surviving":
            counted = torch.where(alive, lengths, torch.zeros_like(lengths))
        metrics["aepo/masked"] = float(_masks(stage.aepo, controller, entropy))
        metrics["aepo/masked_share"] = float((~alive).double().mean())
    removed = (keep == 0) & tokens
    metrics["clipping/token_share"] = float(removed.sum() / tokens.sum())
    per_row, masked_tokens = outcome
    for value, indices in zip(advantage, ordered, strict=True):
        per_row[indices] = value
    gone = torch.zeros(mask.shape, dtype=torch.bool)
    _split(removed, ordered, mask, gone)
    masked_tokens += gone.sum(dim=1)

    scale = advantage
    if stage.loss.kind == "group_token":
        # A group whose responses are all empty, or all masked where the denominator is `surviving`, is not counted.
        scale = advantage * losses.surviving_token_weights(counted, groups)
    scaled = scale.to(torch.float32).unsqueeze(1) * keep
    _split(scaled, ordered, mask, weights)
    metrics |= _describe(rewards, advantage, lengths, groups, tasks)
    metrics["aepo/skipped"] = float(not bool((weights != 0).any()))
    return Plan(weights, *outcome, metrics)


def row_entropies(rows: Rows) -> Tensor:
    """Return each row's mean token entropy in nats, float64 [N]; NaN for a row without response tokens."""
    return clipping.row_means(rows.entropies, rows.response_mask != 0)


def _kept(rows: Rows, members: dict[str, list[int]]) -> tuple[list[str], dict[str, float]]:
    """Return the trajectories that have a reward and a group of at least two, and what to log of the others.

    A group that a judge outage left with one trajectory has no baseline: it goes too (SPEC section 3). Raises
    ValueError where the rows of a trajectory disagree on reward, group or task.
    """
    rewards: list[float] = rows.rewards.to(torch.float64).tolist()
    dropped: dict[str, set[str]] = defaultdict(set)
    alive: dict[str, list[str]] = defaultdict(list)
    for name, indices in members.items():
        first = indices[0]
        if any(rows.dropped[i] for i in indices):
            dropped[rows.group[first]].add(name)
            continue
        for what, column in (("reward", rewards), ("group", rows.group), ("task", rows.task)):
            found = {str(column[i]) for i in indices}
            if len(found) > 1:
                raise ValueError(f"trajectory {name!r} has more than one {what}: {', '.join(sorted(found))}")
        alive[rows.group[first]].append(name)
    # A lone trajectory of a group that lost none stays: the estimator refuses it.
    kept = [name for group, names in alive.items() if len(names) > 1 or group not in dropped for name in names]
    groups = {rows.group[indices[0]] for indices in members.values()}
    return kept, {
        "rollout/trajectories": len(members),
        "rollout/dropped": len(members) - len(kept),
        "rollout/dropped_groups": len(groups) - len({rows.group[members[name][0]] for name in kept}),
    }


def _masks(config: AEPOConfig, controller: aepo.EntropyController, entropy: float) -> bool:
    if config.variant == "released":
        return config.low < entropy < config.high
    return controller.masking


def _alive(
    config: AEPOConfig, controller: aepo.EntropyController, entropy: float, advantage: Tensor, rewards: Tensor
) -> Tensor:
    if config.variant == "released":
        return aepo.keep_rows(advantage, entropy, config.low, config.high, rewards)
    masking = controller.update(entropy)
    return ~((advantage < 0) & masking)


def _join(members: Sequence[Sequence[int]], values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the response tokens of each trajectory, [M, L] values and mask: those of its rows, one after another.

    Where each has one row that row is taken as it is, values outside the mask included.
    """
    if all(len(indices) == 1 for indices in members):
        rows = torch.tensor([indices[0] for indices in members])
        return values[rows], mask[rows]
    row, column, owner, place = _places(members, mask)
    counts = torch.bincount(owner, minlength=len(members))
    tokens = torch.arange(max(1, int(counts.max())))[None] < counts[:, None]
    joined = torch.zeros(tokens.shape, dtype=values.dtype)
    joined[owner, place] = values[row, column]
    return joined, tokens


def _places(members: Sequence[Sequence[int]], mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return row and column of each response token, its trajectory's number and its place there."""
    rows = torch.tensor([i for indices in members for i in indices])
    owners = torch.tensor([number for number, indices in enumerate(members) for _ in indices])
    order, column = mask[rows].nonzero(as_tuple=True)
    owner = owners[order]
    counts = torch.bincount(owner, minlength=len(members))
    place = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
    return rows[order], column, owner, place


def _split(joined: Tensor, members: Sequence[Sequence[int]], mask: Tensor, out: Tensor) -> None:
    """Undo `_join`: write each trajectory's token values back to its rows."""
    if all(len(indices) == 1 for indices in members):
        out[torch.tensor([indices[0] for indices in members])] = joined
        return
    row, column, owner, place = _places(members, mask)
    out[row, column] = joined[owner, place]


def _describe(
    rewards: Tensor, advantage: Tensor, lengths: Tensor, groups: Sequence[str], tasks: Sequence[str]
) -> dict[str, float]:
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()) if len(rewards) > 1 else 0.0,
        "advantage/abs_mean": float(advantage.abs().mean()),
        "advantage/nonzero_share": float((advantage != 0).double().mean()),
        "rollout/groups": len(set(groups)),
    }
    for task in sorted(set(tasks)):
        chosen = torch.tensor([name == task for name in tasks])
        metrics[f"reward/{task}/mean"] = float(rewards[chosen].mean())
        metrics[f"reward/{task}/std"] = float(rewards[chosen].std()) if int(chosen.sum()) > 1 else 0.0
        metrics[f"response_length/{task}/mean"] = float(lengths[chosen].double().mean())
        metrics[f"rollout/{task}/trajectories"] = float(chosen.sum())
    return metrics
