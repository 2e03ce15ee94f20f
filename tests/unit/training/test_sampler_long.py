"""A thousand batches: balance, resumption, cost, and data that is barely enough."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from qwenlong.training.sampler import ShuffledSampler, TaskBalancedSampler

BATCHES = 1000
#: Rows of each task, batch size: even, uneven, one row, one task, batch of the whole data, many tasks.
SHAPES = {
    "even": ({"a": 40, "b": 40}, 8),
    "five tasks, 128": ({"a": 1500, "b": 17, "c": 800, "d": 1, "e": 129}, 128),
    "remainder": ({"a": 9, "b": 5, "c": 3}, 5),
    "one row": ({"a": 1, "b": 30}, 7),
    "one task": ({"a": 23}, 4),
    "one row in all": ({"a": 1}, 1),
    "batch is the data": ({"a": 5, "b": 2, "c": 1}, 8),
    "a row of each": ({"a": 6, "b": 6, "c": 6}, 3),
    "many tasks": ({f"t{n:02}": n + 1 for n in range(20)}, 33),
}
pytestmark = pytest.mark.parametrize("shape", SHAPES)


def sampler(shape: str, kind: type[TaskBalancedSampler] = TaskBalancedSampler, seed: int = 5) -> TaskBalancedSampler:
    sizes, batch_size = SHAPES[shape]
    # Rows of the tasks in turn, so that an index says nothing about its task.
    rows = sorted((number, task) for task, size in sizes.items() for number in range(size))
    return kind([task for _, task in rows], batch_size, seed)


def endless(one: TaskBalancedSampler) -> Iterator[list[int]]:
    while True:
        yield from one


def test_counts_differ_by_at_most_one(shape: str) -> None:
    sizes, batch_size = SHAPES[shape]
    tasks = [task for _, task in sorted((n, task) for task, size in sizes.items() for n in range(size))]
    total: Counter[str] = Counter()
    for batch in islice(endless(sampler(shape)), BATCHES):
        counts = Counter(tasks[index] for index in batch)
        assert len(batch) == batch_size
        total += counts
        assert max(counts[t] for t in sizes) - min(counts[t] for t in sizes) <= 1
        assert max(total[t] for t in sizes) - min(total[t] for t in sizes) <= 1
    assert sum(total.values()) == BATCHES * batch_size


@pytest.mark.parametrize("kind", [TaskBalancedSampler, ShuffledSampler])
def test_resuming_continues_for_a_thousand_batches(shape: str, kind: type[TaskBalancedSampler]) -> None:
    whole = list(islice(endless(sampler(shape, kind)), BATCHES + 130))
    length = len(sampler(shape, kind))
    # Mid-epoch, at the end of the first epoch, one after it, and anywhere.
    for cut in sorted({1, length // 2, length, length + 1, 57} & set(range(121))):
        first = sampler(shape, kind)
        list(islice(endless(first), cut))
        second = sampler(shape, kind)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        # Saved and restored once more a little later.
        assert list(islice(endless(second), 3)) == whole[cut : cut + 3]
        third = sampler(shape, kind)
        third.load_state_dict(json.loads(json.dumps(second.state_dict())))
        assert list(islice(endless(third), BATCHES)) == whole[cut + 3 : cut + 3 + BATCHES]


def test_a_late_state_loads_as_fast_as_an_early_one(shape: str) -> None:
    one = sampler(shape)
    state = one.state_dict() | {"epoch": 10**7, "delivered": 10**9}
    began = time.process_time()
    one.load_state_dict(state)
    next(iter(one))
    assert time.process_time() - began < 2
    assert one.state_dict()["delivered"] == 10**9 + 1


def test_an_epoch_ends_in_another_process_too(shape: str) -> None:
    sizes, batch_size = SHAPES[shape]
    code = (
        "from qwenlong.training.sampler import ShuffledSampler as R, TaskBalancedSampler as S;"
        f"t = [task for task, size in {sizes!r}.items() for _ in range(size)];"
        f"print([sum(1 for _ in k(t, {batch_size}, 0)) for k in (S, R)])"
    )
    # A loop without an end is what the time limit is for.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    # Until the largest task is through with the smallest share that it can have, or all rows are.
    share = batch_size // len(sizes)
    balanced, shuffled = json.loads(done.stdout)
    assert 1 <= balanced <= -(-max(sizes.values()) // share)
    assert shuffled == -(-sum(sizes.values()) // batch_size)
