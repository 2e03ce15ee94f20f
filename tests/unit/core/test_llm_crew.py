"""Workers over one endpoint, and when they give it up."""

from __future__ import annotations

import asyncio

import pytest

from qwenlong.core.llm import Rejected, Unavailable
from qwenlong.core.llm.crew import PATIENCE, Outages, crew, denied


def test_an_endpoint_is_given_up_after_outages_in_a_row() -> None:
    outages = Outages(3)
    for _ in range(PATIENCE * 3 - 1):
        outages.failed("down")
    outages.answered()
    for n in range(PATIENCE * 3):
        assert not outages.given_up
        outages.failed(f"down {n}")
    assert outages.given_up and (outages.in_a_row, outages.reason) == (6, "down 5")
    # What was under way then changes nothing.
    outages.answered()
    outages.failed("late")
    assert (outages.in_a_row, outages.reason) == (6, "down 5")


def test_one_denial_is_enough() -> None:
    outages = Outages(64)
    outages.failed("status 401", denied=True)
    assert outages.reason == "status 401"
    assert [denied(Rejected("x", status)) for status in (401, 404, 400, 422)] == [True, True, False, False]
    assert not denied(Unavailable("x"))


def test_workers_share_the_items_and_end_with_the_first_error() -> None:
    items, seen = iter(range(100)), []

    async def work() -> None:
        for item in items:
            await asyncio.sleep(0)
            if item == 50:
                raise OSError("disk full")
            seen.append(item)

    with pytest.raises(OSError, match="disk full"):
        asyncio.run(crew(work, 4))
    assert len(seen) < 60 and sorted(set(seen)) == sorted(seen)
    asyncio.run(crew(work, 0))
