"""Linear, task arithmetic, TIES and DARE-TIES on one tensor against element-by-element references in fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_cases import cases

from qwenlong.checkpoints import deltas as shared
from qwenlong.checkpoints.methods import dare_ties, linear, task_arithmetic, ties
from qwenlong.core import seeds

Fractions = list[list[Fraction]]


def numbers(tensor: torch.Tensor) -> list[Fraction]:
    return [Fraction(value) for value in tensor.double().flatten().tolist()]


def deltas_of(base: torch.Tensor, experts: list[torch.Tensor]) -> Fractions:
    start = numbers(base)
    return [[value - origin for value, origin in zip(numbers(expert), start, strict=True)] for expert in experts]


def elected(
    base: torch.Tensor, changed: Fractions, kept: Fractions, masks: list[list[bool]], scale: Fraction
) -> tuple[list[Fraction], dict[str, Any]]:
    """Sign election and disjoint mean, one element after the other, with what the statistics must say."""
    merged, weights = [], [[] for _ in kept]  # type: ignore[var-annotated]
    n_erased = n_nonzero = n_reverted = 0
    for i, origin in enumerate(numbers(base)):
        column = [delta[i] for delta in kept]
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [j for j, value in enumerate(column) if value * sign > 0]
        mean = sum((column[j] for j in agreeing), Fraction(0)) / (len(agreeing) or 1)
        merged.append(origin + scale * mean)
        n_nonzero += sum(value != 0 for value in column)
        n_erased += sum(value * sign < 0 for value in column)
        n_reverted += not agreeing and any(delta[i] != 0 for delta in changed)
        if agreeing:
            for j, own in enumerate(weights):
                own.append(scale / len(agreeing) if j in agreeing else Fraction(0))
    n = base.numel()
    moved = len(weights[0])
    return merged, {
        "elements": n,
        "coefficients": [float(sum(own) / moved if moved else scale / len(kept)) for own in weights],
        "selected": sum(any(mask[i] for mask in masks) for i in range(n)) / n,
        "erased": n_erased / n_nonzero if n_nonzero else 0.0,
        "reverted": n_reverted / n,
    }


def drawn(seed: int, name: str, n_experts: int, n: int, density: float) -> list[list[bool]]:
    """DARE's masks as documented, from whole vectors of random numbers."""
    keep = []
    for number in range(1, n_experts + 1):
        raw = np.random.Philox(key=seeds.derive(seed, "dare_ties", name, number)).random_raw(n)
        keep.append([int(value) >> 11 < Fraction(density) * 2**53 for value in raw])
    return keep


def assert_merged(found: torch.Tensor, expected: list[Fraction], base: torch.Tensor) -> None:
    assert found.shape == base.shape and found.dtype == base.dtype
    wanted = torch.tensor([float(value) for value in expected], dtype=torch.float64).reshape(base.shape)
    torch.testing.assert_close(found, wanted.to(base.dtype), rtol=torch.finfo(base.dtype).eps, atol=1e-15)


def assert_stats(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-14), key


WEIGHTS = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.3, 1.0, 2.0]), min_size=4, max_size=4)
DENSITIES = st.sampled_from([1.0, 0.9, 0.5, 0.34, 0.1])
SCALES = st.sampled_from([1.0, 0.5, 0.3, 2.0])


@settings(max_examples=200, deadline=None)
@given(cases(), st.none() | WEIGHTS, st.booleans())
def test_linear_agrees_with_exact_reference(case: tuple, weights: list[float] | None, normalize: bool) -> None:
    base, experts = case
    given_ = None if weights is None else weights[: len(experts)]
    if given_ is not None and (not any(given_) or (normalize and sum(given_) <= 0)):
        with pytest.raises(ValueError, match="weights = "):
            linear.merge_tensor(base, experts, weights=given_, normalize=normalize)
        return
    merged, stats = linear.merge_tensor(base, experts, weights=given_, normalize=normalize)
    shares = [Fraction(1)] * len(experts) if given_ is None else [Fraction(weight) for weight in given_]
    if normalize or given_ is None:
        shares = [share / sum(shares) for share in shares]
    columns = [numbers(expert) for expert in experts]
    expected = [
        sum((share * column[i] for share, column in zip(shares, columns, strict=True)), Fraction(0))
        for i in range(base.numel())
    ]
    assert_merged(merged, expected, base)
    assert stats["coefficients"] == pytest.approx([float(share) for share in shares], abs=1e-15)
    assert (stats["elements"], stats["selected"], stats["erased"]) == (base.numel(), 1.0, 0.0)


