"""SCE on one tensor against an element-by-element reference in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_cases import cases

from qwenlong.checkpoints import deltas
from qwenlong.checkpoints.sce import merge_tensor


def reference(base: torch.Tensor, experts: list[torch.Tensor], select_top: float, mode: str) -> tuple[list, list]:
    """SPEC section 5, in fractions: merged values (flat) and coefficients."""
    n, n_experts = base.numel(), len(experts)
    start = [Fraction(value) for value in base.double().flatten().tolist()]
    deltas = [
        [Fraction(value) - origin for value, origin in zip(expert.double().flatten().tolist(), start, strict=True)]
        for expert in experts
    ]
    selected = set(range(n))
    if select_top < 1:
        variances = []
        for i in range(n):
            mean = sum(delta[i] for delta in deltas) / n_experts
            variances.append(sum((delta[i] - mean) ** 2 for delta in deltas) / n_experts)
        k = int(select_top * sum(variance != 0 for variance in variances))
        selected = set(sorted(range(n), key=lambda i: (-variances[i], i))[:k])
    energies = [sum((delta[i] ** 2 for i in selected), Fraction(0)) for delta in deltas]
    total = sum(energies)
    etas = [energy / total for energy in energies] if total else [Fraction(1, n_experts)] * n_experts
    merged = []
    for i in range(n):
        values = [delta[i] if mode == "reference" or i in selected else Fraction(0) for delta in deltas]
        positive = sum(values) >= 0
        survivors = [j for j, value in enumerate(values) if value != 0 and (value > 0) == positive]
        divisor = sum(etas[j] for j in survivors)
        merged.append(start[i] + sum((etas[j] * values[j] for j in survivors), Fraction(0)) / (divisor or 1))
    return merged, etas


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([1.0, 0.9, 0.5, 0.34, 0.1]), st.sampled_from(["reference", "mergekit"]))
def test_agrees_with_exact_reference(case: tuple, select_top: float, mode: str) -> None:
    base, experts = case
    before = [base.clone(), *(expert.clone() for expert in experts)]
    merged, stats = merge_tensor(base, experts, select_top, mode)
    values, etas = reference(base, experts, select_top, mode)
    assert merged.shape == base.shape and merged.dtype == base.dtype
    assert stats["coefficients"] == pytest.approx([float(eta) for eta in etas], abs=1e-14)
    expected = torch.tensor([float(value) for value in values], dtype=torch.float64).reshape(base.shape).to(base.dtype)
    resolution = torch.finfo(base.dtype).eps
    torch.testing.assert_close(merged, expected, rtol=resolution, atol=1e-15)
    assert all(torch.equal(old, new) for old, new in zip(before, [base, *experts], strict=True))


@pytest.mark.parametrize("select_top", [1.0, 0.4])
@pytest.mark.parametrize("mode", ["reference", "mergekit"])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, select_top: float, mode: str) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(40, 11, generator=generator).bfloat16()
    experts = [(base + torch.randn(40, 11, generator=generator) * 0.05).bfloat16() for _ in range(3)]
    whole, stats = merge_tensor(base, experts, select_top, mode)
    monkeypatch.setattr(deltas, "CHUNK", 7)
    parts, part_stats = merge_tensor(base, experts, select_top, mode)
    assert torch.equal(whole, parts)
    assert stats.pop("coefficients") == pytest.approx(part_stats.pop("coefficients"), abs=1e-15)
    assert stats == part_stats


def test_small_deltas_keep_their_true_coefficients() -> None:
    # RL deltas in bf16-sized steps: mergekit's 1e-6 threshold would make these 0.5 and 0.5.
    base = torch.zeros(4, 4)
    _, stats = merge_tensor(base, [base + 3e-9, base + 1e-9])
    assert stats["coefficients"] == pytest.approx([0.9, 0.1], rel=1e-6)
    base = torch.zeros(3, dtype=torch.float64)
    _, stats = merge_tensor(base, [base + 3e-250, base + 1e-250])
    assert stats["coefficients"] == pytest.approx([0.9, 0.1], rel=1e-12)


def test_base_among_the_experts_returns_the_other_exactly() -> None:
    torch.manual_seed(0)
    base = torch.randn(64, 64)
    memory = base + torch.randn(64, 64) * 1e-4
    merged, stats = merge_tensor(base, [base, memory])
    assert torch.equal(merged, memory) and stats["coefficients"] == [0.0, 1.0]


def test_agreeing_experts_are_kept_by_reference_and_reverted_by_mergekit() -> None:
    base = torch.zeros(10)
    one = torch.ones(10)
    two = torch.ones(10)
    two[0] = 3.0
    kept, kept_stats = merge_tensor(base, [one, two], 0.5)
    # One element of non-zero variance: int(0.5 * 1) = 0 selected, so coefficients are uniform.
    assert kept_stats["selected"] == 0.0 and kept_stats["coefficients"] == [0.5, 0.5]
    assert torch.equal(kept, torch.tensor([2.0] + [1.0] * 9))
    lost, lost_stats = merge_tensor(base, [one, two], 0.5, "mergekit")
    assert torch.equal(lost, base) and lost_stats["reverted"] == 1.0
    assert kept_stats["reverted"] == 0.0


def test_exact_zero_sum_counts_as_plus() -> None:
    merged, stats = merge_tensor(torch.zeros(2), [torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])])
    assert merged.tolist() == [1.0, 0.0]
    assert (stats["erased"], stats["reverted"]) == (0.5, 0.0)


def test_equal_experts_have_no_variance_whatever_their_number() -> None:
    values = torch.full((5,), 0.1)
    _, stats = merge_tensor(torch.zeros(5), [values] * 3, 0.5)
    assert stats["selected"] == 0.0


def test_result_can_be_wider_than_the_base() -> None:
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    experts = [torch.tensor([1.001]), torch.tensor([1.001])]
    merged, _ = merge_tensor(base, experts, dtype=torch.float32)
    assert merged.dtype == torch.float32 and torch.equal(merged, experts[0])


def test_threads_do_not_matter() -> None:
    torch.manual_seed(3)
    base = torch.randn(300, 300)
    experts = [base + torch.randn(300, 300) for _ in range(2)]
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(merge_tensor(base, experts, 0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_empty_and_scalar_tensors() -> None:
    merged, stats = merge_tensor(torch.empty(0, 3), [torch.empty(0, 3)] * 2, 0.5)
    assert merged.shape == (0, 3) and stats["coefficients"] == [0.5, 0.5]
    merged, _ = merge_tensor(torch.tensor(1.0), [torch.tensor(2.0), torch.tensor(2.0)])
    assert merged.shape == () and merged.item() == 2.0


@pytest.mark.parametrize(
    ("base", "experts", "options", "message"),
    [
        (torch.zeros(2), [torch.zeros(2)], {}, "at least two"),
        (torch.zeros(2), [torch.zeros(2), torch.zeros(2, 1)], {}, "expert 2 has shape"),
        (torch.zeros(2), [torch.zeros(2)] * 2, {"select_top": 0.0}, "select_top = 0.0"),
        (torch.zeros(2), [torch.zeros(2)] * 2, {"select_top": 1.01}, "select_top"),
        (torch.zeros(2), [torch.zeros(2)] * 2, {"select_top": math.nan}, "select_top"),
        (torch.zeros(2), [torch.zeros(2)] * 2, {"select_mode": "ties"}, "select mode 'ties'"),
        (torch.zeros(2), [torch.tensor([0.0, math.nan]), torch.zeros(2)], {}, "expert 1 has NaN"),
        (torch.tensor([math.inf, 0.0]), [torch.zeros(2)] * 2, {}, "base has NaN or infinite"),
        (torch.zeros(2, dtype=torch.int64), [torch.zeros(2)] * 2, {}, "dtype torch.int64"),
        (torch.zeros(2, dtype=torch.float16), [torch.full((2,), 1e6)] * 2, {}, "overflows torch.float16"),
    ],
)
def test_refusals(base: torch.Tensor, experts: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_tensor(base, experts, **options)
