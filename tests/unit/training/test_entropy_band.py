"""Shares, excursions and returns of hand-made entropy curves, against counts made by hand and by brute force."""

from __future__ import annotations

import math
import random

import pytest

from qwenlong.training.entropy_band import Excursion, summarise


def test_counts_excursions_and_returns_of_a_curve_done_by_hand():
    # step:      1    2    3    4    5    6    7    8    9    10
    curve = [0.20, 0.35, 0.50, 0.40, 0.20, 0.05, 0.40, 0.20, 0.45, 0.60]
    found = summarise(curve, 0.1, 0.3)
    assert (found.steps, found.inside, found.above, found.below) == (10, 3, 6, 1)
    assert found.share_inside == 0.3
    assert [(e.side, e.start, e.length, e.open, e.peak_step) for e in found.excursions] == [
        ("above", 2, 3, False, 3),
        ("below", 6, 1, False, 6),
        ("above", 7, 1, False, 7),
        ("above", 9, 2, True, 10),
    ]
    assert [e.peak for e in found.excursions] == pytest.approx([0.2, 0.05, 0.1, 0.3])
    assert found.largest == found.excursions[3]
    # The open one is counted, and is in neither median nor maximum: 3, 1, 1.
    assert (found.open, found.median_return, found.longest_return) == (1, 1, 3)


def test_bounds_are_inside_and_the_next_number_is_not():
    assert summarise([0.1, 0.3], 0.1, 0.3).share_inside == 1.0
    found = summarise([math.nextafter(0.1, 0), 0.2, math.nextafter(0.3, 1)], 0.1, 0.3)
    assert (found.below, found.inside, found.above) == (1, 1, 1)


def test_a_run_inside_has_no_excursion_and_no_return():
    found = summarise([0.2] * 5, 0.1, 0.3)
    assert (found.share_inside, found.excursions, found.largest, found.open) == (1.0, (), None, 0)
    assert found.median_return is None and found.longest_return is None


def test_a_run_outside_from_start_to_end_is_one_open_excursion_without_return():
    found = summarise([1.0, 2.0, 2.0], 0.1, 0.5, first_step=4)
    assert found.excursions == (Excursion("above", start=4, length=3, open=True, peak=1.5, peak_step=5),)
    assert found.share_inside == 0.0 and found.open == 1
    assert found.median_return is None and found.longest_return is None


@pytest.mark.parametrize("seed", range(20))
def test_random_curves_agree_with_counting_step_by_step(seed):
    drawn = random.Random(seed)
    low, high = sorted(drawn.choice([0.0, 0.25, 0.5, 0.75]) for _ in range(2))
    curve = [drawn.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for _ in range(30)]
    found = summarise(curve, low, high)
    outside = [max(value - high, low - value) for value in curve]
    assert found.inside == sum(low <= value <= high for value in curve)
    assert sum(e.length for e in found.excursions) == found.above + found.below == 30 - found.inside
    covered = [step for e in found.excursions for step in range(e.start, e.start + e.length)]
    assert covered == [step for step, far in enumerate(outside, 1) if far > 0]
    for e in found.excursions:
        steps = range(e.start, e.start + e.length)
        assert e.peak == max(outside[step - 1] for step in steps) == outside[e.peak_step - 1]
        assert e.open == (e.start + e.length == 31)
        if not e.open:
            after = curve[e.start + e.length - 1]
            assert after <= high if e.side == "above" else after >= low


@pytest.mark.parametrize(
    ("curve", "low", "high", "message"),
    [
        ([], 0.1, 0.3, "no steps"),
        ([0.2, math.nan], 0.1, 0.3, "step 2 is nan"),
        ([math.inf], 0.1, 0.3, "step 1 is inf"),
        ([-0.1], 0.1, 0.3, "not negative"),
        ([0.2], 0.3, 0.1, "low must not be above high"),
        ([0.2], math.nan, 0.1, "low = nan"),
    ],
)
def test_what_is_no_curve_or_no_band_is_refused(curve, low, high, message):
    with pytest.raises(ValueError, match=message):
        summarise(curve, low, high)