@settings(max_examples=200, deadline=None)
@given(cases(), st.none() | WEIGHTS)
def test_task_arithmetic_agrees_with_exact_reference(case: tuple, weights: list[float] | None) -> None:
    base, experts = case
    given_ = None if weights is None else weights[: len(experts)]
    if given_ is not None and not any(given_):
        with pytest.raises(ValueError, match="all are 0"):
            task_arithmetic.merge_tensor(base, experts, weights=given_)
        return
    merged, stats = task_arithmetic.merge_tensor(base, experts, weights=given_)
    factors = [Fraction(weight) for weight in given_ or [1.0] * len(experts)]
    changed = deltas_of(base, experts)
    expected = [
        origin + sum((factor * delta[i] for factor, delta in zip(factors, changed, strict=True)), Fraction(0))
        for i, origin in enumerate(numbers(base))
    ]
    assert_merged(merged, expected, base)
    assert stats["coefficients"] == [float(factor) for factor in factors]
    assert (stats["elements"], stats["selected"], stats["erased"]) == (base.numel(), 1.0, 0.0)


@settings(max_examples=150, deadline=None)
@given(cases(), DENSITIES, SCALES)
def test_ties_agrees_with_exact_reference(case: tuple, density: float, scale: float) -> None:
    base, experts = case
    before = [base.clone(), *(expert.clone() for expert in experts)]
    merged, stats = ties.merge_tensor(base, experts, density=density, scale=scale)
    changed = deltas_of(base, experts)
    n = base.numel()
    k = max(1, int(density * n))
    masks = []
    for delta in changed:
        largest = set(sorted(range(n), key=lambda i: (-abs(delta[i]), i))[:k])
        masks.append([i in largest for i in range(n)])
    kept = [
        [value if keep else Fraction(0) for value, keep in zip(*pair, strict=True)]
        for pair in zip(changed, masks, strict=True)
    ]
    expected, expected_stats = elected(base, changed, kept, masks, Fraction(scale))
    assert_merged(merged, expected, base)
    assert_stats(stats, expected_stats)
    assert all(torch.equal(old, new) for old, new in zip(before, [base, *experts], strict=True))


@settings(max_examples=300, deadline=None)
@given(cases(), DENSITIES, SCALES, st.integers(0, 2**63), st.sampled_from(["w", "model.layers.0.mlp.gate.weight"]))
def test_dare_ties_agrees_with_exact_reference(case: tuple, density: float, scale: float, seed: int, name: str) -> None:
    base, experts = case
    merged, stats = dare_ties.merge_tensor(base, experts, name=name, density=density, scale=scale, seed=seed)
    changed = deltas_of(base, experts)
    masks = drawn(seed, name, len(experts), base.numel(), density)
    kept = [
        [value / Fraction(density) if keep else Fraction(0) for value, keep in zip(*pair, strict=True)]
        for pair in zip(changed, masks, strict=True)
    ]
    expected, expected_stats = elected(base, changed, kept, masks, Fraction(scale))
    assert_merged(merged, expected, base)
    assert_stats(stats, expected_stats)


