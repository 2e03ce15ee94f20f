"""The arithmetic of the plan, nothing else: uncertain quantities, rates over length, jobs on a cluster.

Tokens are divided by tokens per second; a job's hours are that over its processors; the graph of jobs gives the wall
time. Reads no file and knows no configuration.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Range:
    """A quantity as lowest, typical and highest value."""

    low: float
    typical: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.typical <= self.high < math.inf:
            raise ValueError(f"{self.low}, {self.typical}, {self.high} is no range of low <= typical <= high from 0 up")

    def __add__(self, other: Range | float) -> Range:
        """Return the sum: all low together, all high together."""
        o = exactly(other)
        return Range(self.low + o.low, self.typical + o.typical, self.high + o.high)

    __radd__ = __add__

    def __mul__(self, other: Range | float) -> Range:
        """Return the product."""
        o = exactly(other)
        return Range(self.low * o.low, self.typical * o.typical, self.high * o.high)

    __rmul__ = __mul__

    def per(self, rate: Range | float) -> Range:
        """Return the quotient: low is the least amount at the highest rate. Raises ValueError at a rate of 0."""
        r = exactly(rate)
        if r.low <= 0:
            raise ValueError(f"a rate of {r.low} never ends")
        return Range(self.low / r.high, self.typical / r.typical, self.high / r.low)

    def at_most(self, bound: float) -> Range:
        """Return the range cut off at a bound."""
        return Range(min(self.low, bound), min(self.typical, bound), min(self.high, bound))

    def at_least(self, bound: float) -> Range:
        """Return the range with nothing below a bound."""
        return Range(max(self.low, bound), max(self.typical, bound), max(self.high, bound))

    def values(self) -> tuple[float, float, float]:
        """Return low, typical, high."""
        return self.low, self.typical, self.high


NOTHING = Range(0, 0, 0)


def exactly(value: Range | float) -> Range:
    """Return a known number as a range without width."""
    return value if isinstance(value, Range) else Range(value, value, value)


def total(ranges: Iterable[Range]) -> Range:
    """Return the sum of ranges."""
    found = NOTHING
    for one in ranges:
        found = found + one
    return found


def rate_at(table: Sequence[tuple[float, Range]], length: float) -> Range:
    """Return tokens per second at a length, from a table of (length, rate) in order of lengths.

    Attention and the reading of keys and values grow with length: seconds per token are taken as linear in it between
    two entries and beyond the last, constant below the first. Raises ValueError for an empty table.
    """
    if not table:
        raise ValueError("no rates to read from")
    lengths = [entry[0] for entry in table]
    if len(table) == 1 or length <= lengths[0]:
        return table[0][1]
    i = min(bisect_left(lengths, length), len(table) - 1)
    (x0, y0), (x1, y1) = table[i - 1], table[i]
    share = (length - x0) / (x1 - x0)
    # Beyond the last entry a token takes no less time than at it, whatever the last two say.
    low, typical, high = (
        1 / max(1 / a + share * (1 / b - 1 / a), 1 / b if share > 1 else 0)
        for a, b in zip(y0.values(), y1.values(), strict=True)
    )
    return Range(low, typical, high)


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one processor, by length of the row: read, written, trained on."""

    prefill: tuple[tuple[float, Range], ...]
    decode: tuple[tuple[float, Range], ...]
    train: tuple[tuple[float, Range], ...] = ()


@dataclass(frozen=True)
class Tokens:
    """Tokens that one model reads, writes and is trained on, and the lengths of row at which it does."""

    prompt: Range = NOTHING
    read_at: float = 0.0
    """Length of a prompt."""
    response: Range = NOTHING
    written_at: float = 0.0
    """What stands before a token that is written: the prompt and, on average, half the response."""
    trained: Range = NOTHING
    trained_at: float = 0.0
    """Length of a row, prompt and response."""

    def hours(self, speed: Speed) -> Range:
        """Return processor-hours."""
        found = NOTHING
        for amount, table, length in (
            (self.prompt, speed.prefill, self.read_at),
            (self.response, speed.decode, self.written_at),
            (self.trained, speed.train, self.trained_at),
        ):
            if amount.high:
                found = found + amount.per(rate_at(table, length))
        return found * (1 / 3600)

    def __add__(self, other: Tokens) -> Tokens:
        """Return both together, at the mean lengths of their typical tokens."""

        def mean(a: Range, at: float, b: Range, bt: float) -> float:
            weight = a.typical + b.typical
            return (a.typical * at + b.typical * bt) / weight if weight else max(at, bt)

        return Tokens(
            self.prompt + other.prompt,
            mean(self.prompt, self.read_at, other.prompt, other.read_at),
            self.response + other.response,
            mean(self.response, self.written_at, other.response, other.written_at),
            self.trained + other.trained,
            mean(self.trained, self.trained_at, other.trained, other.trained_at),
        )


