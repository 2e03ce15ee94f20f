"""Batch entropy (Eq. 11), the controller's hysteresis, and the released variant."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training.aepo import EntropyController, batch_entropy, keep_rows, released_mask


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from([torch.bool, torch.int64, torch.float32]),
)
def test_batch_entropy_is_the_mean_of_row_means(seed: int, dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(6, 9, generator=generator) < torch.rand(6, 1, generator=generator)
    mask[2] = False
    mask[0, 4] = True
    entropies = (torch.rand(6, 9, generator=generator) * 3).to(dtype)
    means = []
    for row in range(6):
        values = [float(entropies[row, t]) for t in range(9) if mask[row, t]]
        if values:
            means.append(math.fsum(values) / len(values))
    found = batch_entropy(torch.where(mask, entropies, math.nan).to(dtype), mask.to(mask_dtype))
    assert isinstance(found, float)
    assert found == pytest.approx(math.fsum(means) / len(means), rel=1e-12)


def test_long_and_short_rows_weigh_alike() -> None:
    entropies = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 9.0, 9.0, 9.0]])
    assert batch_entropy(entropies, torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])) == 0.5


def test_batch_entropy_refusals() -> None:
    with pytest.raises(ValueError, match="no row has response tokens"):
        batch_entropy(torch.ones(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no row has response tokens"):
        batch_entropy(torch.ones(0, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="must both"):
        batch_entropy(torch.ones(2, 3), torch.ones(2, 4))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.14, 0.2, 0.25, 0.3, 5.0]), max_size=30))
def test_controller_follows_the_last_crossing(entropies: list[float]) -> None:
    controller = EntropyController(0.14, 0.25)
    for step in range(len(entropies)):
        outside = [value for value in entropies[: step + 1] if value > 0.25 or value < 0.14]
        assert controller.update(entropies[step]) is (bool(outside) and outside[-1] > 0.25)


def test_controller_with_equal_bounds() -> None:
    controller = EntropyController(0.2, 0.2)
    assert [controller.update(value) for value in (0.2, 0.21, 0.2, 0.19, 0.2)] == [False, True, True, False, False]


def test_controller_state_survives_json_and_takes_its_band_from_the_constructor() -> None:
    controller = EntropyController(0.1, 0.2)
    controller.update(0.3)
    resumed = EntropyController(0.4, 0.5)
    resumed.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    assert (resumed.low, resumed.high) == (0.4, 0.5)
    assert resumed.update(0.45) is True
    assert resumed.update(0.39) is False


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refused_entropy_changes_nothing(value: float) -> None:
    controller = EntropyController(0.1, 0.2)
    controller.update(0.3)
    before = controller.state_dict()
    with pytest.raises(ValueError, match="batch entropy is"):
        controller.update(value)
    assert controller.state_dict() == before


def test_controller_refusals() -> None:
    with pytest.raises(ValueError, match="low must not be above high"):
        EntropyController(0.3, 0.2)
    with pytest.raises(ValueError, match="nan"):
        EntropyController(math.nan, 0.2)
    with pytest.raises(ValueError, match="masking = None"):
        EntropyController(0.1, 0.2).load_state_dict({})


def test_released_variant_has_no_memory_and_drops_zeros() -> None:
    advantages = torch.tensor([1.0, -1.0, 0.0])
    inside = [True, False, False]
    outside = [True, True, False]
    for entropy, expected in ((0.05, outside), (0.1, outside), (0.15, inside), (0.2, outside), (0.3, outside)):
        assert keep_rows(advantages, entropy, 0.1, 0.2).tolist() == expected
    rewards = torch.tensor([0.0, 0.5, 0.5])
    assert keep_rows(advantages, 0.3, 0.1, 0.2, rewards).tolist() == [False, True, False]
    assert keep_rows(torch.zeros(3), 0.3, 0.1, 0.2).tolist() == [False] * 3
    with pytest.raises(ValueError):
        keep_rows(advantages, math.nan, 0.1, 0.2)
    mask = released_mask(torch.tensor([True, False]), torch.tensor([[1, 0], [1, 1]]))
    assert mask.dtype == torch.float32 and mask.tolist() == [[1.0, 0.0], [0.0, 0.0]]