def test_linear_by_hand() -> None:
    base = torch.tensor([1.0, 1.0, 0.0])
    experts = [torch.tensor([2.0, 1.0, -3.0]), torch.tensor([6.0, 1.0, 1.0])]
    merged, stats = linear.merge_tensor(base, experts, weights=[1, 3])
    # (1 * 2 + 3 * 6) / 4 = 5; (1 + 3) / 4 = 1, which nobody changed; (-3 + 3) / 4 = 0 = base, though both changed it.
    assert merged.tolist() == [5.0, 1.0, 0.0]
    assert stats["coefficients"] == [0.25, 0.75] and stats["reverted"] == pytest.approx(1 / 3)
    merged, stats = linear.merge_tensor(base, experts, weights=[1, 3], normalize=False)
    assert merged.tolist() == [20.0, 4.0, 0.0] and stats["coefficients"] == [1.0, 3.0]


def test_linear_returns_equal_experts_exactly() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, dtype=torch.float64)
    for number in (2, 3, 5, 6):
        merged, _ = linear.merge_tensor(torch.zeros(50, dtype=torch.float64), [values] * number)
        torch.testing.assert_close(merged, values, rtol=1e-15, atol=0)
    assert torch.equal(linear.merge_tensor(torch.zeros(50), [values.float()] * 3)[0], values.float())


def test_task_arithmetic_by_hand() -> None:
    base = torch.tensor([10.0, 10.0, 10.0])
    experts = [torch.tensor([11.0, 12.0, 10.0]), torch.tensor([14.0, 9.0, 10.0])]
    # 10 + 1 + 4; 10 + 2 - 1; unchanged.
    merged, stats = task_arithmetic.merge_tensor(base, experts)
    assert merged.tolist() == [15.0, 11.0, 10.0] and stats["coefficients"] == [1.0, 1.0]
    # 10 + 0.5 - 4 = 6.5; 10 + 1 + 1 = 12.
    assert task_arithmetic.merge_tensor(base, experts, weights=[0.5, -1])[0].tolist() == [6.5, 12.0, 10.0]
    # 10 + 1 + 2 * 4 = 19; the deltas 2 and -1 under weights 1 and 2 cancel: one of three is back at the base.
    merged, stats = task_arithmetic.merge_tensor(base, experts, weights=[1, 2])
    assert merged.tolist() == [19.0, 10.0, 10.0] and stats["reverted"] == pytest.approx(1 / 3)


def test_ties_by_hand() -> None:
    base = torch.zeros(5)
    experts = [torch.tensor([5.0, -4.0, 3.0, 3.0, 0.5]), torch.tensor([3.0, 6.0, -2.0, -1.0, 4.0])]
    # int(0.6 * 5) = 3 kept of each: |5|, |4| and the first of the equal 3s; |6|, |4|, |3|.
    # Sums 5 + 3, -4 + 6, 3, 0, 4: all +. Means: (5 + 3) / 2 = 4; 6 alone, -4 erased; 3; nobody; 4.
    merged, stats = ties.merge_tensor(base, experts, density=0.6)
    assert merged.tolist() == [4.0, 6.0, 3.0, 0.0, 4.0]
    # Kept and not 0: 6, one of them erased. Element 3 is back at the base. Weights over the four that moved:
    # expert 1: 1/2, 0, 1, 0; expert 2: 1/2, 1, 0, 1.
    assert stats == {
        "elements": 5,
        "coefficients": [1.5 / 4, 2.5 / 4],
        "selected": 0.8,
        "erased": pytest.approx(1 / 6),
        "reverted": 0.2,
    }
    assert ties.merge_tensor(base, experts, density=0.6, scale=0.5)[0].tolist() == [2.0, 3.0, 1.5, 0.0, 2.0]
    # All kept: the third sum is 3 - 2 = 1, the fourth 3 - 1 = 2, the last (0.5 + 4) / 2.
    assert ties.merge_tensor(base, experts, density=1.0)[0].tolist() == [4.0, 6.0, 3.0, 3.0, 2.25]


def test_exact_zero_sum_elects_plus() -> None:
    base, experts = torch.zeros(1), [torch.tensor([-2.0]), torch.tensor([2.0])]
    assert ties.merge_tensor(base, experts, density=1.0)[0].item() == 2.0
    assert dare_ties.merge_tensor(base, experts, name="w", density=1.0)[0].item() == 2.0


