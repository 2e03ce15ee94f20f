"""Difficulty bins: the same number from each, per source, whatever the order of the samples."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.core.errors import DataError
from qwenlong.core.records import Difficulty, Sample
from qwenlong.training.bins import balance, bin_of


def sample(name: str, pass_at_k: float | None, source: str = "a") -> Sample:
    return Sample(
        id=name,
        task="reading_comprehension",
        question_type="fact",
        question="q",
        instruction="",
        documents=("d",),
        answers=("x",),
        category="general",
        source=source,
        generator="g",
        template="t@1",
        n_tokens=1,
        difficulty=None if pass_at_k is None else Difficulty(pass_at_k=pass_at_k, k=4, model="base"),
    )


@given(st.floats(0, 1, allow_subnormal=False), st.integers(1, 20))
def test_bins_cover_the_interval(value: float, bins: int) -> None:
    number = bin_of(value, bins)
    assert 0 <= number < bins
    assert number == bins - 1 or value < (number + 1) / bins + 1e-9
    assert value >= number / bins - 1e-9


def test_same_number_per_bin_and_source() -> None:
    values = {"a": [0.0] * 12 + [0.4] * 5 + [0.9] * 7, "b": [0.0] * 6 + [1.0] * 3}
    samples = [sample(f"{s}{n}", v, s) for s, vs in values.items() for n, v in enumerate(vs)]
    kept, report = balance(samples, 4, None, 2, seed=1)
    assert report["a"] == {"per_bin": 5, "available": [12, 5, 0, 7], "kept": [5, 5, 0, 5]}
    assert report["b"] == {"per_bin": 3, "available": [6, 0, 0, 3], "kept": [3, 0, 0, 3]}
    counts = Counter((s.source, bin_of(s.difficulty.pass_at_k, 4)) for s in kept)
    assert set(counts.values()) == {5, 3}
    assert [s.id for s in kept] == [s.id for s in samples if s in kept]


def test_lower_bound_and_fixed_size() -> None:
    samples = [sample(f"x{n}", 0.0) for n in range(9)] + [sample("y", 1.0)]
    assert balance(samples, 2, None, 4, seed=1)[1]["a"]["kept"] == [4, 1]
    assert balance(samples, 2, 2, 4, seed=1)[1]["a"]["kept"] == [2, 1]


def test_order_does_not_matter_and_seed_does() -> None:
    samples = [sample(f"x{n}", n % 4 / 4) for n in range(60)]
    shuffled = samples[:]
    random.Random(0).shuffle(shuffled)
    ids = {s.id for s in balance(samples, 4, 5, 1, seed=1)[0]}
    assert ids == {s.id for s in balance(shuffled, 4, 5, 1, seed=1)[0]}
    assert ids != {s.id for s in balance(samples, 4, 5, 1, seed=2)[0]}


def test_sample_without_difficulty_is_named() -> None:
    with pytest.raises(DataError, match="sample z has no difficulty"):
        balance([sample("z", None)], 4, None, 1, seed=1)
