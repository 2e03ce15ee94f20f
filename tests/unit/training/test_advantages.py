"""Advantages against a loop reference in exact arithmetic, and the cases that floats get wrong."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training.advantages import estimate, estimate_trajectories

KINDS = ("grpo", "batch_std", "task_std")


def reference(rewards: list[float], groups: list, tasks: list, kind: str) -> list[float]:
    """Eqs. 3 and 7, one rollout at a time; means and variances are exact fractions."""
    values = [Fraction(value) for value in rewards]
    result = []
    for row in range(len(values)):
        group = [values[i] for i in range(len(values)) if groups[i] == groups[row]]
        scope = {
            "grpo": group,
            "batch_std": values,
            "task_std": [values[i] for i in range(len(values)) if tasks[i] == tasks[row]],
        }[kind]
        if max(group) == min(group) or max(scope) == min(scope):
            result.append(0.0)
            continue
        mean = sum(scope) / len(scope)
        variance = sum((value - mean) ** 2 for value in scope) / (len(scope) - 1)
        deviation = values[row] - sum(group) / len(group)
        # sqrt of a fraction that may lie outside the range of floats
        ratio = deviation * deviation / variance
        result.append(math.copysign(math.sqrt(ratio), deviation) if deviation else 0.0)
    return result


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[float], list, list]:
    scale = draw(st.sampled_from([1.0, 1e-200, 1e200, 2.0**-40]))
    offset = draw(st.sampled_from([0.0, 0.0, 1e6]))
    rows = []
    for group in range(draw(st.integers(1, 4))):
        task = draw(st.sampled_from("abc"))
        reward = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32, allow_subnormal=False))
        for value in draw(st.lists(reward, min_size=2, max_size=5)):
            rows.append(((value + offset) * scale, (task, group), task))
    rows = draw(st.permutations(rows))
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


@settings(max_examples=150, deadline=None)
@given(batches(), st.sampled_from(KINDS))
def test_agrees_with_exact_reference(batch: tuple, kind: str) -> None:
    rewards, groups, tasks = batch
    found = estimate(torch.tensor(rewards, dtype=torch.float64), groups, tasks, kind)
    assert found.dtype == torch.float64
    torch.testing.assert_close(
        found, torch.tensor(reference(rewards, groups, tasks, kind), dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e300, 1e-310, -7.3])
def test_equal_rewards_give_exactly_zero(kind: str, value: float) -> None:
    # Seven times 0.1: the computed mean is not 0.1, and the computed std not 0.
    found = estimate(torch.full((7,), value, dtype=torch.float64), ["g"] * 7, ["t"] * 7, kind)
    assert found.tolist() == [0.0] * 7


def test_group_of_equal_rewards_is_zero_in_a_spread_batch() -> None:
    found = estimate(torch.tensor([0.1, 0.1, 0.1, 0.0, 1.0]), [1, 1, 1, 2, 2], ["t"] * 5, "batch_std")
    assert found[:3].tolist() == [0.0, 0.0, 0.0]
    assert found[3] < 0 < found[4]


@pytest.mark.parametrize("kind", KINDS)
def test_smallest_spread_is_a_spread(kind: str) -> None:
    rewards = torch.tensor([1.0, math.nextafter(1.0, 2.0)], dtype=torch.float64)
    found = estimate(rewards, ["g", "g"], ["t", "t"], kind)
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0], dtype=torch.float64) / math.sqrt(2))


def test_extreme_magnitudes_do_not_overflow() -> None:
    rewards = torch.tensor([-1.7e308, 1.7e308, 5e-324, 0.0], dtype=torch.float64)
    found = estimate(rewards, [0, 0, 1, 1], ["a", "a", "b", "b"], "task_std")
    expected = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_any_reward_dtype(dtype: torch.dtype) -> None:
    found = estimate(torch.tensor([0, 1, 1, 0]).to(dtype), [0, 0, 1, 1], ["t"] * 4, "grpo")
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64) / math.sqrt(2))


def test_labels_of_any_hashable_type() -> None:
    rewards = torch.tensor([0.0, 1.0, 0.0, 1.0])
    plain = estimate(rewards, ["x", "x", "y", "y"], ["t"] * 4, "grpo")
    for groups in ([(1, "a"), (1, "a"), None, None], torch.tensor([3, 3, 5, 5]), list(torch.tensor([3, 3, 5, 5]))):
        assert torch.equal(estimate(rewards, groups, ["t"] * 4, "grpo"), plain)


@pytest.mark.parametrize(
    ("rewards", "groups", "tasks", "kind", "message"),
    [
        ([], [], [], "grpo", "empty"),
        ([1.0, 0.0], ["a", "b"], ["t", "t"], "grpo", "one rollout"),
        ([1.0, 0.0], ["a", "a"], ["t", "u"], "grpo", "more than one task"),
        ([1.0, math.nan], ["a", "a"], ["t", "t"], "grpo", r"rewards\[1\] = nan"),
        ([math.inf, 0.0], ["a", "a"], ["t", "t"], "batch_std", r"rewards\[0\] = inf"),
        ([1.0, 0.0], ["a"], ["t", "t"], "grpo", "one of each"),
        ([1.0, 0.0], ["a", "a"], ["t"], "grpo", "one of each"),
        ([[1.0, 0.0]], ["a", "a"], ["t", "t"], "grpo", "shape"),
        ([1.0, 0.0], [["a"], ["a"]], ["t", "t"], "grpo", "not hashable"),
        ([1.0, 0.0], ["a", "a"], ["t", "t"], "gae", "no advantage kind"),
    ],
)
def test_refusals(rewards: list, groups: list, tasks: list, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(torch.tensor(rewards), groups, tasks, kind)


def test_trajectory_counts_once_however_many_turns() -> None:
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, math.nan])
    trajectories = ["p", "p", "p", "q", "r", "pad"]
    valid = torch.tensor([1, 1, 1, 1, 1, 0])
    found = estimate_trajectories(rewards, trajectories, ["g"] * 5 + ["pad"], ["t"] * 6, "grpo", valid)
    once = estimate(torch.tensor([1.0, 0.0, 0.0]), ["g"] * 3, ["t"] * 3, "grpo")
    assert found.tolist() == [once[0]] * 3 + [once[1], once[2], 0.0]


def test_trajectory_refusals() -> None:
    with pytest.raises(ValueError, match="more than one reward"):
        estimate_trajectories(torch.tensor([1.0, 0.0, 0.0]), ["p", "p", "q"], ["g"] * 3, ["t"] * 3)
    with pytest.raises(ValueError, match="more than one group"):
        estimate_trajectories(torch.tensor([1.0, 1.0, 0.0]), ["p", "p", "q"], ["g", "h", "g"], ["t"] * 3)
    with pytest.raises(ValueError, match="one rollout"):
        estimate_trajectories(torch.tensor([1.0, 1.0]), ["p", "p"], ["g"] * 2, ["t"] * 2)
    with pytest.raises(ValueError, match="nan"):
        estimate_trajectories(torch.tensor([math.nan, math.nan, 0.0]), ["p", "p", "q"], ["g"] * 3, ["t"] * 3)