@dataclass(frozen=True)
class Job:
    """One job of the graph, as it is paid for. `width`: processors it holds; 0: none of those that are counted."""

    name: str
    stage: str
    parents: tuple[str, ...] = ()
    width: int = 0
    work: Range = NOTHING
    """Processor-hours that shrink with more processors: training, everything but the next."""
    answers: Range = NOTHING
    """The same of responses that are written for it, all at once."""
    chain: Range = NOTHING
    """Hours of the longest chain of tokens among these responses: no number of processors ends them sooner."""
    fixed: Range = NOTHING
    """Hours that do not: start-up, files, one process."""
    served: Range = NOTHING
    """Processor-hours of a server beside (a judge), `served_by` processors wide."""
    served_by: int = 0
    holds: bool = False
    """Whether the server beside is held as long as the job runs (a judge of rollouts), or only while it answers."""
    prompt: Range = NOTHING
    response: Range = NOTHING
    trained: Range = NOTHING
    calls: Range = NOTHING
    """Calls of the generator."""
    judge_calls: Range = NOTHING
    disk: Range = NOTHING
    """GB that stay."""
    scratch: Range = NOTHING
    """GB while it runs."""
    fills: bool = False
    """Whether it takes the whole cluster, however wide (a generator's servers), and pays for its work only."""


def efficiency(per_doubling: Range, width: int, reference: int = 1) -> Range:
    """Return the share of ideal speed that is left at `width` processors, given what each doubling leaves.

    Nothing is gained below the reference.
    """
    doublings = max(0.0, math.log2(width / reference)) if width else 0.0
    low, typical, high = (value**doublings for value in per_doubling.values())
    return Range(low, typical, high)


def width_on(job: Job, processors: int, spread: bool = False) -> int:
    """Return the processors that a job gets on a cluster: what it asks for, as far as there are so many.

    `spread`: jobs of several machines' width take all.
    """
    if not job.width:
        return 0
    return processors if job.fills or spread else min(job.width, processors)


def hours(job: Job, width: int, scaling: Range, reference: int) -> Range:
    """Return how long a job takes at a width."""
    found = job.fixed
    speed = efficiency(scaling, width, reference) * max(1, width)
    if job.work.high:
        found = found + job.work.per(speed)
    if job.answers.high or job.chain.high:
        written = zip(job.answers.per(speed).values(), job.chain.values(), strict=True)
        found = found + Range(*(max(pair) for pair in written))
    if job.served.high and job.served_by and not job.holds:
        found = found + job.served * (1 / job.served_by)
    return found


def critical_path(jobs: Sequence[Job], duration: Mapping[str, float]) -> tuple[float, tuple[str, ...]]:
    """Return the longest path through the graph: its length and its jobs in order. Raises ValueError at a cycle."""
    ends: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for job in ordered(jobs):
        first = max(job.parents, key=lambda name: ends[name], default=None)
        ends[job.name] = (ends[first] if first else 0.0) + duration[job.name]
        before[job.name] = first
    if not ends:
        return 0.0, ()
    last: str | None = max(ends, key=lambda name: ends[name])
    length, path = ends[str(last)], []
    while last is not None:
        path.append(last)
        last = before[last]
    return length, tuple(reversed(path))


