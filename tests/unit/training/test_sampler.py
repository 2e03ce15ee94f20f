"""Batches: balance within and over batches, epochs, resumption, independence of the hash seed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training.sampler import ShuffledSampler, TaskBalancedSampler


@st.composite
def setups(draw: st.DrawFn) -> tuple[list[str], int, int]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    tasks = draw(st.permutations([f"t{number}" for number, size in enumerate(sizes) for _ in range(size)]))
    return list(tasks), draw(st.integers(len(sizes), len(tasks))), draw(st.integers(0, 2**40))


@settings(max_examples=120, deadline=None)
@given(setups(), st.integers(1, 3))
def test_promises(setup: tuple, n_epochs: int) -> None:
    tasks, batch_size, seed = setup
    sampler = TaskBalancedSampler(tasks, batch_size, seed)
    sizes, labels = Counter(tasks), sorted(set(tasks))
    total: Counter[str] = Counter()
    for _ in range(n_epochs):
        expected = len(sampler)
        batches = list(sampler)
        assert len(batches) == expected
        seen: set[int] = set()
        for number, batch in enumerate(batches):
            assert len(batch) == batch_size
            counts = Counter(tasks[index] for index in batch)
            total += counts
            for values in (counts, total):
                every = [values[label] for label in labels]
                assert max(every) - min(every) <= 1
            for index, times in Counter(batch).items():
                share = counts[tasks[index]]
                assert times == 1 or sizes[tasks[index]] < share
                assert times <= -(-share // sizes[tasks[index]])
            assert len(seen) < len(tasks), f"the epoch should have ended before batch {number}"
            seen.update(batch)
        assert seen == set(range(len(tasks)))


@settings(max_examples=80, deadline=None)
@given(setups(), st.integers(0, 12), st.sampled_from([TaskBalancedSampler, ShuffledSampler]))
def test_resumed_sampler_ends_the_epoch_and_goes_on(setup: tuple, taken: int, kind: type) -> None:
    tasks, batch_size, seed = setup
    first = kind(tasks, batch_size, seed)

    def endless(sampler: TaskBalancedSampler):
        while True:
            yield from sampler

    stream = endless(first)
    done = list(islice(stream, taken))
    resumed = kind(tasks, batch_size, seed)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.state_dict() == first.state_dict()
    assert list(islice(endless(resumed), 10)) == list(islice(stream, 10))
    assert done == list(islice(endless(kind(tasks, batch_size, seed)), taken))


def test_interrupted_epoch_is_ended_and_the_next_iter_is_the_next_epoch() -> None:
    tasks = ["a"] * 7 + ["b"] * 5 + ["c"] * 3
    whole = TaskBalancedSampler(tasks, 4, 3)
    epochs = [list(whole) for _ in range(3)]
    for cut in range(1, len(epochs[1])):
        first = TaskBalancedSampler(tasks, 4, 3)
        list(first)
        list(islice(iter(first), cut))
        resumed = TaskBalancedSampler(tasks, 4, 3)
        resumed.load_state_dict(first.state_dict())
        assert list(resumed) == epochs[1][cut:]
        assert list(resumed) == epochs[2]


def test_state_after_the_last_batch_resumes_with_the_next_epoch() -> None:
    tasks = ["a", "b"] * 4
    whole = TaskBalancedSampler(tasks, 4, 0)
    iterator = iter(whole)
    for _ in range(len(whole)):
        next(iterator)
    resumed = TaskBalancedSampler(tasks, 4, 0)
    resumed.load_state_dict(whole.state_dict())
    assert next(iterator, None) is None
    assert list(resumed) == list(whole)


def test_epochs_and_seeds_differ_in_order() -> None:
    tasks = ["a"] * 20 + ["b"] * 20
    sampler = TaskBalancedSampler(tasks, 8, 1)
    first, second = list(sampler), list(sampler)
    assert first != second
    assert list(TaskBalancedSampler(tasks, 8, 1)) == first
    assert list(TaskBalancedSampler(tasks, 8, 2)) != first


def test_iter_on_an_epoch_left_early_is_the_next_epoch() -> None:
    tasks = ["a"] * 20 + ["b"] * 20
    sampler = TaskBalancedSampler(tasks, 8, 1)
    left = iter(sampler)
    one = next(left)
    assert next(iter(sampler)) != one
    assert sampler.state_dict()["epoch"] == 1
    with pytest.raises(RuntimeError, match="newer iter"):
        next(left)


def test_remainder_rotates_in_sorted_order_across_epochs() -> None:
    tasks = ["c", "a", "b"] * 2
    sampler = TaskBalancedSampler(tasks, 4, 0)
    extras = []
    for _ in range(3):
        for batch in sampler:
            counts = Counter(tasks[index] for index in batch)
            extras.append(counts.most_common(1)[0][0])
    assert extras == (["a", "b", "c"] * len(extras))[: len(extras)]


def test_short_task_is_repeated_evenly_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tasks = ["big"] * 40 + ["small"] * 3
    sampler = TaskBalancedSampler(tasks, 8, 0)
    with caplog.at_level(logging.WARNING):
        batches = list(sampler) + list(sampler)
    assert [record.message for record in caplog.records if "small has 3 samples" in record.message] == [
        "task small has 3 samples, fewer than an epoch needs of each task: reshuffled and repeated"
    ]
    times = Counter(index for batch in batches for index in batch if index >= 40)
    assert max(times.values()) - min(times.values()) <= 2
    # Four of three rows: one comes twice, none three times, none is left out.
    assert all(len({index for index in batch if index >= 40}) == 3 for batch in batches)


@pytest.mark.parametrize(
    ("tasks", "batch_size", "seed", "named"),
    [
        (["a", "b", "b"], 2, 0, "data"),
        (["a", "b", "b", "a"], 2, 0, "data"),
        (["a", "b", "a", "b"], 3, 0, "batch_size"),
        (["a", "b", "a", "b"], 2, 1, "seed"),
    ],
)
def test_state_of_another_run_is_refused(tasks: list[str], batch_size: int, seed: int, named: str) -> None:
    state = TaskBalancedSampler(["a", "b", "a", "b"], 2, 0).state_dict()
    other = TaskBalancedSampler(tasks, batch_size, seed)
    before = other.state_dict()
    with pytest.raises(ValueError, match=named):
        other.load_state_dict(state)
    assert other.state_dict() == before


def test_state_of_another_kind_or_damaged_is_refused() -> None:
    tasks = ["a", "b", "a", "b"]
    sampler = TaskBalancedSampler(tasks, 2, 0)
    with pytest.raises(ValueError, match="sampler = 'shuffled'"):
        sampler.load_state_dict(ShuffledSampler(tasks, 2, 0).state_dict())
    good = sampler.state_dict()
    for damage in ({"batch": 99}, {"epoch": -1}, {"delivered": True}, {"batch": 1, "delivered": 0}, {"epoch": 5}):
        with pytest.raises(ValueError, match="sampler state has"):
            sampler.load_state_dict(good | damage)
    with pytest.raises(ValueError, match="data = None"):
        sampler.load_state_dict({key: value for key, value in good.items() if key != "data"})


@pytest.mark.parametrize(
    ("tasks", "batch_size", "message"),
    [
        (["a", "b"], 3, "exceeds the 2 samples"),
        (["a", "b", "c"], 2, "number of tasks, 3"),
        (["a"], 0, "at least 1"),
        ([], 1, "exceeds the 0 samples"),
    ],
)
def test_sizes_that_cannot_be_balanced(tasks: list[str], batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskBalancedSampler(tasks, batch_size, 0)


def test_shuffled_sampler_ignores_tasks_and_keeps_batches_full() -> None:
    sampler = ShuffledSampler(["a"] * 6 + ["b"], 4, 0)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [4, 4]
    assert {index for batch in batches for index in batch} == set(range(7))
    assert all(len(set(batch)) == 4 for batch in batches)
    assert list(sampler) != batches
    # Fewer prompts per batch than tasks are fine here.
    assert len(list(ShuffledSampler(["a", "b", "c"], 2, 0))) == 2


def test_order_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from qwenlong.training.sampler import TaskBalancedSampler as S;"
        "s = S([f't{i % 5}' for i in range(40)], 7, 11); print(list(s), list(s), s.state_dict())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1