def test_ties_keeps_one_delta_at_least() -> None:
    merged, stats = ties.merge_tensor(torch.zeros(3), [torch.tensor([1.0, 2.0, 0.0])] * 2, density=0.1)
    assert merged.tolist() == [0.0, 2.0, 0.0] and stats["selected"] == pytest.approx(1 / 3)


def test_dare_at_density_1_is_ties_at_density_1() -> None:
    torch.manual_seed(4)
    base = torch.randn(70, 30)
    experts = [base + torch.randn(70, 30) for _ in range(3)]
    one, one_stats = ties.merge_tensor(base, experts, density=1.0)
    other, other_stats = dare_ties.merge_tensor(base, experts, name="w", density=1.0, seed=9)
    assert torch.equal(one, other) and one_stats == other_stats


def test_dare_keeps_its_density_and_the_expectation_of_a_delta() -> None:
    # One expert moves every element by 1, the other by nothing: kept ones are moved by 1 / density.
    n, density = 400_000, 0.3
    merged, stats = dare_ties.merge_tensor(
        torch.zeros(n), [torch.ones(n), torch.zeros(n)], name="w", density=density, seed=1
    )
    assert set(merged.unique().tolist()) == {0.0, float(np.float32(1 / density))}
    # Five standard deviations of a share of n draws.
    bound = 5 * math.sqrt(density * (1 - density) / n)
    assert abs(float((merged != 0).double().mean()) - density) < bound
    # An element is selected when either expert's mask has it: the masks of two experts are independent.
    either = 1 - (1 - density) ** 2
    assert abs(stats["selected"] - either) < 5 * math.sqrt(either * (1 - either) / n)
    assert stats["coefficients"] == [1.0, 0.0]


