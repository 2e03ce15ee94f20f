"""The gradient of Eqs. 4, 7, 8 and 9 from the equations alone: plain transformers, one row at a time, nothing of ours.

J(theta) = 1/M sum over the M groups g of  sum_{i in g} A_i sum_t I_it rho_it / sum_{j in g} |y_j|, maximised; a
trajectory's y_i are the tokens of all its turns. Weights are float64, rows are added up in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from gradient_batch import Row
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """What a step shall maximise."""

    kind: str
    """Advantage: grpo (std of the group), batch_std, task_std (Eq. 7)."""
    temperature: float
    masks_above: float | None = None
    """AEPO: negative trajectories are masked where the batch entropy lies above it (the state before is unmasked)."""
    clip: tuple[str, str, float] | None = None
    """Eqs. 8, 9: level (token, sequence), side (high, low), threshold in nats."""
    shifted: bool = False
    """Off-policy: rho = exp(shift) in value; else 1."""
    dropped: tuple[str, int] | None = None
    """Group and trajectory whose reward could not be had: it is left out before everything else."""


Name = tuple[str, int]


def trajectories(rows: Sequence[Row], objective: Objective) -> dict[Name, list[int]]:
    """Return the row numbers of each trajectory, in the order of its turns."""
    found: dict[Name, list[int]] = {}
    for number, row in enumerate(rows):
        if (row.group, row.trajectory) != objective.dropped:
            found.setdefault((row.group, row.trajectory), []).append(number)
    return {name: sorted(numbers, key=lambda n: rows[n].turn) for name, numbers in found.items()}


def advantages(rows: Sequence[Row], objective: Objective) -> dict[Name, float]:
    """Return A_i = (r_i - mean of the group) / sample standard deviation of the kind's scope, 0 where it is 0."""
    of = trajectories(rows, objective)
    reward = {name: rows[numbers[0]].reward for name, numbers in of.items()}
    task = {name: rows[numbers[0]].task for name, numbers in of.items()}
    result = {}
    for name in of:
        group = [reward[other] for other in of if other[0] == name[0]]
        scope = {
            "grpo": group,
            "batch_std": list(reward.values()),
            "task_std": [reward[other] for other in of if task[other] == task[name]],
        }[objective.kind]
        spread = 0.0 if max(scope) == min(scope) else stdev(scope)
        result[name] = 0.0 if spread == 0 or max(group) == min(group) else (reward[name] - fmean(group)) / spread
    return result


def token_weights(rows: Sequence[Row], objective: Objective) -> dict[int, float]:
    """Return A_i / (M x tokens of the group) of each row that counts, before any mask."""
    of = trajectories(rows, objective)
    advantage = advantages(rows, objective)
    tokens: dict[str, int] = {}
    for (group, _), numbers in of.items():
        tokens[group] = tokens.get(group, 0) + sum(len(rows[n].response) for n in numbers)
    return {n: advantage[name] / (len(tokens) * tokens[name[0]]) for name, numbers in of.items() for n in numbers}


def log_probabilities(model: torch.nn.Module, row: Row, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probability of each response token and entropy at each, under the whole vocabulary."""
    device = next(model.parameters()).device
    ids = torch.tensor([row.prompt + row.response], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1].float() / temperature
    every = torch.log_softmax(logits, dim=-1)
    chosen = every[torch.arange(len(row.response)), torch.tensor(row.response, device=device)]
    fixed = every.detach().double()
    return chosen, -(fixed.exp() * fixed).sum(-1).cpu()


@torch.no_grad()
def entropies(model: torch.nn.Module, rows: Sequence[Row], objective: Objective) -> dict[Name, Tensor]:
    """Return the token entropies of each trajectory, its turns one after another, in nats."""
    return {
        name: torch.cat([log_probabilities(model, rows[n], objective.temperature)[1] for n in numbers])
        for name, numbers in trajectories(rows, objective).items()
    }


def indicators(model: torch.nn.Module, rows: Sequence[Row], objective: Objective) -> dict[int, Tensor]:
    """Return the 0/1 indicator of each token of each row that counts."""
    of = trajectories(rows, objective)
    advantage = advantages(rows, objective)
    entropy = entropies(model, rows, objective)
    result = {}
    batch = fmean(float(values.mean()) for values in entropy.values())
    masking = objective.masks_above is not None and batch > objective.masks_above
    for name, numbers in of.items():
        keep = torch.ones(len(entropy[name]))
        if advantage[name] < 0 and masking:
            keep[:] = 0
        if advantage[name] < 0 and objective.clip is not None:
            level, side, threshold = objective.clip
            measured = entropy[name] if level == "token" else entropy[name].mean().expand(len(keep))
            keep[(measured > threshold) if side == "high" else (measured < threshold)] = 0
        parts = keep.split([len(rows[n].response) for n in numbers])
        result |= dict(zip(numbers, parts, strict=True))
    return result


def gradient(model: torch.nn.Module, rows: Sequence[Row], objective: Objective) -> dict[str, Tensor]:
    """Return the gradient of the loss -J of each parameter, float64 on the CPU."""
    weight = token_weights(rows, objective)
    indicator = indicators(model, rows, objective)
    total = {
        name: torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        for name, value in model.named_parameters()
    }
    for number, row in enumerate(rows):
        if number not in weight:
            continue
        chosen, _ = log_probabilities(model, row, objective.temperature)
        ratio = torch.tensor(row.shift, dtype=torch.float64).exp() if objective.shifted else torch.ones(len(row.shift))
        factor = (weight[number] * indicator[number].double() * ratio).to(chosen.device)
        model.zero_grad(set_to_none=True)
        # d rho / d theta = rho * d log pi / d theta.
        (-factor.to(chosen.dtype) * chosen).sum().backward()
        for name, value in model.named_parameters():
            if value.grad is not None:
                total[name] += value.grad.double()
    return {name: value.cpu() for name, value in total.items()}
