"""Batches of prompt indices: task-balanced (SPEC section 3), or plainly shuffled behind the same interface."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from qwenlong.core import seeds

logger = logging.getLogger(__name__)


class TaskBalancedSampler:
    """Endless epochs of index lists in which every task has the same number of samples, give or take one.

    Each batch gives every task `batch_size // tasks` samples; the remainder goes to tasks in sorted order, one each,
    continuing in the next batch (and epoch) where it stopped in this one. So counts per task differ by at most one
    within a batch, and by at most one in total at any time. A task that runs short is reshuffled and repeated, which
    is logged once. An epoch ends with the first batch after which each of its indices was yielded at least once.

    Iterating gives one epoch; the next `iter()` gives the next epoch, in another order, also when the last one was
    left early. After `load_state_dict` the first `iter()` gives what is left of the interrupted epoch. An epoch is
    over with its last batch: a state taken there resumes with the next epoch, never with an empty one.
    """

    _kind = "task-balanced"

    def __init__(self, tasks: Sequence[str], batch_size: int, seed: int) -> None:
        """Take the task of each index, the indices per batch and the seed.

        Raises ValueError when the batch exceeds the data or is smaller than the number of tasks.
        """
        self._tasks = list(tasks)
        self._batch_size = int(batch_size)
        self._seed = int(seed)
        if self._batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}; it must be at least 1")
        if self._batch_size > len(self._tasks):
            raise ValueError(
                f"batch_size = {batch_size} exceeds the {len(self._tasks)} samples of the data; "
                "lower batch_prompts or give more samples"
            )
        self._rows = self._split()
        self._labels = sorted(self._rows)
        if self._batch_size < len(self._labels):
            raise ValueError(
                f"batch_size = {batch_size} is smaller than the number of tasks, {len(self._labels)} "
                f"({', '.join(map(str, self._labels))}); raise batch_prompts or set balanced to false"
            )
        self._share, self._remainder = divmod(self._batch_size, len(self._labels))
        self._epoch = 0  # the epoch that is running or comes next
        self._batch = 0  # batches of it that were yielded
        self._delivered = 0  # batches of all epochs: says where the remainder stands
        self._resumed = False
        self._running = 0  # number of the iteration that may go on
        self._logged: set[str] = set()

    def _split(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for index, task in enumerate(self._tasks):
            rows.setdefault(task, []).append(index)
        return rows

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of one epoch. The state moves on before a batch is handed out."""
        if self._batch and not self._resumed:
            self._epoch, self._batch = self._epoch + 1, 0
        self._resumed = False
        self._running += 1
        mine = self._running
        skip = self._batch
        for number, (batch, last) in enumerate(self._epoch_batches(self._epoch, self._delivered - skip)):
            if number < skip:
                continue
            if mine != self._running:
                raise RuntimeError(
                    "this iteration of the sampler is over: a newer iter() or load_state_dict() took its place"
                )
            self._delivered += 1
            self._epoch, self._batch = (self._epoch + 1, 0) if last else (self._epoch, number + 1)
            yield batch

    def __len__(self) -> int:
        """Return the number of batches of the running or coming epoch, those already yielded included."""
        return self._epoch_length(self._delivered - self._batch)

    def _counts(self, delivered: int) -> dict[str, int]:
        """Samples of each task in the batch after `delivered` batches."""
        start = delivered * self._remainder % len(self._labels)
        extra = {(start + offset) % len(self._labels) for offset in range(self._remainder)}
        return {task: self._share + (position in extra) for position, task in enumerate(self._labels)}

    def _epoch_length(self, delivered: int) -> int:
        missing = {task: len(rows) for task, rows in self._rows.items()}
        length = 0
        while max(missing.values()) > 0:
            for task, count in self._counts(delivered + length).items():
                missing[task] -= count
            length += 1
        return length

    def _epoch_batches(self, epoch: int, delivered: int) -> Iterator[tuple[list[int], bool]]:
        """Yield each batch of an epoch that starts after `delivered` batches, and whether it is the last."""
        length = self._epoch_length(delivered)
        queues: dict[str, list[int]] = {task: [] for task in self._labels}
        passes: Counter[str] = Counter()
        for number in range(length):
            batch: list[int] = []
            for task, count in self._counts(delivered + number).items():
                taken: Counter[int] = Counter()
                for _ in range(count):
                    if not queues[task]:
                        queues[task] = self._shuffled(epoch, task, passes[task], taken)
                        passes[task] += 1
                        self._note_repeat(task, passes[task])
                    index = queues[task].pop()
                    taken[index] += 1
                    batch.append(index)
            seeds.rng(self._seed, self._kind, epoch, "batch", number).shuffle(batch)
            yield batch, number == length - 1

    def _shuffled(self, epoch: int, task: str, number: int, taken: Counter[int]) -> list[int]:
        """Return a new pass over a task's rows, to be popped from its end.

        What the batch under way holds already comes last (sorting keeps the shuffled order otherwise), so that no
        index comes twice in it unless the task has fewer rows than its share.
        """
        rows = list(self._rows[task])
        seeds.rng(self._seed, self._kind, epoch, "task", task, number).shuffle(rows)
        return sorted(rows, key=lambda index: -taken[index])

    def _note_repeat(self, task: str, passes: int) -> None:
        if passes > 1 and task not in self._logged:
            self._logged.add(task)
            logger.warning(
                "task %s has %d samples, fewer than an epoch needs of each task: reshuffled and repeated",
                task,
                len(self._rows[task]),
            )

    def metrics(self) -> dict[str, int]:
        """Return numbers to log: epoch, batches of it and of all epochs so far."""
        return {"epoch": self._epoch, "batch": self._batch, "delivered": self._delivered}

    def state_dict(self) -> dict[str, Any]:
        """Return the position as JSON values, with what it belongs to."""
        return self._identity() | self.metrics()

    def _identity(self) -> dict[str, Any]:
        text = json.dumps([str(task) for task in self._tasks], ensure_ascii=False)
        return {
            "sampler": self._kind,
            "data": hashlib.sha256(text.encode()).hexdigest(),
            "batch_size": self._batch_size,
            "seed": self._seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a position. Raises ValueError naming what differs: sampler, data, batch size or seed.

        A refused state changes nothing.
        """
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                raise ValueError(
                    f"the sampler state is of another {name.replace('_', ' ')}: {name} = {state.get(name)!r}, here "
                    f"{mine!r}; resume with the same data, batch_size and seed, or start the stage anew"
                )
        position = {}
        for name in ("epoch", "batch", "delivered"):
            value = state.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(
                    f"the sampler state has {name} = {value!r}; it must be a count, as state_dict writes it"
                )
            position[name] = value
        before = position["delivered"] - position["batch"]
        if before < position["epoch"] or position["batch"] >= self._epoch_length(max(before, 0)):
            raise ValueError(
                f"the sampler state has batch = {position['batch']} of epoch {position['epoch']} after "
                f"{position['delivered']} batches in all, which no run of it can reach; start the stage anew"
            )
        self._epoch, self._batch, self._delivered = position["epoch"], position["batch"], position["delivered"]
        self._resumed = True
        self._running += 1


class ShuffledSampler(TaskBalancedSampler):
    """Batches drawn from all samples alike, for `balanced: false`. Same arguments, epochs and state.

    The last batch of an epoch is filled up from a second shuffle, so that every batch has the full size.
    """

    _kind = "shuffled"

    def _split(self) -> dict[str, list[int]]:
        # One label for everything: balancing over a single task is plain shuffling.
        return {"all": list(range(len(self._tasks)))}

    def _note_repeat(self, task: str, passes: int) -> None:
        """Say nothing: filling up the last batch is no shortage."""
