"""Intervals over seeds and items: by hand, and their coverage on numbers that were drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from qwenlong.audit.site import statistics

TASKS = ("a", "b", "c", "d", "e")


def drawn(
    rng: np.random.Generator, seeds: int, items: int, spread: float, item: float, rest: float
) -> list[dict[str, dict[str, float]]]:
    """Differences in points with true mean 0: a part of the seed, one of the item, one of the answer."""
    of_item = rng.normal(0, item, (len(TASKS), items))
    runs = []
    for _ in range(seeds):
        values = of_item + rng.normal(0, rest, of_item.shape) + rng.normal(0, spread)
        runs.append({task: dict(enumerate(row)) for task, row in zip(TASKS, values.tolist(), strict=True)})
    return runs


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize(("spread", "item", "rest"), [(0.0, 0.4, 0.3), (0.04, 0.3, 0.3), (0.2, 0.2, 0.3)])
def test_intervals_cover_what_is_true(seeds: int, spread: float, item: float, rest: float) -> None:
    """95% of the intervals hold the true difference, whatever chance comes from; one seed cannot see the seeds."""
    rng = np.random.default_rng(1000 * seeds + round(100 * spread))
    held = 0
    for _ in range(400):
        found = statistics.estimate(drawn(rng, seeds, 20, spread, item, rest))
        assert found.low is not None and found.high is not None
        held += found.low <= 0 <= found.high
    share = held / 400
    if seeds == 1:
        assert (share >= 0.925) is (spread == 0.0)
    else:
        # Never less than it says, but for the chance of 400 draws; more where seeds are few and differ little.
        assert 0.93 <= share <= 0.999, share


def test_coverage_of_scores_that_are_right_or_wrong() -> None:
    """The same for answers that are right or wrong, of models whose skill differs by seed, paired by item."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        hard = rng.normal(0, 1.2, (len(TASKS), 40))
        runs = []
        for _ in range(3):
            first, second = ((rng.random(hard.shape) < 1 / (1 + np.exp(-hard - rng.normal(0, 0.2)))) for _ in range(2))
            values = first.astype(float) - second
            runs.append({task: dict(enumerate(row)) for task, row in zip(TASKS, values.tolist(), strict=True)})
        found = statistics.estimate(runs)
        held += found.low is not None and found.low <= 0 <= found.high
    assert 0.935 <= held / 400 <= 0.999


def test_one_seed_is_the_paired_t_test_by_item() -> None:
    """One task, one seed: scipy's one-sample test of the differences."""
    values = [0.0, 1.0, 1.0, -1.0, 0.5, 0.25, 1.0, 0.0]
    found = statistics.estimate([{"a": dict(enumerate(values))}])
    known = scipy.stats.ttest_1samp(values, 0.0)
    low, high = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue) and (found.low, found.high) == pytest.approx((low, high))
    assert (found.n, found.seeds) == (8, 1)


def test_seeds_with_items_of_their_own_are_students_t_over_seeds() -> None:
    """No item is shared: the seeds' means are all there is, with their number less one of freedom."""
    runs = [{"a": {f"{seed}-{k}": seed / 10 + k / 100 for k in range(5)}} for seed in range(3)]
    found = statistics.estimate(runs)
    known = scipy.stats.ttest_1samp([0.02, 0.12, 0.22], 0.0)
    assert found.value == pytest.approx(0.12) and found.p == pytest.approx(known.pvalue) and found.n == 15


def test_the_two_way_variance_by_hand() -> None:
    """Two seeds, three items: squares of both half widths add up, p is where the interval ends at 0."""
    table = np.array([[0.0, 1.0, 2.0], [1.0, 3.0, 5.0]])
    found = statistics.estimate([{"a": dict(enumerate(row))} for row in table.tolist()])
    seed, item, cell = 2.0 / 2, 2.25 / 3, 0.5 / 6

    def half(level: float) -> float:
        of_seed, of_item = (scipy.stats.t.ppf(1 - level / 2, freedom) for freedom in (1, 2))
        return math.sqrt(seed * of_seed**2 + (item - cell) * of_item**2)

    assert found.value == 2.0 and found.high == pytest.approx(2.0 + half(0.05))
    assert found.p is not None and half(found.p) == pytest.approx(2.0)


def test_odd_input() -> None:
    """No run, no common task, all alike, one item; items that one seed lacks are left out for all."""
    with pytest.raises(ValueError, match="no task"):
        statistics.estimate([])
    with pytest.raises(ValueError, match="no task"):
        statistics.estimate([{"a": {"x": 1.0}}, {"b": {"x": 1.0}}])
    same = statistics.estimate([{"a": {"x": 1.0, "y": 1.0}}] * 3)
    assert (same.value, same.low, same.high, same.p) == (1.0, 1.0, 1.0, 0.0)
    assert statistics.estimate([{"a": {"x": 1.0}}]).low is None
    # Two seeds of the same mean that are right on other items: chance, not certainty.
    crossed = statistics.estimate([{"a": {"x": 1.0, "y": 0.0, "z": 0.0}}, {"a": {"x": 0.0, "y": 1.0, "z": 0.0}}])
    assert crossed.low is not None and crossed.low < 1 / 3 - 0.5
    assert statistics.estimate([{"a": {"x": 1.0, "y": 0.0, "z": 5.0}}, {"a": {"x": 1.0, "y": 0.0}}]).n == 2
    assert statistics.difference({"a": {"x": 1.0, "y": 1.0}, "b": {"q": 1.0}}, {"a": {"x": 0.5}}) == {"a": {"x": 0.5}}


def test_holm_by_hand() -> None:
    """The smallest times their number, the next times one less, never falling; none is no test."""
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert statistics.holm([]) == [] and statistics.holm([None]) == [None]
