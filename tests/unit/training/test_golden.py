"""Numbers worked out by hand, and the whole of `plan` against a loop over fractions. Nothing tested is called here."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.config import AEPOConfig, ClippingConfig, StageConfig
from qwenlong.training.advantages import estimate, estimate_trajectories
from qwenlong.training.aepo import EntropyController, batch_entropy
from qwenlong.training.batch import Rows, plan
from qwenlong.training.clipping import negative_mask
from qwenlong.training.losses import group_token_weights, policy_gradient

HALF = 0.7071067811865476  # 1 / sqrt(2): two rewards x < y have std (y - x) / sqrt(2), and lie (y - x) / 2 off the mean

# Two groups of a sparse task, one of them all right; one group of a dense task; one lone group of a third task.
REWARDS = [0.0, 1.0, 1.0, 1.0, 0.25, 0.75, 0.0, 1.0]
GROUPS = ["m1", "m1", "m2", "m2", "d1", "d1", "n1", "n1"]
TASKS = ["choice"] * 4 + ["dialogue"] * 2 + ["number"] * 2
LENGTHS = [2, 3, 1, 1, 4, 4, 1, 9]

ADVANTAGES = {
    # Each group by its own spread: the all-right group has none.
    "grpo": [-HALF, HALF, 0, 0, -HALF, HALF, -HALF, HALF],
    # All eight: mean 5/8, squares (2 x 25 + 4 x 9 + 9 + 1) / 64 = 3/2, over 7: 3/14. 0.5 / sqrt(3/14) = sqrt(7/6).
    "batch_std": [-1.0801234497346435, 1.0801234497346435, 0, 0, -0.5400617248673217, 0.5400617248673217]
    + [-1.0801234497346435, 1.0801234497346435],
    # choice: 0, 1, 1, 1 has mean 3/4, squares 9/16 + 3/16 = 12/16, over 3: 1/4; 0.5 / 0.5 = 1. The others as in grpo.
    "task_std": [-1, 1, 0, 0, -HALF, HALF, -HALF, HALF],
}


def make(
    rewards: list[float],
    groups: list[str],
    tasks: list[str],
    entropies: list[list[float]],
    **columns: Any,
) -> Rows:
    """Rows whose values outside the response are NaN."""
    n, width = len(rewards), max(1, *map(len, entropies))
    entropy = torch.full((n, width), math.nan)
    mask = torch.zeros(n, width, dtype=torch.bool)
    for i, values in enumerate(entropies):
        entropy[i, : len(values)] = torch.tensor(values)
        mask[i, : len(values)] = True
    plain = {
        "trajectory": [f"t{i}" for i in range(n)],
        "turn": [0] * n,
        "dropped": [False] * n,
        "padding": [False] * n,
    }
    return Rows(
        group=groups,
        task=tasks,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        entropies=entropy,
        response_mask=mask,
        **(plain | columns),
    )


def flat(lengths: list[int], entropy: float = 1.0) -> list[list[float]]:
    return [[entropy] * length for length in lengths]


def column(weights: torch.Tensor, lengths: list[int]) -> list[float]:
    """The one weight that all tokens of a row have, 0 beyond them."""
    for i, length in enumerate(lengths):
        assert len(set(weights[i, :length].tolist())) <= 1 and not weights[i, length:].any()
    return [float(weights[i, 0]) for i in range(len(lengths))]


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_advantages_by_hand(kind: str) -> None:
    found = estimate(torch.tensor(REWARDS), GROUPS, TASKS, kind)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(ADVANTAGES[kind], abs=1e-15)
    # Labels as arrays, tensors or tuples, rewards that lie apart in memory: the same bits.
    numbers = [GROUPS.index(group) for group in GROUPS]
    apart = torch.tensor([[reward, math.nan] for reward in REWARDS])[:, 0]
    for groups in (np.array(GROUPS), np.array(numbers), torch.tensor(numbers), [("g", n) for n in numbers]):
        assert torch.equal(estimate(apart, groups, np.array(TASKS, dtype=object), kind), found)


def test_one_task_only_is_batch_std() -> None:
    # 0, 1, 0.5, 1: mean 5/8, squares 25 + 9 + 1 + 9 = 44 over 64, over 3: 11/48. 0.5 / sqrt(11/48) = sqrt(12/11).
    rewards = torch.tensor([0.0, 1.0, 0.5, 1.0])
    expected = [-1.0444659357341866, 1.0444659357341866, -0.5222329678670933, 0.5222329678670933]
    for kind in ("task_std", "batch_std"):
        assert estimate(rewards, [1, 1, 2, 2], ["t"] * 4, kind).tolist() == pytest.approx(expected, abs=1e-15)


def test_a_task_of_equal_groups_gives_zero_and_a_mixed_one_does_not() -> None:
    # Task a: a group of zeros and a group of ones. Its std is not 0, each group's is, and so are all advantages.
    rewards = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    for kind in ("grpo", "batch_std", "task_std"):
        assert estimate(rewards, [1, 1, 2, 2, 3, 3], list("aaaabb"), kind).tolist()[:4] == [0.0] * 4


def test_needle_ratios_by_hand() -> None:
    # 1, 3/4, 1/2, 3/4: mean 3/4, squares 2/16, over 3: 1/24; 1/4 x sqrt(24) = sqrt(3/2).
    found = estimate(torch.tensor([1.0, 0.75, 0.5, 0.75]), ["g"] * 4, ["dialogue_memory"] * 4, "task_std")
    assert found.tolist() == pytest.approx([1.224744871391589, 0, -1.224744871391589, 0], abs=1e-15)


def test_trajectories_of_one_to_five_turns_by_hand() -> None:
    # Question p: rewards 1 (5 turns) and 0 (1 turn); question q: 1/2 (2 turns) and 0 (3 turns); then a row that pads.
    turns = [5, 1, 2, 3]
    rewards = [value for value, n in zip([1.0, 0.0, 0.5, 0.0], turns, strict=True) for _ in range(n)]
    names = [name for name, n in zip("abcd", turns, strict=True) for _ in range(n)]
    questions = [name for name, n in zip("ppqq", turns, strict=True) for _ in range(n)]
    expected = [v for v, n in zip([HALF, -HALF, HALF, -HALF], turns, strict=True) for _ in range(n)]
    found = estimate_trajectories(
        torch.tensor([*rewards, math.nan]), [*names, "-"], [*questions, "-"], ["t"] * 12, "grpo",
        torch.tensor([1.0] * 11 + [0.0]),
    )  # fmt: skip
    assert found.tolist() == pytest.approx([*expected, 0.0], abs=1e-15)
    # Rows are as long as their number in the trajectory: a has 1 + 2 + 3 + 4 + 5 = 15 tokens, b 1; c 3, d 6.
    lengths = [i + 1 for n in turns for i in range(n)]
    rows = make(
        [*rewards, 7.0], [*questions, "p"], ["t"] * 12, flat([*lengths, 128]),
        trajectory=[*names, "-"], turn=[i for n in turns for i in range(n)] + [0], padding=[False] * 11 + [True],
    )  # fmt: skip
    result = plan(rows, StageConfig(advantage="grpo", balanced=False, aepo=None), None)
    # Two questions: p's tokens weigh 1 / (2 x 16), q's 1 / (2 x 9).
    by_row = [v / 32 for v in expected[:6]] + [v / 18 for v in expected[6:]]
    assert column(result.weights[:11], lengths) == pytest.approx(by_row, rel=1e-6)
    assert not result.weights[11].any()
    # 25 tokens: of 11 turns, of 4 rollouts; what only fills up counts nowhere.
    assert result.metrics["response_length/mean"] == pytest.approx(25 / 11, rel=1e-7)
    assert result.metrics["response_length/t/mean"] == 6.25 and result.metrics["rollout/trajectories"] == 4


def test_a_whole_batch_by_hand() -> None:
    # Four groups of 5, 2, 8 and 10 tokens: A / 20, A / 8, A / 32, A / 40.
    stage = StageConfig(aepo=AEPOConfig(low=0.5, high=2.0))
    result = plan(make(REWARDS, GROUPS, TASKS, flat(LENGTHS)), stage, EntropyController(0.5, 2.0))
    expected = [-0.05, 0.05, 0, 0, -HALF / 32, HALF / 32, -HALF / 40, HALF / 40]
    assert column(result.weights, LENGTHS) == pytest.approx(expected, rel=1e-6)
    assert not result.empty and result.metrics["aepo/masked"] == 0.0
    assert result.metrics["reward/choice/mean"] == 0.75 and result.metrics["reward/choice/std"] == 0.5


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [
        ("kept", [0, 0.05, 0, 0, 0, HALF / 32, 0, HALF / 40]),
        # What survives: 3 tokens, 1 + 1, 4 and 9, in four groups still.
        ("surviving", [0, 1 / 12, 0, 0, 0, HALF / 16, 0, HALF / 36]),
    ],
)
def test_the_same_batch_masked(denominator: Any, expected: list[float]) -> None:
    stage = StageConfig(aepo=AEPOConfig(low=0.5, high=2.0, denominator=denominator))
    result = plan(make(REWARDS, GROUPS, TASKS, flat(LENGTHS, 2.5)), stage, EntropyController(0.5, 2.0))
    assert column(result.weights, LENGTHS) == pytest.approx(expected, rel=1e-6)
    # 3 of 8 rollouts, 2 + 4 + 1 of 25 tokens; how long responses are does not depend on what is masked.
    assert result.metrics["aepo/masked_share"] == 0.375
    assert result.metrics["clipping/token_share"] == pytest.approx(7 / 25)
    assert result.metrics["response_length/mean"] == 25 / 8


def test_released_variant_by_hand() -> None:
    # Inside its band: rows of zero advantage, of zero reward and negative ones go; left are 1, 5 and 7.
    config = AEPOConfig(low=0.5, high=2.0, variant="released", denominator="surviving")
    rows = make(REWARDS, GROUPS, TASKS, flat(LENGTHS))
    result = plan(rows, StageConfig(aepo=config), EntropyController(0.5, 2.0))
    # Three groups are left, with 3, 4 and 9 tokens.
    expected = [0, 1 / 9, 0, 0, 0, HALF / 12, 0, HALF / 27]
    assert column(result.weights, LENGTHS) == pytest.approx(expected, rel=1e-6)


def test_entropy_of_the_batch_by_hand_and_exactly_at_the_bounds() -> None:
    # Row means 1, 0.25 and 0.25 -> 0.5; over tokens it would be 2.5 / 7. The second trajectory has two turns.
    entropies = [[1.0], [0.5, 0.5, 0.0], [0.0], [0.5, 0.0]]
    rows = make(
        [1.0, 0.0, 0.0, 1.0], ["g"] * 4, ["t"] * 4, entropies, trajectory=["a", "b", "b", "c"], turn=[0, 0, 1, 0]
    )
    stage = StageConfig(aepo=AEPOConfig(low=0.5, high=0.5))
    controller = EntropyController(0.5, 0.5)
    states = []
    for shift in (0.0, 2.0**-20, 0.0, -(2.0**-20), 0.0):
        moved = Rows(**(vars(rows) | {"entropies": rows.entropies + shift}))
        result = plan(moved, stage, controller)
        assert result.metrics["aepo/entropy"] == 0.5 + shift
        states.append(not bool(result.weights[1].any()))
    # At a bound the state is kept, whichever it is.
    assert states == [False, True, True, False, False]


def test_eleven_by_hand_leaves_out_rows_without_tokens() -> None:
    entropies = torch.tensor([[1.0, math.nan], [math.nan, math.inf], [0.5, 0.0]])
    assert batch_entropy(entropies, torch.tensor([[1, 0], [0, 0], [1, 1]])) == 0.625  # (1 + 0.25) / 2


#: Row 0 is negative with entropies 1, 3 (mean 2), row 1 negative with 0, 1 (mean 0.5), row 2 positive, row 3 is 0.
@pytest.mark.parametrize(
    ("level", "side", "threshold", "expected"),
    [
        ("token", "high", 1.0, [[1, 0], [1, 1], [1, 1], [1, 1]]),
        ("token", "low", 1.0, [[1, 1], [0, 1], [1, 1], [1, 1]]),
        ("sequence", "high", 0.5, [[0, 0], [1, 1], [1, 1], [1, 1]]),
        ("sequence", "low", 2.0, [[1, 1], [0, 0], [1, 1], [1, 1]]),
    ],
)
def test_four_clippings_by_hand(level: Any, side: Any, threshold: float, expected: list[list[int]]) -> None:
    entropies = torch.tensor([[1.0, 3.0], [0.0, 1.0], [9.0, 0.0], [9.0, 0.0]])
    advantages = torch.tensor([-1.0, -0.5, 1.5, 0.0])
    found = negative_mask(advantages, entropies, torch.ones(4, 2), level, side, threshold)
    assert found.tolist() == expected and found.dtype == torch.float32
    # The same for tensors that lie across in memory, and for each kind of mask.
    for dtype in (torch.bool, torch.int8, torch.int64, torch.float16, torch.float64):
        across = negative_mask(
            advantages.double().repeat_interleave(2)[::2],
            entropies.t().contiguous().t(),
            torch.ones(2, 4, dtype=dtype).t(),
            level, side, threshold,
        )  # fmt: skip
        assert torch.equal(across, found)
    # Through the whole chain: group of rewards 0, 0.5, 1.5 and 0.75 (their mean 0.6875 is no reward's).
    stage = StageConfig(
        advantage="grpo", aepo=None, clipping=ClippingConfig(level=level, side=side, threshold=threshold)
    )
    rows = make([0.0, 0.5, 1.5, 0.75], ["g"] * 4, ["t"] * 4, entropies.tolist())
    assert (plan(rows, stage, None).weights != 0).float().tolist() == expected


def test_token_factors_by_hand() -> None:
    # Groups of 2 + 3 and 4 tokens: 1 / (2 x 5) and 1 / (2 x 4); the row without tokens has its group's factor.
    for groups in (["a", "b", "a", "a"], np.array([3, 1, 3, 3]), torch.tensor([0, 5, 0, 0])):
        assert group_token_weights(torch.tensor([2, 4, 3, 0]), groups).tolist() == [0.1, 0.125, 0.1, 0.1]


def test_loss_by_hand() -> None:
    # Ratios e^ln2 = 2 and 1: -(1 x 0.1 x 2 + 1 x 0.1 x 1 - 0.5 x 0.125 x 1) = -0.2375.
    new = torch.tensor([[math.log(2.0), 0.0], [-3.0, math.nan]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[0.0, 0.0], [-3.0, math.nan]], dtype=torch.float64)
    mask = torch.tensor([[1, 1], [1, 0]])
    loss = policy_gradient(new, old, torch.tensor([1.0, -0.5]), torch.tensor([0.1, 0.125], dtype=torch.float64), mask)
    loss.backward()
    assert loss.item() == pytest.approx(-0.2375, abs=1e-15)
    assert new.grad is not None and new.grad.flatten().tolist() == pytest.approx([-0.2, -0.1, 0.0625, 0.0], abs=1e-15)
    nothing = torch.randn(2, 3, requires_grad=True)
    loss = policy_gradient(nothing, nothing, torch.ones(2), torch.ones(2), torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0.0 and nothing.grad is not None and not nothing.grad.any()


# ---- what is dropped, empty or broken ----


def test_a_reward_that_is_not_a_number_is_an_error_unless_it_is_dropped() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"rewards\[1\]"):
            plan(make([1.0, bad], ["g", "g"], ["t", "t"], flat([1, 1])), StageConfig(aepo=None), None)
    rows = make([1.0, bad, 0.0, bad], ["g"] * 4, ["t"] * 4, flat([1] * 4), dropped=[False, True, False, False],
                padding=[False, False, False, True])  # fmt: skip
    expected = [HALF / 2, 0, -HALF / 2, 0]
    assert column(plan(rows, StageConfig(aepo=None), None).weights, [1] * 4) == pytest.approx(expected, rel=1e-6)


def test_drops_excuse_a_lone_rollout_in_their_own_group_only() -> None:
    rows = make([1.0, 0.0, 1.0, 0.0, 0.5], ["g", "g", "h", "h", "lone"], ["t"] * 5, flat([1] * 5),
                dropped=[True, False, False, False, False])  # fmt: skip
    with pytest.raises(ValueError, match="'lone' has one rollout"):
        plan(rows, StageConfig(aepo=None), None)


def test_std_and_entropy_are_those_of_what_is_left() -> None:
    # Without the drop in task a: 0, 1 and 1/4, 3/4 with mean 1/2, squares 10/16, over 3: 5/24.
    rows = make(
        [0.0, 1.0, 0.25, 0.75, 1.0, 0.0, 0.5], ["g", "g", "h", "h", "h", "k", "k"], ["a"] * 5 + ["b"] * 2,
        [[1.0], [1.0], [2.0], [2.0], [9.0], [9.0], [9.0]],
        dropped=[False, False, False, False, True, True, False],
    )  # fmt: skip
    stage = StageConfig(aepo=AEPOConfig(low=1.0, high=2.0))
    result = plan(rows, stage, EntropyController(1.0, 2.0))
    step = math.sqrt(24 / 5)
    expected = [-step / 8, step / 8, -step / 16, step / 16, 0, 0, 0]  # two groups of two tokens each
    assert column(result.weights, [1] * 7) == pytest.approx(expected, rel=1e-6)
    assert result.metrics["aepo/entropy"] == 1.5
    assert result.metrics["rollout/dropped"] == 3 and result.metrics["rollout/dropped_groups"] == 1


def test_nothing_left_leaves_the_controller_alone() -> None:
    controller = EntropyController(0.1, 0.2)
    controller.update(0.3)
    rewards, groups, tasks = [1.0, 0.0], ["g", "g"], ["t", "t"]
    for rows in (
        make(rewards, groups, tasks, flat([2, 2], 0.0), dropped=[True, True]),
        make(rewards, groups, tasks, flat([2, 2], 0.0), dropped=[True, False]),
        make(rewards, groups, tasks, [[], []]),
    ):
        result = plan(rows, StageConfig(), controller)
        assert result.empty and result.metrics["aepo/skipped"] == 1.0 and controller.masking
    # A step without a gradient still has an entropy, and the controller follows it.
    assert plan(make([1.0, 1.0], groups, tasks, flat([2, 2], 0.0)), StageConfig(), controller).empty
    assert not controller.masking


def test_a_row_without_tokens_counts_as_a_rollout() -> None:
    # Rewards 1, 0, 0 with the last response empty: std of the three, tokens of the two.
    rows = make([1.0, 0.0, 0.0], ["g"] * 3, ["t"] * 3, [[1.0, 1.0], [1.0, 1.0, 1.0], []])
    expected = [2 / math.sqrt(3) / 5, -1 / math.sqrt(3) / 5, 0]  # std sqrt(1/3), deviations 2/3 and -1/3
    assert column(plan(rows, StageConfig(aepo=None), None).weights, [2, 3, 0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("what", ["reward", "task", "group"])
def test_turns_that_disagree_are_an_error(what: str) -> None:
    columns: dict[str, list[Any]] = {"reward": [1.0, 1.0, 0.0], "group": ["g"] * 3, "task": ["t"] * 3}
    columns[what][1] = 0.5 if what == "reward" else "other"
    rows = make(
        columns["reward"], columns["group"], columns["task"], flat([1] * 3), trajectory=["a", "a", "b"], turn=[0, 1, 0]
    )
    with pytest.raises(ValueError, match=f"'a' has more than one {what}"):
        plan(rows, StageConfig(aepo=None), None)


# ---- everything at once, against a loop over exact fractions ----


def reference(rows: Rows, stage: StageConfig, masking: bool) -> tuple[list[list[float]], bool]:
    """Eqs. 3, 4, 7-9, 11 for one batch; returns weights by row and token, and whether negatives are masked next."""
    runs: dict[str, list[int]] = {}
    for i, name in enumerate(rows.trajectory):
        if not rows.padding[i]:
            runs.setdefault(name, []).append(i)
    lost = {rows.group[parts[0]] for parts in runs.values() if any(rows.dropped[i] for i in parts)}
    runs = {name: parts for name, parts in runs.items() if not any(rows.dropped[i] for i in parts)}
    count = {g: sum(rows.group[parts[0]] == g for parts in runs.values()) for g in set(rows.group)}
    runs = {
        n: parts for n, parts in runs.items() if count[rows.group[parts[0]]] > 1 or rows.group[parts[0]] not in lost
    }
    out = [[0.0] * rows.entropies.shape[1] for _ in rows.trajectory]
    if not runs:
        return out, masking

    group = {n: rows.group[parts[0]] for n, parts in runs.items()}
    task = {n: rows.task[parts[0]] for n, parts in runs.items()}
    reward = {n: Fraction(float(rows.rewards[parts[0]])) for n, parts in runs.items()}
    tokens = {
        n: [(i, t, Fraction(float(rows.entropies[i, t]))) for i in parts for t in range(rows.entropies.shape[1])
            if rows.response_mask[i, t]]
        for n, parts in runs.items()
    }  # fmt: skip
    advantage = {}
    for n in runs:
        own = [reward[m] for m in runs if group[m] == group[n]]
        scope = {"grpo": own, "batch_std": list(reward.values()),
                 "task_std": [reward[m] for m in runs if task[m] == task[n]]}[stage.advantage]  # fmt: skip
        mean = sum(scope) / len(scope)
        variance = sum((r - mean) ** 2 for r in scope) / (len(scope) - 1)
        deviation = reward[n] - sum(own) / len(own)
        advantage[n] = float(deviation) / math.sqrt(variance) if deviation and variance else 0.0
    level = {n: sum(e for _, _, e in tokens[n]) / len(tokens[n]) for n in runs}
    if stage.aepo is not None:
        entropy = sum(level.values()) / len(level)
        masking = entropy > stage.aepo.high or (masking and not entropy < stage.aepo.low)
    alive = {n: not (masking and stage.aepo is not None and advantage[n] < 0) for n in runs}

    shrinks = stage.aepo is not None and stage.aepo.denominator == "surviving"
    size = {g: sum(len(tokens[n]) for n in runs if group[n] == g and (alive[n] or not shrinks)) for g in group.values()}
    groups = sum(n > 0 for n in size.values())
    for n in runs:
        for i, t, e in tokens[n]:
            keep = alive[n]
            if stage.clipping is not None and advantage[n] < 0:
                measured = e if stage.clipping.level == "token" else level[n]
                high = stage.clipping.side == "high"
                beyond = measured > stage.clipping.threshold if high else measured < stage.clipping.threshold
                keep = not beyond
            out[i][t] = advantage[n] / (groups * size[group[n]]) if keep else 0.0
    return out, masking


@st.composite
def batches(draw: st.DrawFn) -> Rows:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("rewards", "group", "task", "trajectory", "turn", "dropped", "padding", "entropies")
    }

    def row(*values: Any) -> None:
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)

    # Row means of 1, 2 or 4 eighths are exact in every precision, so that ties are ties.
    eighths = st.integers(0, 8).map(lambda n: n / 8)
    for group in range(draw(st.integers(1, 4))):
        dense = draw(st.booleans())
        for rollout in range(draw(st.integers(2, 4))):
            reward = draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0] if dense else [0.0, 1.0]))
            dropped = draw(st.sampled_from([False, False, False, True]))
            turns = draw(st.integers(1, 5))
            for turn in range(turns):
                # One token a turn, or all in the last, to keep the number of tokens a power of two.
                size = 1 if turns in (2, 4) else (4 if turn == turns - 1 else 0)
                entropy = draw(st.lists(eighths, min_size=size, max_size=size))
                row(
                    reward,
                    f"g{group}",
                    "dense" if dense else "sparse",
                    f"g{group}r{rollout}",
                    turn,
                    dropped,
                    False,
                    entropy,
                )
    if draw(st.booleans()):
        row(math.nan, "g0", "dense", "pad", 0, False, True, [1.0])
    order = draw(st.permutations(range(len(columns["group"]))))
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    return make(
        shuffled.pop("rewards"), shuffled.pop("group"), shuffled.pop("task"), shuffled.pop("entropies"), **shuffled
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(batches(), min_size=1, max_size=3),
    st.sampled_from(["grpo", "batch_std", "task_std"]),
    st.sampled_from(["none", "aepo", "aepo surviving", "token high", "token low", "sequence high", "sequence low"]),
    st.integers(0, 8).map(lambda n: n / 8),
)
def test_plan_agrees_with_the_equations(run: list[Rows], kind: Any, method: str, bound: float) -> None:
    aepo = clipping = None
    if method.startswith("aepo"):
        denominator: Any = "surviving" if "surviving" in method else "kept"
        aepo = AEPOConfig(low=min(bound, 0.4), high=bound, denominator=denominator)
    elif method != "none":
        level, side = method.split()
        clipping = ClippingConfig(level=level, side=side, threshold=bound)  # type: ignore[arg-type]
    stage = StageConfig(advantage=kind, aepo=aepo, clipping=clipping)
    controller = EntropyController(aepo.low, aepo.high) if aepo else None
    masking = False
    for rows in run:
        found = plan(rows, stage, controller)
        expected, masking = reference(rows, stage, masking)
        torch.testing.assert_close(found.weights, torch.tensor(expected), rtol=2e-6, atol=1e-9)
        assert found.empty == (not torch.tensor(expected).any())
        if controller is not None:
            assert controller.masking is masking