def ordered(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs, each after its parents. Raises ValueError for an unknown parent or a cycle."""
    by_name = {job.name: job for job in jobs}
    open_parents = {job.name: len(set(job.parents)) for job in jobs}
    children: dict[str, list[str]] = {job.name: [] for job in jobs}
    for job in jobs:
        for parent in set(job.parents):
            if parent not in by_name:
                raise ValueError(f"{job.name} waits for {parent}, which is no job")
            children[parent].append(job.name)
    ready = [job.name for job in jobs if not open_parents[job.name]]
    found = []
    while ready:
        name = ready.pop()
        found.append(by_name[name])
        for child in children[name]:
            open_parents[child] -= 1
            if not open_parents[child]:
                ready.append(child)
    if len(found) < len(by_name):
        raise ValueError(f"jobs wait for each other: {', '.join(sorted(n for n, k in open_parents.items() if k))}")
    return found


def schedule(jobs: Sequence[Job], duration: Mapping[str, float], width: Mapping[str, int], processors: int) -> float:
    """Return the hours until all jobs are done on a cluster of so many processors.

    As a scheduler would: whenever something ends, jobs that are ready start as far as they fit, those with the longest
    path behind them first. Raises ValueError for a job wider than the cluster.
    """
    children: dict[str, list[str]] = {job.name: [] for job in jobs}
    waits = {job.name: len(set(job.parents)) for job in jobs}
    behind: dict[str, float] = {}
    for job in ordered(jobs):
        if width[job.name] > processors:
            raise ValueError(f"{job.name} takes {width[job.name]} processors of {processors}")
        for parent in set(job.parents):
            children[parent].append(job.name)
    for job in reversed(ordered(jobs)):
        behind[job.name] = duration[job.name] + max((behind[c] for c in children[job.name]), default=0.0)
    ready = [(-behind[job.name], job.name) for job in jobs if not waits[job.name]]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now, free = 0.0, processors
    while ready or running:
        held = []
        while ready:
            entry = heapq.heappop(ready)
            if width[entry[1]] <= free:
                free -= width[entry[1]]
                heapq.heappush(running, (now + duration[entry[1]], entry[1]))
            else:
                held.append(entry)
        for entry in held:
            heapq.heappush(ready, entry)
        now, name = heapq.heappop(running)
        free += width[name]
        for child in children[name]:
            waits[child] -= 1
            if not waits[child]:
                heapq.heappush(ready, (-behind[child], child))
    return now


@dataclass(frozen=True)
class Cost:
    """What jobs cost on one cluster."""

    jobs: int
    processor_hours: Range
    """Processors times hours that they are held."""
    server_hours: Range
    """The same of servers beside."""
    prompt: Range
    response: Range
    trained: Range
    calls: Range
    judge_calls: Range
    disk: Range
    scratch: Range
    longest: Range
    """Hours of the longest job."""


@dataclass(frozen=True)
class Totals:
    """A plan on one cluster."""

    processors: int
    stages: Mapping[str, Cost]
    everything: Cost
    wall: Range
    critical: Range
    path: tuple[str, ...]
    durations: Mapping[str, Range] = field(repr=False, default_factory=dict)


def cost(jobs: Sequence[Job], duration: Mapping[str, Range], width: Mapping[str, int]) -> Cost:
    """Add up jobs, whose hours and widths on the cluster are given."""

    def add(value: Callable[[Job], Range]) -> Range:
        return total(value(job) for job in jobs)

    longest = [max((duration[job.name].values()[i] for job in jobs), default=0.0) for i in range(3)]
    scratch = [max((job.scratch.values()[i] for job in jobs), default=0.0) for i in range(3)]
    return Cost(
        len(jobs),
        add(lambda job: job.answers if job.fills else duration[job.name] * width[job.name]),
        add(lambda job: duration[job.name] * job.served_by if job.holds else job.served),
        add(lambda job: job.prompt),
        add(lambda job: job.response),
        add(lambda job: job.trained),
        add(lambda job: job.calls),
        add(lambda job: job.judge_calls),
        add(lambda job: job.disk),
        Range(*scratch),
        Range(*longest),
    )


def totals(jobs: Sequence[Job], processors: int, scaling: Range, reference: int, spread: Iterable[str] = ()) -> Totals:
    """Return the plan on a cluster of `processors`. Jobs of the stages `spread` are widened to all of it."""
    wide = set(spread)
    width = {job.name: width_on(job, processors, job.stage in wide) for job in jobs}
    duration = {job.name: hours(job, width[job.name], scaling, reference) for job in jobs}
    stages: dict[str, list[Job]] = {}
    for job in jobs:
        stages.setdefault(job.stage, []).append(job)
    ends, paths = [], []
    for i in range(3):
        each = {name: value.values()[i] for name, value in duration.items()}
        ends.append(schedule(jobs, each, width, processors))
        paths.append(critical_path(jobs, each))
    # A list schedule can end later although every job is shorter: the bounds hold what was found.
    return Totals(
        processors,
        {stage: cost(members, duration, width) for stage, members in stages.items()},
        cost(jobs, duration, width),
        Range(*sorted(ends)),
        Range(*(length for length, _ in paths)),
        paths[1][1],
        duration,
    )
