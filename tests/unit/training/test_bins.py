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
    counts_of = [{key: report[s][key] for key in ("per_bin", "available", "kept")} for s in "ab"]
    assert counts_of[0] == {"per_bin": 5, "available": [12, 5, 0, 7], "kept": [5, 5, 0, 5]}
    assert counts_of[1] == {"per_bin": 3, "available": [6, 0, 0, 3], "kept": [3, 0, 0, 3]}
    assert report["a"]["mean_available"] == pytest.approx((5 * 0.4 + 7 * 0.9) / 24, abs=1e-6)
    assert report["a"]["mean_kept"] == pytest.approx((0.0 + 0.4 + 0.9) / 3, abs=1e-6)
    assert report["b"]["mean_kept"] == 0.5
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


def test_an_id_that_stands_there_twice_is_named() -> None:
    with pytest.raises(DataError, match="two samples have the id z"):
        balance([sample("z", 0.5), sample("z", 0.7)], 4, None, 1, seed=1)


rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8)), min_size=1, max_size=120)


@given(rows, st.integers(1, 10), st.none() | st.integers(1, 20), st.integers(1, 10), st.integers(0, 5))
def test_every_bin_of_a_source_gives_the_same_or_all_it_has(
    drawn: list[tuple[str, int]], bins: int, per_bin: int | None, least: int, seed: int
) -> None:
    samples = [sample(f"x{n}", value / 8, source) for n, (source, value) in enumerate(drawn)]
    kept, report = balance(samples, bins, per_bin, least, seed)
    names = {one.id for one in kept}
    assert len(names) == len(kept) and names <= {one.id for one in samples}
    for source in {source for source, _ in drawn}:
        own = [one for one in samples if one.source == source]
        available = Counter(bin_of(one.difficulty.pass_at_k, bins) for one in own)  # type: ignore[union-attr]
        taken = Counter(bin_of(one.difficulty.pass_at_k, bins) for one in own if one.id in names)  # type: ignore[union-attr]
        size = report[source]["per_bin"]
        assert size == (per_bin or max(min(available.values()), least))
        assert all(taken[number] == min(size, n) for number, n in available.items())
        assert report[source]["kept"] == [taken[number] for number in range(bins)]
        chosen = [one.difficulty.pass_at_k for one in own if one.id in names]  # type: ignore[union-attr]
        assert report[source]["mean_kept"] == pytest.approx(sum(chosen) / len(chosen), abs=1e-6)
