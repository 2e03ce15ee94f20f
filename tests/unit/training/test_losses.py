"""Eq. 4 against a loop, and NaN that must stay under its mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training.losses import group_token_weights, policy_gradient, surviving_token_weights


@st.composite
def grouped_lengths(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    rows = []
    for group in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(0, 50), min_size=1, max_size=4).filter(lambda values: sum(values) > 0))
        rows += [(length, f"g{group}") for length in lengths]
    rows = draw(st.permutations(rows))
    return [row[0] for row in rows], [row[1] for row in rows]


@settings(max_examples=60, deadline=None)
@given(grouped_lengths())
def test_weights_are_one_over_groups_times_tokens(batch: tuple) -> None:
    lengths, groups = batch
    found = group_token_weights(torch.tensor(lengths), groups)
    expected = [
        1 / (len(set(groups)) * sum(n for n, g in zip(lengths, groups, strict=True) if g == group)) for group in groups
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    # Every group weighs the same: all tokens together weigh 1.
    assert float((found * torch.tensor(lengths)).sum()) == pytest.approx(1.0)


def test_weights_refusals() -> None:
    with pytest.raises(ValueError, match="'b' has no response tokens"):
        group_token_weights(torch.tensor([3, 0, 0]), ["a", "b", "b"])
    with pytest.raises(ValueError, match="give one of each"):
        group_token_weights(torch.tensor([3, 1]), ["a"])
    with pytest.raises(ValueError, match="empty"):
        group_token_weights(torch.tensor([]), [])
    with pytest.raises(ValueError, match=r"lengths\[1\] = -1"):
        group_token_weights(torch.tensor([3, -1]), ["a", "a"])
    with pytest.raises(ValueError, match="nan"):
        group_token_weights(torch.tensor([3, math.nan]), ["a", "a"])


def test_surviving_weights_leave_out_empty_groups() -> None:
    assert surviving_token_weights(torch.tensor([3, 0, 0, 1]), ["a", "b", "b", "a"]).tolist() == [0.25, 0.0, 0.0, 0.25]
    assert surviving_token_weights(torch.tensor([0, 0]), ["a", "b"]).tolist() == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([torch.bool, torch.int64, torch.float32, torch.bfloat16]))
def test_loss_and_gradient_agree_with_a_loop(seed: int, mask_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_rows, length = 5, 6
    mask = torch.rand(n_rows, length, generator=generator) < 0.7
    groups = ["a", "b", "a", "b", "a"]
    mask[0, 0] = mask[1, 0] = True
    old = torch.randn(n_rows, length, generator=generator, dtype=torch.float64)
    new = old + 0.1 * torch.randn(n_rows, length, generator=generator, dtype=torch.float64)
    advantages = torch.randn(n_rows, generator=generator, dtype=torch.float64)
    lengths = mask.sum(1)
    weights = group_token_weights(lengths, groups)

    expected, gradient = 0.0, torch.zeros_like(new)
    for group in ("a", "b"):
        tokens = sum(int(lengths[i]) for i in range(n_rows) if groups[i] == group)
        for i in range(n_rows):
            for t in range(length):
                if groups[i] == group and mask[i, t]:
                    term = float(advantages[i]) * math.exp(float(new[i, t] - old[i, t])) / tokens / 2
                    expected -= term
                    gradient[i, t] = -term

    poison = torch.where(mask, 0.0, math.nan)
    log_prob = (new + poison).requires_grad_()
    loss = policy_gradient(log_prob, old + poison, advantages, weights, mask.to(mask_dtype))
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert log_prob.grad is not None
    torch.testing.assert_close(log_prob.grad, gradient)


def test_on_policy_ratio_is_one() -> None:
    log_prob = torch.full((2, 3), -5.0, requires_grad=True)
    mask = torch.ones(2, 3)
    weights = group_token_weights(mask.sum(1), ["g", "g"])
    loss = policy_gradient(log_prob, log_prob, torch.tensor([1.0, -1.0]), weights, mask)
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(log_prob.grad, torch.tensor([[-1 / 6] * 3, [1 / 6] * 3]))


def test_overflow_and_nan_where_nothing_counts() -> None:
    # Row 0: no response tokens and a NaN advantage; row 1: advantage 0 and a ratio of infinity.
    log_prob = torch.tensor([[0.0, 0.0], [1000.0, 0.0]], requires_grad=True)
    loss = policy_gradient(
        log_prob,
        torch.zeros(2, 2),
        torch.tensor([math.nan, 0.0]),
        torch.tensor([math.inf, 0.5]),
        torch.tensor([[0, 0], [1, 1]]),
    )
    loss.backward()
    assert loss.item() == 0.0
    assert log_prob.grad is not None and log_prob.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_micro_batches_add_up() -> None:
    torch.manual_seed(0)
    log_prob, mask = torch.randn(4, 3), torch.ones(4, 3, dtype=torch.bool)
    advantages, weights = torch.randn(4), group_token_weights(mask.sum(1), ["a", "a", "b", "b"])
    old = torch.randn(4, 3)
    whole = policy_gradient(log_prob, old, advantages, weights, mask)
    parts = [
        policy_gradient(log_prob[s], old[s], advantages[s], weights[s], mask[s]) for s in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(whole, sum(parts[1:], parts[0]))


def test_bfloat16_log_probs_are_summed_in_float32() -> None:
    log_prob = torch.zeros(1, 4096, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(1, 4096)
    loss = policy_gradient(log_prob, torch.zeros_like(log_prob), torch.ones(1), torch.full((1,), 1 / 4096), mask)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(-1.0, rel=1e-6)


def test_shapes_are_checked() -> None:
    ok = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"advantages has shape \(3,\)"):
        policy_gradient(ok, ok, torch.zeros(3), torch.zeros(2), ok)
    with pytest.raises(ValueError, match=r"must all be \[N, T\]"):
        policy_gradient(ok, ok, torch.zeros(2), torch.zeros(2), torch.zeros(2, 4))
