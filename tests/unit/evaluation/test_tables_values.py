"""Arithmetic of intervals: means, seeds, published shares."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.evaluation.tables import values
from qwenlong.evaluation.tables.values import Value

PERCENT = st.floats(min_value=0, max_value=100)


def test_independent_errors_average_out_and_shared_ones_do_not() -> None:
    """Four equal intervals: half as wide where the items differ, as wide where they are the same."""
    four = [Value(50, 46, 56)] * 4
    assert values.mean(four) == Value(50, 48, 53)
    assert values.mean(four, independent=False) == Value(50, 46, 56)
    assert values.mean([Value(50, 46, 56), Value(70)]) == Value(60)


def test_one_seed_is_itself_and_equal_seeds_do_not_narrow_the_items() -> None:
    """The same items again say nothing new about other items."""
    one = Value(50, 46, 56)
    assert values.over_seeds([one]) == one
    assert values.over_seeds([one, one, one]) == one


def test_seeds_that_differ_widen_the_interval_by_students_t() -> None:
    """Three runs at 48, 50, 52: standard error 2/sqrt(3), t of two degrees of freedom is 4.303."""
    found = values.over_seeds([Value(v, v - 3, v + 3) for v in (48, 50, 52)])
    assert found.value == 50
    assert found.high is not None and found.high - 50 == pytest.approx(math.hypot(3, 4.303 * 2 / math.sqrt(3)))


def test_an_interval_ends_where_scores_end() -> None:
    """Two runs far apart say little, and nothing outside 0 to 100."""
    assert values.over_seeds([Value(10, 5, 15), Value(90, 85, 95)]) == Value(50, 0, 100)


@given(PERCENT, st.integers(1, 5000))
@settings(max_examples=60)
def test_wilson_bounds_are_where_the_share_is_196_deviations_away(percent: float, n: int) -> None:
    """Its definition: |p - q| = z sqrt(q (1 - q) / n) at both ends q, but where an end is the share itself."""
    found = values.wilson(percent, n)
    assert found.low is not None and found.high is not None
    assert -1e-9 <= found.low <= percent <= found.high <= 100 + 1e-9
    for bound in (found.low / 100, found.high / 100):
        if 1e-9 < bound < 1 - 1e-9:
            away = abs(percent / 100 - bound)
            assert away == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n), abs=1e-9)


def test_the_papers_4m_cell_of_three_in_twenty_one() -> None:
    """14.29 of about 21 questions: from 5 to 35 points."""
    found = values.wilson(14.29, 21)
    assert (round(found.low or 0, 1), round(found.high or 0, 1)) == (5.0, 34.6)


@pytest.mark.parametrize(
    ("percent", "n", "whole"),
    [(62.26, 800, False), (62.25, 800, True), (66.26, 800, False), (62.38, 800, True), (71.56, 320, True)]
    + [(9.52, 21, True), (9.52, 22, False), (81.33, 12032, True), (0.0, 7, True), (100.0, 7, True)],
)
def test_multiples(percent: float, n: int, whole: bool) -> None:
    """What two printed decimals say of the number of items."""
    assert values.is_multiple(percent, n) is whole


@given(PERCENT, PERCENT, st.floats(0, 5), st.floats(0, 5))
@settings(max_examples=40)
def test_a_difference_turned_round_is_the_same_difference(a: float, b: float, x: float, y: float) -> None:
    """Ours minus the paper's, and the other way, mirror each other."""
    first, second = Value(a, a - x, a + y), Value(b, b - y, b + x)
    one, other = values.difference(first, second), values.difference(second, first)
    assert one.value == -other.value
    assert one.low is not None and other.high is not None and one.low == pytest.approx(-other.high, abs=1e-9)
