"""A benchmark run against a real model (SmolLM2-135M behind `transformers serve`), killed and resumed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenlong.core.files import read_jsonl
from qwenlong.core.records import Prediction

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import evaluation_run  # noqa: E402
import llm_paths  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llm_paths.Server]:
    work = tmp_path_factory.mktemp("server")
    with llm_paths.model_folder(ROOT / "data/cache") as folder, llm_paths.served(folder, work) as made:
        yield made


def check(rows: list[evaluation_run.Row], work: Path) -> None:
    for row in rows:
        assert row.equal == row.items and row.kills == 2, row
        # A kill costs at most the reply that was under way.
        assert row.items <= row.replies <= row.items + row.kills, row
        folder = work / "killed" / row.benchmark
        predictions = read_jsonl(folder / "predictions.jsonl", Prediction)
        assert all(one.error is None and 0 < one.n_response_tokens <= 6 for one in predictions)
        assert all(one.n_prompt_tokens > 20 and len(one.prompt_digest) == 64 for one in predictions)
        timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
        assert [one["id"] for one in timings] == [one.id for one in predictions]
        assert sum(one["seconds"] for one in timings) > 0
        assert len({one.response for one in predictions}) > 1
        assert len({one.prompt_digest for one in predictions}) == len(predictions)


@pytest.mark.engines
def test_a_small_run_killed_twice(server: llm_paths.Server, tmp_path: Path) -> None:
    rows = evaluation_run.measure(tmp_path, server, evaluation_run.SMALL, ROOT / "data/cache")
    assert sum(row.items for row in rows) == 16
    check(rows, tmp_path)


@pytest.mark.slow
def test_the_whole_run_killed_twice(server: llm_paths.Server, tmp_path: Path) -> None:
    rows = evaluation_run.measure(tmp_path, server, evaluation_run.FULL, ROOT / "data/cache")
    assert sum(row.items for row in rows) == 360
    check(rows, tmp_path)
