"""A batch that is killed again and again against an endpoint that counts: the same bytes, hardly a call twice."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from batch_helpers import counting, kill_at, records, repeats, start, words, write_list

from qwenlong.core.tokens import Tokenizer


@pytest.mark.parametrize(
    ("items", "chunks", "kills", "delay"),
    [(8, 10, 3, 0.02), pytest.param(50, 40, 20, 0.02, marks=pytest.mark.slow)],
)
def test_killed_runs_end_as_an_unbroken_one(
    tmp_path: Path, tokenizer: Tokenizer, items: int, chunks: int, kills: int, delay: float
) -> None:
    """Kills fall where the endpoint has seen a drawn number of calls; each costs an item at most one call twice."""
    source = write_list(tmp_path / "lists", items, chunks)
    log = tmp_path / "log.txt"
    with counting(delay=delay) as server:
        whole = start(words(source, tmp_path / "whole.jsonl", server.url, tokenizer.folder), log)
        assert whole.wait(timeout=600) == 0, log.read_text()
        calls = server.count()
        assert repeats(server.log()).total() == 0
    found = records(tmp_path / "whole.jsonl").values()
    assert len(found) == items and all(row["clean"] and row["chunks"]["total"] >= chunks for row in found)
    # Half of the items are split first; each chunk is a call and so is the answer.
    assert calls == sum(row["calls"] for row in found) == sum(row["chunks"]["total"] + 1 for row in found) + items // 2
    with counting(delay=delay) as server:
        line = words(source, tmp_path / "broken.jsonl", server.url, tokenizer.folder)
        before: Counter[str] = Counter()
        drawn = random.Random(f"kills/{items}")
        for point in sorted(drawn.sample(range(1, calls), kills)):
            process = start(line, log)
            # What is asked again must not use up the calls until the next kill.
            assert kill_at(process, server, point + before.total()), log.read_text()
            after = repeats(server.log())
            assert all(after[name] - before[name] <= 1 for name in after), after - before
            before = after
        last = start(line, log)
        assert last.wait(timeout=600) == 0, log.read_text()
        after = repeats(server.log())
        assert all(after[name] - before[name] <= 1 for name in after), after - before
        made = server.count()
        print(f"\n{items} x {chunks}: {kills} kills, {calls} calls unbroken, {made} in all, {after.total()} repeated")
        assert made == calls + after.total()
        # A finished batch asks nothing, and writes the same.
        assert start(line, log).wait(timeout=600) == 0 and server.count() == made
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # Nor does it need the endpoint.
    (tmp_path / "broken.jsonl").unlink()
    assert start(line, log).wait(timeout=600) == 0
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
