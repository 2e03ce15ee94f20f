"""A run in parts equals the whole, whatever the division; parts of two runs are not mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quiz import QuizItem, Record, lines, right
from typer.testing import CliRunner

from qwenlong.core.errors import UsageError
from qwenlong.evaluation import shards
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.shards import Shard
from scripted import Endpoint

RUN = CliRunner()
Line = Callable[..., list[str]]
FILES = ("predictions.jsonl", "scores.json")


@given(n=st.integers(0, 50), of=st.integers(1, 9))
def test_parts_are_a_division(n: int, of: int) -> None:
    """Each item in one part; sizes differ by one at most."""
    parts = [Shard(number, of).part(range(n)) for number in range(1, of + 1)]
    assert sorted(sum(parts, [])) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(n=st.integers(1, 60), few=st.integers(1, 60), more=st.integers(1, 60), seed=st.integers(0, 5))
def test_a_smaller_limit_is_part_of_a_larger(n: int, few: int, more: int, seed: int) -> None:
    """Drawn by the seed and the ids, in the order of the file."""
    items = [QuizItem(Record(id=f"q{k}", question="", answer="")) for k in range(n)]
    few, more = sorted((few, more))
    small = [item.id for item in shards.drawn(items, few, seed, "b")]
    large = [item.id for item in shards.drawn(items, more, seed, "b")]
    assert len(small) == min(n, few) and set(small) <= set(large)
    assert large == [item.id for item in items if item.id in set(large)]
    assert shards.drawn(items, None, seed, "b") == items


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b"])
def test_what_is_no_shard(text: str) -> None:
    """Refused with the form."""
    with pytest.raises(UsageError, match="give I/N"):
        shards.parse(text)


def split(quiz_line: Line, url: str, count: int, *more: str) -> None:
    """Run the shards one by one."""
    for number in range(1, count + 1):
        words = quiz_line(url, out=f"part{number}", more=("--shard", f"{number}/{count}", *more))
        done = RUN.invoke(app, words)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("count", "more"), [(1, ()), (7, ("--samples", "3", "--limit", "20")), (4, ("--seed", "5"))])
def test_merged_shards_equal_the_whole_run(
    count: int, more: tuple[str, ...], quiz_line: Line, server: Endpoint, tmp_path: Path
) -> None:
    """Byte for byte, in whatever order the folders are given."""
    server.answer = right
    assert RUN.invoke(app, quiz_line(server.url, out="whole", more=more)).exit_code == 0
    asked = len(server.requests)
    split(quiz_line, server.url, count, *more)
    assert len(server.requests) == 2 * asked
    folders = [str(tmp_path / f"part{n}") for n in range(count, 0, -1)]
    done = RUN.invoke(app, ["merge", *folders, "--out", str(tmp_path / "merged"), "--json"])
    assert done.exit_code == 0, done.output
    for name in FILES:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    run, whole = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("merged", "whole"))
    same = (*shards.SAME, "calls", "prompt_tokens", "response_tokens", "errors")
    assert {key: run[key] for key in same} == {key: whole[key] for key in same}
    assert len((tmp_path / "merged/timings.jsonl").read_text().splitlines()) == asked


def test_failed_items_of_a_shard_stay_failed(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """The merge exits with 1 and names them; when they are asked again it is whole."""
    server.answer = lambda body: {"status": 400} if "<<q7>>" in body["messages"][-1]["content"] else right(body)
    for number in (1, 2):
        RUN.invoke(app, quiz_line(server.url, out=f"part{number}", more=("--shard", f"{number}/2")))
    folders = [str(tmp_path / f"part{n}") for n in (1, 2)]
    done = RUN.invoke(app, ["merge", *folders, "--out", str(tmp_path / "merged")])
    assert done.exit_code == 1 and "1 of 60 responses failed: q7" in done.output
    server.answer = right
    assert RUN.invoke(app, quiz_line(server.url, out="part2", more=("--shard", "2/2"))).exit_code == 0
    assert RUN.invoke(app, ["merge", *folders, "--out", str(tmp_path / "merged")]).exit_code == 0


def test_what_cannot_be_merged(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """A missing shard, one twice, a whole run, other settings, a file cut short, other data."""
    server.answer = right
    split(quiz_line, server.url, 2)
    RUN.invoke(app, quiz_line(server.url, out="whole"))
    RUN.invoke(app, quiz_line(server.url, out="warm", more=("--shard", "2/2", "--temperature", "0")))
    shutil.copytree(tmp_path / "part2", tmp_path / "torn")
    rows = (tmp_path / "torn/predictions.jsonl").read_text().splitlines()
    (tmp_path / "torn/predictions.jsonl").write_text("\n".join(rows[:-1]) + "\n")

    def said(*names: str) -> str:
        done = RUN.invoke(app, ["merge", *(str(tmp_path / name) for name in names), "--out", str(tmp_path / "m")])
        assert done.exit_code == 1 and not (tmp_path / "m").exists()
        return done.output

    assert "shards 2/2 are missing" in said("part1")
    assert "are both shard 1/2" in said("part1", "part1")
    assert "is of no shard" in said("part1", "whole")
    assert "parts of two runs: settings is" in said("part1", "warm")
    assert "holds 29 predictions, not 30" in said("part1", "torn")
    assert "run.json does not exist" in said("part1", "nowhere")
    (tmp_path / "items.jsonl").write_bytes(lines(61))
    assert "is not what the shards read" in said("part1", "part2")


def test_more_shards_than_items(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """An empty shard is a shard."""
    server.answer = right
    split(quiz_line, server.url, 3, "--limit", "2")
    folders = [str(tmp_path / f"part{n}") for n in (1, 2, 3)]
    done = RUN.invoke(app, ["merge", *folders, "--out", str(tmp_path / "merged"), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["n_attempted"] == 2
    assert len(server.requests) == 2
