"""The whole chain from rows to per-token weights, against a plain float64 loop written from the equations."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.config import AEPOConfig, ClippingConfig, StageConfig
from qwenlong.training.aepo import EntropyController
from qwenlong.training.batch import Rows, plan, row_entropies, settle_truncated, shuffled


def make(
    rewards, groups, tasks, lengths, entropies=None, turns=None, trajectories=None, dropped=None, padding=None, cut=()
):
    """Rows of given lengths; tokens outside the mask hold NaN, which must never show."""
    n, width = len(rewards), max(lengths)
    mask = torch.zeros(n, width, dtype=torch.bool)
    entropy = torch.full((n, width), float("nan"))
    for i, length in enumerate(lengths):
        mask[i, :length] = True
        entropy[i, :length] = entropies[i] if entropies is not None else 1.0
    return Rows(
        group=groups,
        trajectory=trajectories or [f"t{i}" for i in range(n)],
        turn=turns or [0] * n,
        task=tasks,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        dropped=dropped or [False] * n,
        padding=padding or [False] * n,
        entropies=entropy,
        response_mask=mask,
        truncated=cut,
    )


def reference(rewards, groups, tasks, lengths, kind):
    """A_i / (groups × tokens of the group), one value a row, by loops in float64."""
    by_group, by_task = defaultdict(list), defaultdict(list)
    for reward, group, task in zip(rewards, groups, tasks, strict=True):
        by_group[group].append(reward)
        by_task[task].append(reward)
    tokens = defaultdict(int)
    for length, group in zip(lengths, groups, strict=True):
        tokens[group] += length
    out = []
    for reward, group, task in zip(rewards, groups, tasks, strict=True):
        spread = {"grpo": by_group[group], "batch_std": rewards, "task_std": by_task[task]}[kind]
        flat = max(spread) == min(spread) or max(by_group[group]) == min(by_group[group])
        advantage = 0.0 if flat else (reward - statistics.fmean(by_group[group])) / statistics.stdev(spread)
        out.append(advantage / (len(by_group) * tokens[group]))
    return out


@pytest.mark.parametrize("kind", ["grpo", "batch_std", "task_std"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_weights_follow_the_equations(kind, data):
    group_count = data.draw(st.integers(1, 4))
    size = data.draw(st.integers(2, 4))
    n = group_count * size
    rewards = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n))
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=n, max_size=n))
    groups = [f"g{i % group_count}" for i in range(n)]
    tasks = [("a", "b")[int(g[1]) % 2] for g in groups]
    stage = StageConfig(advantage=kind, aepo=None)
    result = plan(make(rewards, groups, tasks, lengths), stage, None)
    wanted = reference(rewards, groups, tasks, lengths, kind)
    for i, length in enumerate(lengths):
        for t in range(max(lengths)):
            value = float(result.weights[i, t])
            assert math.isclose(value, wanted[i] if t < length else 0.0, rel_tol=1e-5, abs_tol=1e-9)


def test_turns_of_a_trajectory_count_once_and_share_the_advantage():
    # One group, trajectory x of three turns (2+3+1 tokens), y of one (4 tokens): mean and std over two rewards.
    rows = make(
        [1.0, 1.0, 1.0, 0.0], ["g"] * 4, ["a"] * 4, [2, 3, 1, 4],
        trajectories=["x", "x", "x", "y"], turns=[2, 0, 1, 0],
    )  # fmt: skip
    result = plan(rows, StageConfig(advantage="grpo", aepo=None), None)
    unit = (0.5 / statistics.stdev([1.0, 0.0])) / 10
    assert torch.allclose(result.weights[0, :2], torch.full((2,), unit))
    assert torch.allclose(result.weights[1, :3], torch.full((3,), unit))
    assert torch.allclose(result.weights[2, :1], torch.full((1,), unit))
    assert torch.allclose(result.weights[3, :4], torch.full((4,), -unit))
    assert result.metrics["reward/mean"] == 0.5


def test_padding_rows_are_in_no_statistic():
    plain = make([1.0, 0.0], ["g", "g"], ["a", "a"], [2, 3])
    padded = make(
        [1.0, 0.0, 9.0], ["g", "g", "g"], ["a", "a", "a"], [2, 3, 1],
        padding=[False, False, True],
    )  # fmt: skip
    stage = StageConfig(advantage="task_std", aepo=None)
    one, two = plan(plain, stage, None), plan(padded, stage, None)
    assert torch.equal(one.weights, two.weights[:2])
    assert not two.weights[2].any()


def test_aepo_masks_negatives_only_above_the_band_and_until_below_it():
    stage = StageConfig(advantage="grpo", aepo=AEPOConfig(low=0.5, high=1.0))
    controller = EntropyController(0.5, 1.0)

    def negatives(entropy: float) -> bool:
        rows = make([1.0, 0.0], ["g", "g"], ["a", "a"], [2, 2], entropies=[entropy, entropy])
        weights = plan(rows, stage, controller).weights
        assert (weights[0] > 0).all()
        return bool((weights[1] < 0).all())

    assert [negatives(e) for e in (0.9, 1.0, 1.1, 0.7, 0.5, 0.4, 0.9)] == [True, True, False, False, False, True, True]


def test_masked_rows_stay_in_the_denominator_unless_told_otherwise():
    rows = make([1.0, 0.0], ["g", "g"], ["a", "a"], [2, 6], entropies=[2.0, 2.0])
    unit = 0.5 / statistics.stdev([1.0, 0.0])
    for denominator, tokens in (("kept", 8), ("surviving", 2)):
        stage = StageConfig(advantage="grpo", aepo=AEPOConfig(low=0.5, high=1.0, denominator=denominator))
        weights = plan(rows, stage, EntropyController(0.5, 1.0)).weights
        assert torch.allclose(weights[0, :2], torch.full((2,), unit / tokens))
        assert not weights[1].any()


def test_sequence_clipping_keeps_equality_and_positive_rows():
    stage = StageConfig(advantage="grpo", aepo=None, clipping=ClippingConfig(threshold=1.0))
    rows = make([1.0, 0.0, 0.0], ["g"] * 3, ["a"] * 3, [1, 1, 1], entropies=[5.0, 1.0, 1.5])
    weights = plan(rows, stage, None).weights
    assert weights[0, 0] > 0 and weights[1, 0] < 0 and weights[2, 0] == 0


def test_an_outage_drops_the_rollout_and_a_group_left_alone():
    rows = make(
        [1.0, 0.0, 1.0, 0.0, 0.0], ["g", "g", "h", "h", "h"], ["a"] * 5, [1] * 5,
        dropped=[True, False, False, False, True],
    )  # fmt: skip
    result = plan(rows, StageConfig(advantage="grpo", aepo=None), None)
    assert not result.weights[0].any() and not result.weights[1].any() and not result.weights[4].any()
    # Only group h counts, with two tokens left.
    assert math.isclose(float(result.weights[2, 0]), 0.5 / statistics.stdev([1.0, 0.0]) / 2, rel_tol=1e-6)
    assert result.metrics["rollout/dropped"] == 3


def test_nothing_to_learn_from_is_an_empty_plan():
    assert plan(make([1.0, 1.0], ["g", "g"], ["a", "a"], [1, 1]), StageConfig(aepo=None), None).empty
    rows = make([1.0, 0.0], ["g", "g"], ["a", "a"], [1, 1], dropped=[True, True])
    assert plan(rows, StageConfig(aepo=None), None).empty


def test_a_group_of_one_is_an_error():
    with pytest.raises(ValueError, match="group"):
        plan(make([1.0], ["g"], ["a"], [1]), StageConfig(aepo=None), None)


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_shuffled_rewards_are_the_same_ones_elsewhere(seed, trajectories):
    turns = [turn for _ in range(trajectories) for turn in (0, 1)]
    names = [f"t{i}" for i in range(trajectories) for _ in (0, 1)]
    rewards = [float(i) for i in range(trajectories) for _ in (0, 1)]
    rows = make(
        [*rewards, 90.0, 91.0],
        ["g"] * (2 * trajectories + 2),
        ["a"] * (2 * trajectories + 2),
        [2] * (2 * trajectories + 2),
        turns=[*turns, 0, 0],
        trajectories=[*names, "dropped", "padding"],
        dropped=[False] * (2 * trajectories) + [True, False],
        padding=[False] * (2 * trajectories + 1) + [True],
    )
    moved = shuffled(rows, seed)
    assert moved.rewards[-2:].tolist() == [90.0, 91.0]
    first, second = moved.rewards[:-2:2].tolist(), moved.rewards[1:-2:2].tolist()
    assert first == second and sorted(first) == [float(i) for i in range(trajectories)]
    assert torch.equal(shuffled(rows, seed).rewards, moved.rewards)
    assert rows.rewards[:2].tolist() == [0.0, 0.0], "the rows given are left as they are"


def test_shuffling_moves_rewards_across_groups_and_tasks():
    rows = make([1.0, 1.0, 0.0, 0.0], ["g", "g", "h", "h"], ["a", "a", "b", "b"], [1, 1, 1, 1])
    assert any(len(set(shuffled(rows, seed).rewards[:2].tolist())) == 2 for seed in range(20))


def test_the_policies_for_truncated_trajectories():
    # Group g: x of two turns, the first cut off; y and z whole. Group h: one of two cut off. The last row is padding.
    rows = make(
        rewards=[1.0, 1.0, 0.0, 0.5, 1.0, 0.0, 1.0],
        groups=["g", "g", "g", "g", "h", "h", "g"],
        tasks=["a"] * 7,
        lengths=[2, 1, 4, 3, 2, 2, 1],
        turns=[0, 1, 0, 0, 0, 0, 0],
        trajectories=["x", "x", "y", "z", "v", "w", "pad"],
        padding=[False] * 6 + [True],
        cut=[True, False, False, False, True, False, True],
    )
    stage = StageConfig(advantage="grpo", aepo=None)
    kept, counted = settle_truncated(rows, "keep")
    assert kept is rows
    assert counted == {"rollout/truncated": 2.0, "rollout/truncated_share": 0.4}

    zeroed, again = settle_truncated(rows, "zero_reward")
    assert again == counted
    # Both turns of x and v lose it; the padding row is left alone.
    assert zeroed.rewards.tolist() == [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 1.0]
    assert plan(zeroed, stage, None).metrics["reward/mean"] == pytest.approx(0.1)

    dropped, _ = settle_truncated(rows, "drop")
    assert dropped.dropped == [True, True, False, False, True, False, False]
    result = plan(dropped, stage, None)
    # v is cut off, so that w alone is no group: y and z are what is left, with 7 tokens in one group.
    wanted = reference([0.0, 0.5], ["g", "g"], ["a", "a"], [4, 3], "grpo")
    assert [float(result.weights[i, 0]) for i in range(7)] == pytest.approx([0, 0, *wanted, 0, 0, 0])
    assert result.metrics["rollout/dropped"] == 3


def test_rows_without_the_flag_are_none_truncated_and_all_may_be():
    rows = make([0.0, 1.0], ["g", "g"], ["a", "a"], [1, 1])
    assert settle_truncated(rows, "drop") == (rows, {"rollout/truncated": 0.0, "rollout/truncated_share": 0.0})
    everything, counted = settle_truncated(make([0.0, 1.0], ["g", "g"], ["a", "a"], [1, 1], cut=[True, True]), "drop")
    result = plan(everything, StageConfig(aepo=None), None)
    assert counted["rollout/truncated_share"] == 1.0 and result.empty and result.metrics["rollout/dropped"] == 2


@pytest.mark.parametrize("loss", ["dapo", "gspo", "clip_cov"])
def test_verls_own_losses_get_masked_advantages_undivided(loss):
    rewards, groups, lengths = [1.0, 0.0, 0.0, 1.0], ["g", "g", "h", "h"], [2, 3, 1, 4]
    rows = make(rewards, groups, ["a"] * 4, lengths, entropies=[0.5] * 4)
    stage = StageConfig(advantage="grpo", loss=loss, aepo=AEPOConfig(low=0.1, high=0.2))
    result = plan(rows, stage, EntropyController(0.1, 0.2))
    # Sample std of (1, 0) is 1/sqrt 2. The entropy 0.5 lies above the band: negative rows are masked.
    up = 0.5 * math.sqrt(2)
    for i, length in enumerate(lengths):
        wanted = up if rewards[i] else 0.0
        assert result.weights[i, :length].tolist() == pytest.approx([wanted] * length)
        assert not result.weights[i, length:].any()
    assert result.metrics["aepo/masked"] == 1.0


def test_what_became_of_each_row():
    """Advantage of the trajectory on each of its turns, tokens taken out, mean entropy of the row alone."""
    # Trajectories: x (2 + 3 tokens, wrong), y (4, right), z (1, dropped), and a row of padding.
    rows = make(
        [0.0, 0.0, 1.0, 0.0, 0.0],
        ["g"] * 5,
        ["a"] * 5,
        [2, 3, 4, 1, 2],
        entropies=[0.5, 2.0, 3.0, 1.0, 9.0],
        turns=[0, 1, 0, 0, 0],
        trajectories=["x", "x", "y", "z", "p"],
        dropped=[False, False, False, True, False],
        padding=[False, False, False, False, True],
    )
    controller = EntropyController(0.1, 0.2)
    result = plan(rows, StageConfig(aepo=AEPOConfig(low=0.1, high=0.2)), controller)
    half = 0.5 / statistics.stdev([0.0, 1.0])
    assert result.advantages[:3].tolist() == pytest.approx([-half, -half, half])
    assert result.advantages[3:].isnan().all()
    assert result.masked_tokens.tolist() == [2, 3, 0, 0, 0]
    assert row_entropies(rows).tolist() == [0.5, 2.0, 3.0, 1.0, 9.0]
    # Token clipping takes single tokens: those of the second turn lie above the threshold.
    clip = ClippingConfig(level="token", side="high", threshold=1.0)
    result = plan(rows, StageConfig(aepo=None, clipping=clip), None)
    assert result.masked_tokens.tolist() == [0, 3, 0, 0, 0]
    nothing = plan(replace(rows, dropped=[True] * 5), StageConfig(aepo=None), None)
    assert nothing.advantages.isnan().all() and nothing.masked_tokens.tolist() == [0] * 5
