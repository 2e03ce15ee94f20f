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
from qwenlong.training import advantages, aepo, clipping, losses


@dataclass(frozen=True)
class Rows:
    """One batch of model calls, N rows of at most T response tokens.

    group, trajectory, turn, task, dropped, padding: length N. `trajectory` is unique in the batch. `padding` rows
    are in no statistic and no denominator; `dropped` marks rows of trajectories whose reward could not be had.
    rewards: [N], the trajectory's reward, the same on each of its rows. entropies, response_mask: [N, T].
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


@dataclass
class Plan:
    """What the update needs: `weights` [N, T] = A_i × mask / (groups × tokens of the group), and what to log.

    `advantages` [N]: of the row's trajectory, NaN where it was dropped and in padding. `masked_tokens` [N]: response
    tokens that AEPO or clipping took out of the update.
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


def plan(rows: Rows, stage: StageConfig, controller: aepo.EntropyController | None) -> Plan:
    """Return per-token weights whose sum over tokens of (ratio × weight) is the objective of Eq. 4.

    `controller` is the AEPO state, updated once; none: AEPO off. Raises ValueError for a group of one trajectory
    that was not caused by drops.
    """
    mask = rows.response_mask.to(torch.bool)
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(rows.trajectory):
        if not rows.padding[index]:
            members[name].append(index)
    for indices in members.values():
        indices.sort(key=lambda i: rows.turn[i])

    dropped = {name for name, indices in members.items() if any(rows.dropped[i] for i in indices)}
    kept = [name for name in members if name not in dropped]
    sizes: dict[str, int] = defaultdict(int)
    for name in kept:
        sizes[rows.group[members[name][0]]] += 1
    # A group that a judge outage left with one trajectory has no baseline: it goes too (SPEC section 3).
    kept = [name for name in kept if sizes[rows.group[members[name][0]]] > 1 or not dropped]
    metrics: dict[str, float] = {
        "rollout/trajectories": len(members),
        "rollout/dropped": len(members) - len(kept),
    }
    weights = torch.zeros(rows.entropies.shape, dtype=torch.float32)
    count = len(rows.group)
    outcome = (torch.full((count,), math.nan, dtype=torch.float64), torch.zeros(count, dtype=torch.int64))
    if not kept:
        return Plan(weights, *outcome, metrics | {"aepo/skipped": 1.0})

    first = [members[name][0] for name in kept]
    groups = [rows.group[i] for i in first]
    tasks = [rows.task[i] for i in first]
    rewards = rows.rewards[first].to(torch.float64)
    advantage = advantages.estimate(rewards, groups, tasks, stage.advantage)

    entropies, tokens = _join([members[name] for name in kept], rows.entropies, mask)
    lengths = tokens.sum(dim=1)
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
            lengths = torch.where(alive, lengths, torch.zeros_like(lengths))
        metrics["aepo/masked"] = float(_masks(stage.aepo, controller, entropy))
        metrics["aepo/masked_share"] = float((~alive).double().mean())
    removed = (keep == 0) & tokens
    metrics["clipping/token_share"] = float(removed.sum() / tokens.sum())
    for number, name in enumerate(kept):
        start = 0
        for i in members[name]:
            end = start + int(mask[i].sum())
            outcome[0][i], outcome[1][i] = advantage[number], removed[number, start:end].sum()
            start = end

    token_weight = losses.surviving_token_weights(lengths, groups).to(torch.float64)
    scaled = (advantage.unsqueeze(1) * token_weight.unsqueeze(1) * keep).to(torch.float32)
    _split(scaled, [members[name] for name in kept], mask, weights)
    metrics |= _describe(rewards, advantage, lengths, groups, tasks)
    metrics["aepo/skipped"] = float(not bool((weights != 0).any()))
    return Plan(weights, *outcome, metrics)


def row_entropies(rows: Rows) -> Tensor:
    """Return each row's mean token entropy in nats, float64 [N]; NaN for a row without response tokens."""
    mask = rows.response_mask.to(torch.bool)
    kept = torch.where(mask, rows.entropies, torch.zeros_like(rows.entropies))
    return kept.sum(dim=1, dtype=torch.float64) / mask.sum(dim=1)


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
    """Concatenate the response tokens of each trajectory's rows: [M, L] values (0 where there are none) and mask."""
    parts = [torch.cat([values[i][mask[i]] for i in indices]) for indices in members]
    width = max(1, max(part.numel() for part in parts))
    joined = torch.zeros(len(parts), width, dtype=values.dtype)
    tokens = torch.zeros(len(parts), width, dtype=torch.bool)
    for row, part in enumerate(parts):
        joined[row, : part.numel()] = part
        tokens[row, : part.numel()] = True
    return joined, tokens


def _split(joined: Tensor, members: Sequence[Sequence[int]], mask: Tensor, out: Tensor) -> None:
    """Undo `_join`: write each trajectory's token values back to its rows."""
    for row, indices in enumerate(members):
        start = 0
        for i in indices:
            count = int(mask[i].sum())
            out[i][mask[i]] = joined[row, start : start + count]
            start += count


def _describe(
    rewards: Tensor, advantage: Tensor, lengths: Tensor, groups: Sequence[str], tasks: Sequence[str]
) -> dict[str, float]:
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()) if len(rewards) > 1 else 0.0,
        "advantage/abs_mean": float(advantage.abs().mean()),
        "advantage/nonzero_share": float((advantage != 0).double().mean()),
        "rollout/groups": len(set(groups)),
        "response_length/mean": float(lengths.double().mean()),
    }
    for task in sorted(set(tasks)):
        chosen = torch.tensor([name == task for name in tasks])
        metrics[f"reward/{task}/mean"] = float(rewards[chosen].mean())
        metrics[f"reward/{task}/std"] = float(rewards[chosen].std()) if int(chosen.sum()) > 1 else 0.0
        metrics[f"response_length/{task}/mean"] = float(lengths[chosen].double().mean())
        metrics[f"rollout/{task}/trajectories"] = float(chosen.sum())
    return metrics
