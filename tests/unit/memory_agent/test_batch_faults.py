"""A batch over an endpoint that fails in all the usual ways: items finish or fail by name, and counts add up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from batch_helpers import counting, records, start, words, write_list

from qwenlong.core.tokens import Tokenizer

#: Of 40 calls: 10% 500s (one of four a 429), 5% hangs, 5% truncated and 5% malformed, half of these by the connection
#: and half by the model.
FAULTS = {"500": 3, "429": 1, "hang": 2, "half": 1, "cut": 1, "garbage": 1, "untagged": 1}
#: What the client mends by asking again; the rest is a reply of the model.
MENDED = ("500", "429", "hang", "half", "garbage")
SIZES = [(8, 10, 2), pytest.param(50, 40, 60, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("items", "chunks", "most"), SIZES)
@pytest.mark.parametrize("retries", [6, 0])
def test_every_item_finishes_or_fails_by_name(
    tmp_path: Path, tokenizer: Tokenizer, items: int, chunks: int, most: int, retries: int
) -> None:
    """With tries enough nothing is lost; with none, what is lost is counted and mended by running the command again."""
    source, out = write_list(tmp_path / "lists", items, chunks), tmp_path / "out.jsonl"
    # Seconds enough that a slow machine meets no time-out of its own.
    with counting(faults=FAULTS, hang=12.0, seed=7) as server:
        limits = ("--retries", str(retries), "--timeout", "8.0", "--concurrency", "16", "--json")
        line = words(source, out, server.url, tokenizer.folder, *limits)
        runs = []
        while not runs or (runs[-1]["failed"] and len(runs) < most):
            stdout = tmp_path / f"run{len(runs)}.txt"
            code = start(line, stdout).wait(timeout=600)
            runs.append(json.loads(next(row for row in stdout.read_text().splitlines() if row.startswith("{"))))
            account(records(out), runs[-1], items, code)
            if len(runs) == 1:
                first = records(out), Counter(kind for _, _, kind in server.log())
        calls = server.log()
    met = Counter(kind for _, _, kind in calls)
    assert set(met) == {*FAULTS, ""}
    found, log_of_first = first
    steps = [step for row in found.values() for step in row["steps"]]
    status = Counter(step["status"] for step in steps)
    if retries:
        # Each fault of the connection was mended, each of the model is a step's.
        assert not runs[0]["failed"] and len(runs) == 1
        assert len(steps) == log_of_first[""] + log_of_first["cut"] + log_of_first["untagged"]
    else:
        lost = sum(log_of_first[kind] for kind in MENDED)
        # A fault costs a section, or ends an item at its split or answer; all of them are told.
        assert lost == status["failed"] + sum(not row["answer"] for row in found.values()) > 0
        assert len(runs) == most or not runs[-1]["failed"]
    cut = sum(step["finish_reason"] == "length" for step in steps)
    assert cut == log_of_first["cut"]
    print(
        f"\n{items} x {chunks}, {retries} retries: {len(calls)} calls, faults {dict(sorted(met.items()))}; first run: "
        f"{runs[0]['answered']} answered, {len(runs[0]['failed'])} failed, {len(runs[0]['unclean'])} unclean, steps "
        f"{dict(sorted(status.items()))}; {len(runs)} runs until none failed"
    )


def account(found: dict, totals: dict, items: int, code: int) -> None:
    """Hold the counts of a run against its records."""
    assert list(found) == [f"q{number:03d}" for number in range(items)]
    failed = {name: row["error"] for name, row in found.items() if row["error"]}
    assert totals["failed"] == failed and code == (1 if failed else 0)
    assert totals["items"] == items == totals["answered"] + len(failed)
    for row in found.values():
        chunks, counted = row["chunks"], Counter()
        for step in row["steps"]:
            if step["kind"] == "update":
                counted[step["status"]] += 1
        assert chunks["total"] == chunks["read"] + chunks["skipped"] + chunks["failed"] + chunks["unread"]
        assert chunks["total"] - chunks["unread"] == counted.total()
        assert chunks["failed"] == counted["failed"] + counted["empty"] + counted["unfinished"]
        if row["clean"]:
            assert chunks["failed"] == chunks["unread"] == 0 and row["error"] is None and row["answer"]
        if counted["failed"]:
            assert row["error"] and not row["clean"]
        if row["error"] is None:
            assert row["answer"] and chunks["unread"] == 0
