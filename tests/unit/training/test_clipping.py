"""The indicator of Eq. 9 against a loop over tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training.clipping import negative_mask

#: Values that bfloat16 holds exactly, so that ties are ties in every dtype.
STEPS = st.integers(0, 8).map(lambda number: number / 8)


def reference(advantages: list, entropies: list, mask: list, level: str, side: str, threshold: float) -> list:
    result = []
    for advantage, row, present in zip(advantages, entropies, mask, strict=True):
        kept = [value for value, flag in zip(row, present, strict=True) if flag]
        line = []
        for value, flag in zip(row, present, strict=True):
            if not flag:
                line.append(0.0)
                continue
            measured = value if level == "token" else sum(kept) / len(kept)
            beyond = measured > threshold if side == "high" else measured < threshold
            line.append(0.0 if advantage < 0 and beyond else 1.0)
        result.append(line)
    return result


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from(["high", "low"]),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    st.sampled_from([torch.bool, torch.int32, torch.float32]),
)
def test_agrees_with_a_loop(
    data: st.DataObject, level: str, side: str, dtype: torch.dtype, mask_dtype: torch.dtype
) -> None:
    n_rows, length = data.draw(st.integers(1, 4)), 4  # means over 1, 2 or 4 tokens stay exact
    advantages = data.draw(st.lists(st.sampled_from([-1.0, -1e-30, -0.0, 0.0, 2.0]), min_size=n_rows, max_size=n_rows))
    rows = data.draw(st.lists(st.lists(STEPS, min_size=length, max_size=length), min_size=n_rows, max_size=n_rows))
    counts = data.draw(st.lists(st.sampled_from([0, 1, 2, 4]), min_size=n_rows, max_size=n_rows))
    mask = [[column < count for column in range(length)] for count in counts]
    threshold = data.draw(STEPS)
    poisoned = [[v if m else math.nan for v, m in zip(r, p, strict=True)] for r, p in zip(rows, mask, strict=True)]
    found = negative_mask(
        torch.tensor(advantages),
        torch.tensor(poisoned).to(dtype),
        torch.tensor(mask).to(mask_dtype),
        level,
        side,
        threshold,
    )
    assert found.dtype == torch.float32
    assert found.tolist() == reference(advantages, rows, mask, level, side, threshold)


@pytest.mark.parametrize("side", ["high", "low"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_equality_keeps_also_where_the_threshold_is_no_binary_fraction(level: str, side: str) -> None:
    entropies = torch.full((1, 3), 0.3)
    found = negative_mask(torch.tensor([-1.0]), entropies, torch.ones(1, 3), level, side, 0.3)
    assert found.tolist() == [[1.0, 1.0, 1.0]]


def test_one_step_beyond_is_dropped() -> None:
    above = torch.nextafter(torch.tensor(0.3), torch.tensor(1.0))
    found = negative_mask(torch.tensor([-1.0]), above.expand(1, 2), torch.ones(1, 2), "token", "high", 0.3)
    assert found.tolist() == [[0.0, 0.0]]


def test_row_without_tokens_and_with_nan_advantage_is_zero() -> None:
    found = negative_mask(
        torch.tensor([math.nan, -1.0]),
        torch.tensor([[math.nan, math.nan], [math.inf, 9.0]]),
        torch.tensor([[0, 0], [0, 1]]),
        "sequence",
        "high",
        1.0,
    )
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("level", "side", "threshold", "message"),
    [("row", "high", 1.0, "level 'row'"), ("token", "up", 1.0, "side 'up'"), ("token", "low", math.nan, "NaN")],
)
def test_refusals(level: str, side: str, threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        negative_mask(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2), level, side, threshold)
    with pytest.raises(ValueError, match="must be"):
        negative_mask(torch.zeros(2), torch.zeros(1, 2), torch.ones(1, 2), "token", "high", 1.0)


def test_threshold_of_minus_infinity_masks_every_negative_row() -> None:
    # AEPO's mask: Eq. 8 without a condition on the entropy.
    advantages = torch.tensor([-1.0, 0.0, 1.0])
    found = negative_mask(advantages, torch.zeros(3, 2), torch.ones(3, 2), "sequence", "high", -math.inf)
    assert found.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
