"""The plan's arithmetic against numbers made by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.audit.planning import arithmetic as a
from qwenlong.audit.planning.arithmetic import Job, Range, Speed, Tokens


def job(name: str, *parents: str, width: int = 1, stage: str = "s", **more: object) -> Job:
    return Job(name, stage, parents, width, **more)  # type: ignore[arg-type]


def test_ranges_add_multiply_and_divide_end_by_end() -> None:
    first, second = Range(1, 2, 4), Range(10, 20, 40)
    assert first + second == Range(11, 22, 44) and first + 1 == 1 + first == Range(2, 3, 5)
    assert first * second == Range(10, 40, 160) and 3 * first == Range(3, 6, 12)
    # The least work at the highest rate, the most at the lowest.
    assert second.per(first) == Range(10 / 4, 20 / 2, 40 / 1)
    assert second.at_most(20) == Range(10, 20, 20) and second.at_least(20) == Range(20, 20, 40)


@pytest.mark.parametrize("values", [(2, 1, 3), (-1, 0, 1), (0, 1, math.inf), (0, math.nan, 1)])
def test_what_is_no_range_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="no range"):
        Range(*values)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="never ends"):
        Range(1, 1, 1).per(Range(0, 1, 1))


def test_seconds_per_token_are_linear_in_length() -> None:
    # 0.1 s at 100, 0.2 s at 200: 0.15 s at 150, 0.3 s at 300.
    table = [(100.0, Range(10, 10, 20)), (200.0, Range(5, 5, 20))]
    assert a.rate_at(table, 150).typical == pytest.approx(1 / 0.15)
    assert a.rate_at(table, 300).typical == pytest.approx(1 / 0.3)
    assert a.rate_at(table, 1) == table[0][1] and a.rate_at(table, 200).typical == pytest.approx(5)
    assert a.rate_at(table[:1], 1e9) == table[0][1]
    # Rates that grow with length are not carried on: longer rows are never faster than the last entry.
    rising = [(100.0, Range(5, 5, 5)), (200.0, Range(10, 10, 10))]
    assert a.rate_at(rising, 400).values() == pytest.approx((10, 10, 10))
    with pytest.raises(ValueError, match="no rates"):
        a.rate_at([], 1)


def test_tokens_are_paid_at_the_length_at_which_they_are_read_written_and_trained_on() -> None:
    two = ((100.0, a.exactly(10)), (200.0, a.exactly(5)))
    speed = Speed(prefill=two, decode=((1.0, a.exactly(2)),), train=((1.0, a.exactly(4)),))
    # 3600 at 5/s, 7200 at 2/s, 14400 at 4/s: 720 + 3600 + 3600 seconds.
    tokens = Tokens(a.exactly(3600), 200, a.exactly(7200), 0, a.exactly(14400), 0)
    assert tokens.hours(speed).typical == pytest.approx((720 + 3600 + 3600) / 3600)
    # Together at the mean length of the tokens: (3600 x 200 + 1200 x 100) / 4800.
    both = tokens + Tokens(a.exactly(1200), 100)
    assert both.prompt.typical == 4800 and both.read_at == 175 and both.response.typical == 7200


def test_a_job_shrinks_with_its_processors_but_for_start_and_chain() -> None:
    one = job("train", width=8, work=a.exactly(80), answers=a.exactly(40), chain=a.exactly(6), fixed=a.exactly(1))
    ideal = a.exactly(1)
    # 1 + 80/8 + max(40/8, 6); on 4: 1 + 20 + 10.
    assert a.hours(one, 8, ideal, 8).typical == 17 and a.hours(one, 4, ideal, 8).typical == 31
    # From 8 to 32 two doublings at 0.9 each: 1 + 80/(32 x 0.81) + 6.
    assert a.hours(one, 32, a.exactly(0.9), 8).typical == pytest.approx(7 + 80 / (32 * 0.81))
    # 12 server-hours on 4 processors are 3 hours, unless the server is only held beside.
    scored = job("score", width=0, served=a.exactly(12), served_by=4)
    assert a.hours(scored, 0, ideal, 8).typical == 3
    held = job("rl", width=8, work=a.exactly(8), served=a.exactly(12), served_by=4, holds=True)
    assert a.hours(held, 8, ideal, 8).typical == 1
    assert a.totals([held], 8, ideal, 8).everything.server_hours.typical == 4


DIAMOND = [job("a"), job("b", "a"), job("c", "a"), job("d", "b", "c")]
HOURS = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 1.0}


def test_the_critical_path_is_not_the_sum() -> None:
    assert a.critical_path(DIAMOND, HOURS) == (7.0, ("a", "c", "d"))
    width = dict.fromkeys(HOURS, 1)
    assert a.schedule(DIAMOND, HOURS, width, 2) == 7.0 and a.schedule(DIAMOND, HOURS, width, 1) == 9.0
    assert a.critical_path([], {}) == (0.0, ())


def test_jobs_wait_for_processors_and_the_longest_path_goes_first() -> None:
    # Four jobs of width 2 and one hour on 4 processors; on 3 only one fits at a time.
    four = [job(name, width=2) for name in "abcd"]
    hours, width = dict.fromkeys("abcd", 1.0), dict.fromkeys("abcd", 2)
    assert a.schedule(four, hours, width, 4) == 2.0 and a.schedule(four, hours, width, 3) == 4.0
    # One processor for z and then its long child, though a, b sort before: 1 + 9, the short ones beside the child.
    jobs = [job("a"), job("b"), job("z"), job("child", "z", width=0)]
    hours = {"a": 1.0, "b": 1.0, "z": 1.0, "child": 9.0}
    assert a.schedule(jobs, hours, {"a": 1, "b": 1, "z": 1, "child": 0}, 1) == 10.0
    with pytest.raises(ValueError, match="takes 2 processors of 1"):
        a.schedule(four, dict.fromkeys("abcd", 1.0), width, 1)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([job("a", "b")], "no job"),
        ([job("a", "b"), job("b", "a"), job("c")], "wait for each other: a, b"),
    ],
)
def test_graphs_that_cannot_run_are_refused(jobs: list[Job], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        a.ordered(jobs)


def test_totals_by_stage() -> None:
    jobs = [
        job("rl", stage="rl", width=8, work=a.exactly(16), disk=a.exactly(3), scratch=a.exactly(7)),
        job("asks", stage="data", width=4, answers=a.exactly(32), fills=True, fixed=a.exactly(1)),
        job("light", "rl", stage="data", width=0, fixed=a.exactly(0.5), judge_calls=Range(1, 2, 3)),
    ]
    found = a.totals(jobs, 16, a.exactly(1), 8)
    # rl: 8 GPUs for 2 h. asks: all 16, 32 GPU-hours in 2 h and 1 h of start; the start is not paid for.
    assert found.stages["rl"].processor_hours.typical == 16 and found.stages["data"].processor_hours.typical == 32
    assert found.stages["data"].longest.typical == 3 and found.everything.disk.typical == 3
    assert found.everything.judge_calls == Range(1, 2, 3) and found.everything.scratch.typical == 7
    # Alone rl and light take 2.5 h, asks 3 h; but asks takes everything, and goes first.
    assert found.critical.typical == 3 and found.wall.typical == 5.5 and found.everything.jobs == 3
    # Widened to all 16 it takes 1 h of the same work.
    assert a.totals(jobs, 16, a.exactly(1), 8, spread=["rl"]).wall.typical == 4.5


@settings(max_examples=60)
@given(st.data())
def test_a_schedule_lies_between_the_critical_path_and_the_sum(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    processors = data.draw(st.integers(1, 6))
    jobs, hours, width = [], {}, {}
    for i in range(n):
        parents = data.draw(st.sets(st.integers(0, i - 1))) if i else set()
        name = f"j{i}"
        hours[name], width[name] = data.draw(st.integers(0, 9)) / 1, data.draw(st.integers(0, processors))
        jobs.append(job(name, *(f"j{p}" for p in parents), width=width[name]))
    wall = a.schedule(jobs, hours, width, processors)
    assert max(a.critical_path(jobs, hours)[0], sum(hours[k] * width[k] for k in hours) / processors) <= wall + 1e-9
    assert wall <= sum(hours.values()) + 1e-9