def test_dare_masks_depend_on_seed_name_and_expert_only() -> None:
    n = 1000

    def kept(seed: int, name: str, expert: int, rows: int = 10) -> torch.Tensor:
        experts = [torch.zeros(rows, n // rows), torch.zeros(rows, n // rows)]
        experts[expert] += 1
        merged, _ = dare_ties.merge_tensor(torch.zeros_like(experts[0]), experts, name=name, density=0.5, seed=seed)
        return merged.flatten() != 0

    first = kept(1, "a", 0)
    assert torch.equal(first, kept(1, "a", 0, rows=4))
    for other in (kept(2, "a", 0), kept(1, "b", 0), kept(1, "a", 1)):
        assert 0.4 < float((first == other).double().mean()) < 0.6
    # The stream is fixed for good: Philox4x64 of this key gives these draws.
    assert drawn(1, "a", 1, n, 0.5)[0] == first.tolist()


def test_a_larger_density_keeps_what_a_smaller_one_does() -> None:
    experts = [torch.ones(5000), torch.zeros(5000)]
    few, more = (
        dare_ties.merge_tensor(torch.zeros(5000), experts, name="w", density=density)[0] != 0 for density in (0.2, 0.7)
    )
    assert bool((few <= more).all()) and int(few.sum()) < int(more.sum())


MERGES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (linear.merge_tensor, {"weights": [0.2, 0.5, 0.3]}),
    (task_arithmetic.merge_tensor, {"weights": [0.2, 0.5, 0.3]}),
    (ties.merge_tensor, {"density": 0.3}),
    (dare_ties.merge_tensor, {"density": 0.3, "name": "w", "seed": 5}),
]
BY_NAME = pytest.mark.parametrize(("merge", "options"), MERGES, ids=["linear", "task_arithmetic", "ties", "dare_ties"])


@BY_NAME
def test_chunks_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, merge: Callable[..., Any], options: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(40, 11, generator=generator).bfloat16()
    experts = [(base + torch.randn(40, 11, generator=generator) * 0.05).bfloat16() for _ in range(3)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole, stats = merge(base, experts, **options)
        torch.set_num_threads(2)
        again, again_stats = merge(base, experts, **options)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole, again) and stats == again_stats
    monkeypatch.setattr(shared, "CHUNK", 7)
    parts, part_stats = merge(base, experts, **options)
    assert torch.equal(whole, parts) and stats == part_stats


@BY_NAME
def test_shape_dtype_and_device_of_the_result(merge: Callable[..., Any], options: dict[str, Any]) -> None:
    options = {name: value for name, value in options.items() if name != "weights"}
    base = torch.zeros(3, 1, 2, dtype=torch.bfloat16)
    wide, _ = merge(base, [base.float() + 1.001] * 2, **options, dtype=torch.float32)
    assert (wide.shape, wide.dtype) == (base.shape, torch.float32)
    empty, stats = merge(torch.empty(0, 3), [torch.empty(0, 3)] * 2, **options)
    assert empty.shape == (0, 3) and (stats["elements"], stats["selected"], stats["reverted"]) == (0, 0.0, 0.0)
    scalar, _ = merge(torch.tensor(1.0), [torch.tensor(2.0), torch.tensor(2.0)], **options)
    assert scalar.shape == () and scalar.item() in (1.0, 2.0, 3.0, float(np.float32(1 + 1 / 0.3)))


@BY_NAME
def test_experts_that_are_the_base_merge_to_it(merge: Callable[..., Any], options: dict[str, Any]) -> None:
    base = torch.tensor([0.1, -3.0, 1e-30, 0.0])
    merged, stats = merge(base, [base] * 3, **options)
    assert torch.equal(merged, base) and (stats["erased"], stats["reverted"]) == (0.0, 0.0)


def test_one_changed_expert_among_unchanged_ones() -> None:
    torch.manual_seed(2)
    base = torch.randn(200)
    memory = base + torch.randn(200) * 1e-4
    assert torch.equal(ties.merge_tensor(base, [base, memory], density=1.0)[0], memory)
    assert torch.equal(dare_ties.merge_tensor(base, [base, memory], name="w", density=1.0)[0], memory)
    assert torch.equal(task_arithmetic.merge_tensor(base, [base, memory])[0], memory)
    assert torch.equal(linear.merge_tensor(base, [base, memory], weights=[0, 2])[0], memory)
    trimmed, stats = ties.merge_tensor(base, [base, memory], density=0.25)
    assert int((trimmed != base).sum()) == 50 and torch.equal(trimmed[trimmed != base], memory[trimmed != base])
    assert stats["reverted"] == 0.75 and stats["coefficients"] == [0.0, 1.0]


@BY_NAME
@pytest.mark.parametrize(
    ("base", "experts", "message"),
    [
        (torch.zeros(2), [torch.zeros(2)], "at least two|1 experts"),
        (torch.zeros(2), [torch.zeros(2), torch.zeros(2), torch.zeros(2, 1)], "expert 3 has shape"),
        (torch.zeros(2), [torch.tensor([0.0, math.nan]), torch.zeros(2), torch.zeros(2)], "expert 1 has NaN"),
        (torch.tensor([math.inf, 0.0]), [torch.zeros(2)] * 3, "base has NaN or infinite"),
        (torch.zeros(2, dtype=torch.int64), [torch.zeros(2)] * 3, "dtype torch.int64"),
    ],
)
def test_tensors_that_cannot_be_merged_are_refused(
    merge: Callable[..., Any], options: dict[str, Any], base: torch.Tensor, experts: list, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merge(base, experts, **options)


@pytest.mark.parametrize(("merge", "options"), [(m, {n: v for n, v in o.items() if n == "name"}) for m, o in MERGES])
def test_overflow_is_refused(merge: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="overflows torch.float16"):
        merge(torch.zeros(200, dtype=torch.float16), [torch.full((200,), 1e6)] * 2, **options)
    with pytest.raises(ValueError, match="overflows float64"):
        merge(
            torch.full((2,), -1e308, dtype=torch.float64),
            [torch.full((2,), 1.7e308, dtype=torch.float64)] * 2,
            **options,
        )
