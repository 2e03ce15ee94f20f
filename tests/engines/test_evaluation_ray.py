"""Shards of a run as Ray tasks: the merged files equal those of a run in one piece."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/unit/memory_agent"))

from agent_helpers import make_tokenizer  # noqa: E402

from qwenlong.core.files import write_jsonl  # noqa: E402
from qwenlong.evaluation.commands import app  # noqa: E402
from scripted import serving  # noqa: E402

pytestmark = pytest.mark.engines
RUN = CliRunner()


def records(count: int) -> list[dict[str, object]]:
    """Return records of MRCR's published form."""
    found = []
    for number in range(count):
        turns = [
            {"role": role, "content": text}
            for place in range(3)
            for role, text in (("user", "Write a line."), ("assistant", f"Line {place} of chat {number}."))
        ]
        last = f"Chat {number}: begin with abc{number}, then repeat the second line."
        found.append(
            {
                "prompt": json.dumps([*turns, {"role": "user", "content": last}]),
                "answer": f"abc{number}Line 1 of chat {number}.",
                "random_string_to_prepend": f"abc{number}",
                "n_needles": 2,
            }
        )
    return found


def test_ray_shards_equal_the_whole_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "items.jsonl", records(11))
    make_tokenizer(tmp_path / "tokenizer")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"run": {"results": str(tmp_path / "results")}, "tracking": {"enabled": False}}))
    with serving() as one, serving() as two:
        for server in (one, two):
            server.answer = lambda body: {
                "text": "abc" + body["messages"][-1]["content"].split()[1][:-1] + f"Line {body['seed'] % 3} of it",
                "pause": 0.05,
            }
        line = ["run", "mrcr", "--data", str(tmp_path / "items.jsonl"), "--model", "m", "--samples", "2"]
        line += ["--base-url", one.url, "--base-url", two.url, "--tokenizer", str(tmp_path / "tokenizer")]
        line += ["--config", str(config), "--retries", "0", "--json"]
        whole = RUN.invoke(app, [*line, "--out", str(tmp_path / "whole")])
        assert whole.exit_code == 0, whole.output
        counts = len(one.requests), len(two.requests)
        assert sum(counts) == 22 and min(counts) > 0
        parts = RUN.invoke(app, [*line, "--out", str(tmp_path / "parts"), "--ray-shards", "3"])
        assert parts.exit_code == 0, parts.output
        assert len(one.requests) + len(two.requests) == 44 and len(one.requests) > counts[0]
        for name in ("predictions.jsonl", "scores.json"):
            assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert json.loads((tmp_path / "parts/run.json").read_text())["shards"] == 3
        # A server that refuses one chat: its shard is no failure, the item is, by name; asked again it is whole.
        for server in (one, two):
            answer = server.answer
            server.answer = lambda body, answer=answer: (
                {"status": 400} if "Chat 5:" in body["messages"][-1]["content"] else answer(body)
            )
        again = [*line, "--out", str(tmp_path / "again"), "--ray-shards", "3", "--seed", "4"]
        failed = RUN.invoke(app, again)
        assert failed.exit_code == 1 and "2 of 22 responses failed: 5@0, 5@1" in failed.output
        for server in (one, two):
            server.answer = lambda body: "abc5"
        before = len(one.requests) + len(two.requests)
        assert RUN.invoke(app, again).exit_code == 0
        # Of all shards only what failed is asked again.
        assert len(one.requests) + len(two.requests) == before + 2
        assert not list((tmp_path / "results/state").rglob("*.jsonl"))
