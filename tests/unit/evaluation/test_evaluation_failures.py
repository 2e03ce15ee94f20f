"""Endpoints that fail, lie and die: what failed is named, counted, and asked again; nothing is dropped in silence."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import make_tokenizer
from quiz import lines, right
from typer.testing import CliRunner

from qwenlong.core.files import read_jsonl
from qwenlong.core.records import Prediction
from qwenlong.evaluation.commands import app
from scripted import Endpoint, serving

HERE = Path(__file__).parent
RUN = CliRunner()
Line = Callable[..., list[str]]


def predictions(folder: Path) -> dict[str, Prediction]:
    """Read a run's predictions."""
    return {one.id: one for one in read_jsonl(folder / "predictions.jsonl", Prediction)}


def test_a_fifth_of_the_calls_fail(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """Failed items are named, stay in N, are all that the same command asks; then the run equals an unbroken one."""
    server.answer = right
    assert RUN.invoke(app, quiz_line(server.url, out="whole")).exit_code == 0
    server.requests.clear()

    def flaky(body: dict[str, Any]) -> Any:
        drawn = int(hashlib.sha256(f"{body['seed']}".encode()).hexdigest(), 16) % 5
        return {"status": 500} if drawn == 0 else right(body)

    server.answer = flaky
    done = RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--json")))
    summary, found = json.loads(done.stdout.splitlines()[0]), predictions(tmp_path / "out")
    failed = [name for name, one in found.items() if one.error is not None]
    assert 4 < len(failed) < 24 and list(found) == [f"q{n}" for n in range(60)]
    assert done.exit_code == 1
    assert f"{len(failed)} of 60 responses failed: {', '.join(failed[:8])}" in done.output
    assert "status 500" in done.output and "the same command asks for them again" in done.output
    assert (summary["n_attempted"], summary["n_scored"]) == (60, 60 - len(failed))
    assert summary["metrics"]["avg"]["value"] == pytest.approx((60 - len(failed)) / 60)
    assert summary["metrics"]["avg_scored"]["value"] == 1.0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert sorted(run["failed"]) == sorted(failed) and run["errors"] == len(failed)
    server.requests.clear()
    server.answer = right
    done = RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--json")))
    assert done.exit_code == 0 and len(server.requests) == len(failed)
    for name in ("predictions.jsonl", "scores.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(row) for row in (tmp_path / "out/timings.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"q{n}" for n in range(60)]
    assert all(row["requests"] == 1 and row["seconds"] > 0 and row["server"] == server.url for row in rows)


def test_retries_heal_and_are_counted(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """With tries left nothing fails; timings.jsonl tells how many there were, the predictions do not."""
    seen: set[int] = set()

    def first_fails(body: dict[str, Any]) -> Any:
        if body["seed"] % 4 == 0 and body["seed"] not in seen:
            seen.add(body["seed"])
            return {"status": 503, "headers": {"Retry-After": "0"}}
        return right(body)

    server.answer = first_fails
    assert RUN.invoke(app, quiz_line(server.url)).exit_code == 0
    rows = [json.loads(row) for row in (tmp_path / "out/timings.jsonl").read_text().splitlines()]
    assert sum(row["retries"] for row in rows) == len(seen) > 5
    assert all(row["failures"] == ({"status_503": 1} if row["retries"] else {}) for row in rows)
    for one in predictions(tmp_path / "out").values():
        assert set(one.model_dump()) == set(Prediction.model_fields) and len(one.prompt_digest) == 64


def test_the_digest_is_of_the_rendered_prompt(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """Anyone can make it again from the request."""
    server.answer = right
    RUN.invoke(app, quiz_line(server.url, more=("--limit", "3", "--samples", "2")))
    made = make_tokenizer(tmp_path / "again")
    digests = {hashlib.sha256(made.render_chat(body["messages"]).encode()).hexdigest() for body in server.requests}
    assert {one.prompt_digest for one in predictions(tmp_path / "out").values()} == digests and len(digests) == 6


def test_all_fail(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """Exit code 1, no scores full of zeros, and a dead endpoint is not asked for each of the items."""
    server.answer = lambda body: {"status": 500}
    done = RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--concurrency", "4")))
    assert done.exit_code == 1 and "no item could be asked; the first says" in done.output
    assert not (tmp_path / "out").exists() and 8 <= len(server.requests) <= 12


def test_an_endpoint_that_dies_half_way(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """What was left unasked is failed by name too, and asked by the same command."""
    server.answer = lambda body: {"status": 500} if len(server.requests) > 30 else right(body)
    done = RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--concurrency", "2")))
    found = predictions(tmp_path / "out")
    assert done.exit_code == 1 and "30 of 60 responses failed" in done.output and len(server.requests) < 40
    assert sum((one.error or "").startswith("not asked: the endpoint gave up") for one in found.values()) > 20
    asked, server.answer = len(server.requests), right
    assert RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--concurrency", "2"))).exit_code == 0
    assert len(server.requests) == asked + 30


def test_items_are_spread_and_a_dead_server_is_left_out(
    quiz_line: Line, server: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three servers, one of which breaks down and one that nobody runs: every item is asked, elsewhere if need be."""
    server.answer = lambda body: {"text": right(body), "pause": 0.01}
    with serving() as other:
        other.answer = lambda body: (
            {"text": right(body), "pause": 0.01} if len(other.requests) < 10 else {"status": 500}
        )
        urls = (server.url, other.url, "http://127.0.0.1:9/v1")
        done = RUN.invoke(app, quiz_line(*urls, more=("--retries", "0", "--concurrency", "3")))
        assert done.exit_code == 0, done.output
        # Each server has its own share under way; a broken one costs what was under way there.
        assert 9 <= other.paid.total() <= 10 and len(other.requests) <= 14
    assert server.paid.total() == 60 - other.paid.total()
    assert f"{other.url} is left out" in caplog.text and "127.0.0.1:9/v1 is left out" in caplog.text
    rows = [json.loads(row) for row in (tmp_path / "out/timings.jsonl").read_text().splitlines()]
    assert {row["server"] for row in rows} == {server.url, other.url}
    # One server alone gives the same bytes.
    RUN.invoke(app, quiz_line(server.url, out="alone"))
    for name in ("predictions.jsonl", "scores.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_replies_of_other_addresses_count_when_told(quiz_line: Line, server: Endpoint) -> None:
    """By default another address is another model."""
    server.answer = lambda body: {"status": 400} if "<<q7>>" in body["messages"][-1]["content"] else right(body)
    assert RUN.invoke(app, quiz_line(server.url, more=("--any-address",))).exit_code == 1
    with serving() as other:
        other.answer = right
        assert (
            RUN.invoke(app, quiz_line(other.url, more=("--any-address",))).exit_code == 0 and len(other.requests) == 1
        )
        assert RUN.invoke(app, quiz_line(other.url, out="new")).exit_code == 0 and len(other.requests) == 61


def test_hostile_responses_are_kept_as_they_are(
    quiz_line: Line, server: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten megabytes, NUL, half a character, other line ends, a null content: stored, scored, told where it is odd."""
    odd: dict[str, Any] = {
        "q0": {"text": "1 " * 5_000_000},
        "q1": {"text": "2\x00\x01\x85\u2028\u2029\r\n end"},
        "q2": {"text": "3 \ud83d!"},
        "q3": {"text": None},
        "q4": {"text": "5", "finish": "length"},
        "q5": {"body": b"\x00\xff not JSON"},
    }

    def answer(body: dict[str, Any]) -> Any:
        name = body["messages"][-1]["content"].partition("<<")[2].partition(">>")[0]
        return odd.get(name, right(body))

    server.answer = answer
    done = RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--json")))
    assert done.exit_code == 1 and "1 of 60 responses failed: q5; the first says" in done.output
    assert "no completion" in done.output
    found = predictions(tmp_path / "out")
    assert found["q0"].response == odd["q0"]["text"] and found["q1"].response == odd["q1"]["text"]
    assert (found["q2"].response, found["q3"].response, found["q4"].finish_reason) == ("3 ?!", "", "length")
    assert "q0: a response of 10000000 characters" in caplog.text and "ignores max_tokens" in caplog.text
    assert json.loads(done.stdout.splitlines()[0])["n_scored"] == 59
    line_score = ["score", "quiz", "--examples", str(tmp_path / "items.jsonl")]
    line_score += ["--predictions", str(tmp_path / "out/predictions.jsonl"), "--out", str(tmp_path / "s.json")]
    assert RUN.invoke(app, line_score).exit_code == 0
    values = {row["id"]: row["values"] for row in json.loads((tmp_path / "s.json").read_text())["items"]}
    assert values["q0"] and values["q1"] and values["q2"]


def test_wrong_usage(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """Exit code 2, and nothing is asked."""
    for more, said in (
        (("--agent",), "no document to read through the memory agent"),
        (("--shard", "3/2"), "--shard '3/2': give I/N"),
        (("--shard", "1/2", "--ray-shards", "2"), "exclude each other"),
        (("--top-p", "0"), "top_p"),
    ):
        done = RUN.invoke(app, quiz_line(server.url, more=more))
        assert done.exit_code == 2 and said in done.output, done.output
    twice = tmp_path / "items.jsonl"
    twice.write_bytes(lines(3) + lines(1))
    done = RUN.invoke(app, quiz_line(server.url))
    assert done.exit_code == 1 and "the id 'q0' stands twice" in done.output
    assert not server.requests and not (tmp_path / "out").exists()


CHILD = """
import sys
sys.path[:0] = {paths!r}
from quiz import quiz
from qwenlong.evaluation import registry
from qwenlong.evaluation.commands import app
registry.BENCHMARKS["quiz"] = quiz()
app(sys.argv[1:])
"""


def child(words: list[str], limit: int | None = None) -> subprocess.Popen[str]:
    """Run the command in a process of its own; `limit` is the most bytes of a file that it may write."""

    def small() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    script = CHILD.format(paths=[str(HERE), str(HERE.parent / "memory_agent")])
    return subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=small, env=os.environ | {"MALLOC_ARENA_MAX": "2"},
    )  # fmt: skip


def test_killed_twice_and_resumed(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """SIGKILL loses what was under way and nothing else; the files equal an unbroken run's."""
    server.answer = lambda body: {"text": right(body), "pause": 0.05}
    assert RUN.invoke(app, quiz_line(server.url, out="whole")).exit_code == 0
    server.requests.clear()
    for most in (15, 35):
        process = child(quiz_line(server.url, more=("--concurrency", "2")))
        while len(server.requests) < most and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "out").exists()
    process = child(quiz_line(server.url, more=("--concurrency", "2")))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert 60 <= len(server.requests) <= 60 + 2 * 2
    for name in ("predictions.jsonl", "scores.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(row) for row in (tmp_path / "out/timings.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and sum(row["requests"] for row in rows) >= 58


def test_a_full_disk_ends_the_run(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """Said once, with what to do; the items are not blamed, and the same command goes on."""
    server.answer = lambda body: right(body) + " words" * 100
    process = child(quiz_line(server.url, more=("--concurrency", "1")), limit=16_000)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and said.count("error:") == 1 and "Free space" in said, said
    assert "cannot write" in said and not (tmp_path / "out").exists()
    asked = len(server.requests)
    assert 5 < asked < 40
    assert RUN.invoke(app, quiz_line(server.url)).exit_code == 0
    assert 60 <= len(server.requests) <= 61


def test_failures_may_be_left_to_the_scores(quiz_line: Line, server: Endpoint, tmp_path: Path) -> None:
    """With `--allow-failed` the run is done, its failures are told and count; unless everything failed."""
    server.answer = lambda body: {"status": 500} if "<<q7>>" in body["messages"][-1]["content"] else right(body)
    done = RUN.invoke(app, quiz_line(server.url, more=("--retries", "0", "--allow-failed")))
    assert done.exit_code == 0 and "note: 1 of 60 responses failed: q7" in done.output
    assert predictions(tmp_path / "out")["q7"].error is not None
    server.answer = lambda body: {"status": 500}
    more = ("--retries", "0", "--allow-failed", "--seed", "3")
    done = RUN.invoke(app, quiz_line(server.url, out="none", more=more))
    assert done.exit_code == 1 and "no item could be asked" in done.output
