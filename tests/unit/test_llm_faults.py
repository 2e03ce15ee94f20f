"""Every path that asks a model, over an endpoint that fails in all the usual ways: nothing lost, nothing invented.

The endpoint knows which item met which fault. `paid` is the
server's own count of requests that it answered with a whole completion.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import honest
import qwenlong
from qwenlong.cli import app
from qwenlong.core.files import read_jsonl, read_parquet, write_parquet
from qwenlong.core.llm import Client, Journal
from qwenlong.core.records import Document
from qwenlong.synthesis.mase import output
from qwenlong.synthesis.mase.run import STEPS

KEY = "correct-horse-battery-staple"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(qwenlong.__file__).parents[1]), "JUDGE_KEY": KEY}
#: Faults that end with a second try, faults of every reply, an outage that lasts; the rest of the requests are well.
TRANSIENT = ("500", "timeout", "reset", "garbage", "drop")
LASTING = ("malformed", "truncated", "declined", "rejected")
KINDS = (*TRANSIENT, *LASTING, "down", *["well"] * 8)
PATHS = ("corpus_judge", "extract", "mase", "score")


def prompt(body: dict[str, Any]) -> str:
    text: str = body["messages"][0]["content"]
    return text


@dataclass
class Sent:
    """A request that the client waits for: its time limit, and when the client is done with it."""

    loop: asyncio.AbstractEventLoop
    limit: asyncio.Timeout
    done: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def run_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], bool]:
    """Return what ends the client's time for a request that is under way; it tells whether that is what ended it.

    The time limit is the client's own, and by the clock too long to matter: a limit of seconds would also meet requests
    that the endpoint answers at once, where a machine stalls or a disk takes seconds to write a line of a journal.
    Those would be lost for good (each fault leaves one try), or paid for twice.
    """
    post, timeout = Client._post, asyncio.timeout
    sent: dict[str, Sent] = {}
    posted: ContextVar[str] = ContextVar("posted", default="")

    async def watched(client: Client, body: dict[str, Any]) -> Any:
        key = json.dumps(body, sort_keys=True)
        token = posted.set(key)
        try:
            return await post(client, body)
        finally:
            posted.reset(token)
            if key in sent:
                sent.pop(key).done.set()

    def limited(seconds: float | None) -> asyncio.Timeout:
        limit = timeout(seconds)
        if posted.get():
            sent.setdefault(posted.get(), Sent(asyncio.get_running_loop(), limit))
        return limit

    def end(body: dict[str, Any]) -> bool:
        one = sent.get(json.dumps(body, sort_keys=True))
        if one is None:
            return False
        one.loop.call_soon_threadsafe(one.limit.reschedule, one.loop.time())
        return one.done.wait(60) and one.limit.expired()

    monkeypatch.setattr(Client, "_post", watched)
    monkeypatch.setattr(asyncio, "timeout", limited)
    return end


class Faulty:
    """The script: honest agents behind a bad connection. `healed` ends the outages.

    Items of a role meet the fates in turn, by the order in which they first come; `fates` remembers who met which.
    `run_out` ends the client's time for a request; `late` tells of each that was to meet a time-out whether it did.
    """

    def __init__(self, run_out: Callable[[dict[str, Any]], bool]) -> None:
        self.run_out = run_out
        self.late: list[bool] = []
        self.tries: Counter[str] = Counter()
        self.guard = threading.Lock()
        self.fates: dict[str, dict[str, str]] = {}
        self.healed = False

    def met(self, role: str) -> Counter[str]:
        """Return how many items of a role met each fate."""
        return Counter(self.fates.get(role, {}).values())

    def __call__(self, body: dict[str, Any]) -> Any:
        key = json.dumps(body, sort_keys=True)
        with self.guard:
            self.tries[key] += 1
            first = self.tries[key] == 1
            seen = self.fates.setdefault(honest.role(body), {})
            kind = seen.setdefault(prompt(body), KINDS[len(seen) % len(KINDS)])
        if kind == "down" and not self.healed:
            return {"status": 503, "body": b"overloaded"}
        if first and kind == "timeout":
            # The server says nothing before the client has gone.
            self.late.append(self.run_out(body))
            return {"drop": True}
        if first and kind in TRANSIENT:
            return {
                "500": {"status": 500, "body": b"oops"},
                "reset": {"text": "x" * 5000, "reset": True},
                "garbage": {"body": b'{"choices": [{"mess'},
                "drop": {"drop": True},
            }[kind]
        good = honest.reply(body)
        return {
            "malformed": "Sure! " + good.partition("}")[0] if "{" in good else "Hard to say.",
            "truncated": {"text": good, "finish": "length"},
            "declined": {"text": None, "message": {"refusal": "I would rather not."}},
            "rejected": {"status": 400, "body": b"the prompt is too long"},
        }.get(kind, good)


@pytest.fixture
def setup(endpoint: Any, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Write inputs and configuration; return the words of a path's command."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    documents = read_jsonl(root / "tests/unit/synthesis/documents.jsonl", Document)
    chosen = [d for d in documents if d.category == "dialogue"][:16] + [
        d for d in documents if d.category != "dialogue"
    ][::6]
    write_parquet(tmp_path / "corpus/documents.parquet", chosen[:60], Document)
    one = {"base_url": endpoint.url, "model": "m", "retries": 1, "timeout_seconds": 300.0, "concurrency": 6}
    mase = {"clusters": 12, "documents_per_cluster": 2, "rounds": 2, "tries": 2, "max_similarity": 0.95}
    rows = [
        {"id": str(n), "task": "reading_comprehension", "question": f"Question {n}?", "answers": [f"gold {n}"],
         "response": f"Therefore, the answer is (something like {n})."}
        for n in range(40)
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["--config", tmp_path / "config.yaml"]
    corpus = ["--corpus", tmp_path / "corpus", "--out", tmp_path / "o"]
    words = {
        "corpus_judge": ["corpus", "shards", tmp_path / "corpus", *settings, "--out", tmp_path / "o"],
        "extract": ["synthesize", "extract", *settings, *corpus, "--extractor", "llm"],
        "mase": ["synthesize", "mase", *settings, *corpus],
        "score": ["score", tmp_path / "in.jsonl", tmp_path / "o/out.jsonl", "--judge", tmp_path / "config.yaml"],
    }
    (tmp_path / "o").mkdir()

    def write(path: str, **settings: Any) -> list[str]:
        own = one | {"api_key_env": "JUDGE_KEY"} | settings
        config = {
            "tracking": {"enabled": False},
            "run": {"results": str(tmp_path / "results")},
            "corpus": {"judge_filter": True, "workers": 1, "min_characters": 10},
            "synthesis": {"mase": mase, "extract": {"tries": 2}},
            "llm": {"generator": own, "reward_judge": own},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return [str(word) for word in words[path]]

    return write


def run(words: list[str]) -> tuple[int, str]:
    done = CliRunner().invoke(app, words)
    # What a command logs is in its own output, for the tests to look into.
    assert "Logging error" not in done.output
    return done.exit_code, f"{done.output}{done.exception or ''}"


def account(path: str, folder: Path, script: Faulty, open_items: bool) -> None:
    """Hold what a path reports against what the endpoint did."""
    corpus = {d.id: d for d in read_parquet(folder / "corpus/documents.parquet", Document)}
    if path == "corpus_judge":
        counts = json.loads((folder / "o/counts.json").read_text())
        said, seen = counts["judge"], script.met("corpus_judge")
        no_verdict = {"unparsed" if kind == "malformed" else kind: seen[kind] for kind in LASTING if seen[kind]}
        assert said["no_verdict"] == no_verdict and said["open"] == (seen["down"] if open_items else 0)
        assert said["asked"] == seen.total() == said["fit"] + said["unfit"] + sum(no_verdict.values()) + said["open"]
        assert counts["read"] == len(corpus) == counts["kept"] + sum(counts["dropped"].values())
        # An honest judge found nothing unfit, and no fault did.
        assert counts["dropped"]["judge"] == said["unfit"] == 0
    elif path == "extract":
        found, seen = json.loads((folder / "o/funnel.json").read_text())["llm@1"], script.met("extractor")
        assert found["passages"] == seen.total()
        assert found["passages_unavailable"] == (seen["down"] if open_items else 0)
        expected = {kind: seen[kind] for kind in LASTING if seen[kind]} | (
            {"unavailable": seen["down"]} if open_items else {}
        )
        assert found["refusals"] == expected
        steps = ("ungrounded", "not_in_quote", "not_a_node", "repeated", "kept")
        assert found["triples"] == sum(found[step] for step in steps) and found["kept"] > 20
        for line in (folder / "o/edges.jsonl").read_text().splitlines():
            edge = json.loads(line)
            quote = corpus[edge["document"]].text[edge["start"] : edge["end"]]
            assert all(edge[end].partition(":")[2] in quote for end in ("source", "target"))
    elif path == "mase":
        found = json.loads((folder / "o/funnel.json").read_text())
        for row in (found["all"], *found["rounds"].values(), *found["tasks"].values()):
            assert sum(row[step] for step in STEPS) == row["proposed"]
        for role in ("proposer", "solver", "verifier"):
            seen = script.met(role)
            for kind in ("truncated", "declined", "rejected", "down"):
                count = found["refusals"][role].get("unavailable" if kind == "down" else kind, 0)
                expected = seen[kind] if open_items or kind != "down" else 0
                if role == "proposer":
                    assert count == expected, kind
                elif open_items:
                    # What is asked in two rounds in the same words is one prompt. After the outage another question
                    # may come first, and one that was solved before be too similar to it.
                    assert count >= expected, (role, kind)
        candidates = output.read(folder / "o/candidates.jsonl")
        assert len(candidates) == found["all"]["accepted"] > 3
        for one in candidates:
            spans = zip(one.evidence, one.quotes, strict=True)
            assert all(corpus[span.document].text[span.start : span.end] == quote for span, quote in spans)
    else:
        rows = [json.loads(line) for line in (folder / "o/out.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == [str(n) for n in range(40)]
        seen = script.met("reward_judge")
        lost = seen["down"] if open_items else 0
        assert sum(row["dropped"] for row in rows) == lost + sum(seen[kind] for kind in LASTING)
        assert all(row["value"] is None if row["dropped"] else row["judge"] is True for row in rows)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_lost_nothing_invented_and_the_next_run_pays_for_the_rest_only(
    path: str, endpoint: Any, setup: Any, tmp_path: Path, run_out: Callable[[dict[str, Any]], bool]
) -> None:
    script = endpoint.answer = Faulty(run_out)
    words = setup(path)
    code, said = run(words)
    assert code == (0 if path == "score" else 1), said
    assert path == "score" or "run the same command again" in said
    account(path, tmp_path, script, open_items=True)
    # The script did what it is for.
    assert all(set(fates.values()) == set(KINDS) for fates in script.fates.values())
    script.healed = True
    code, said = run(words)
    assert code == 0, said
    account(path, tmp_path, script, open_items=False)
    assert set(endpoint.paid.values()) == {1} and all(script.late)
    # Refusals are answers, and kept: a third run asks nothing.
    endpoint.requests.clear()
    assert run(words)[0] == 0
    # `score` has no journal: what the server refused to answer, it is asked again, for nothing.
    assert path == "score" or endpoint.requests == []
    assert set(endpoint.paid.values()) == {1}


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_key_ends_a_run_early_and_reaches_no_file(
    path: str, endpoint: Any, setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = setup(path)
    wrong = "wrong-horse-battery-staple"
    monkeypatch.setenv("JUDGE_KEY", wrong)

    def guarded(body: dict[str, Any]) -> Any:
        return {"status": 401, "body": f"no such key: {wrong}".encode()}

    endpoint.answer = guarded
    code, said = run(words)
    assert wrong not in said
    if path == "score":
        # Each rollout is dropped, none counted as wrong.
        assert code == 0 and json.loads(run([*words, "--json"])[1])["dropped"] == 40
    else:
        assert code == 1 and len(endpoint.requests) <= 6 and "run the same command again" in said
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert all(wrong.encode() not in file.read_bytes() for file in files)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    endpoint.answer = honest.reply
    assert run(words)[0] == 0
    assert endpoint.headers[-1]["Authorization"] == f"Bearer {KEY}" and set(endpoint.paid.values()) == {1}


@pytest.mark.parametrize("path", PATHS)
def test_a_kill_in_the_middle_costs_no_call_twice(path: str, endpoint: Any, setup: Any, tmp_path: Path) -> None:
    held, let_go, guard, answered = threading.Semaphore(0), threading.Event(), threading.Lock(), [0]

    def slow(body: dict[str, Any]) -> Any:
        with guard:
            if answered[0] < 15 or let_go.is_set():
                answered[0] += 1
                return honest.reply(body)
        held.release()
        let_go.wait(300)
        return {"drop": True}

    endpoint.answer = slow
    words = setup(path)
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "qwenlong", *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            # All workers wait: nothing else is under way.
            assert all(held.acquire(timeout=120) for _ in range(6)), (tmp_path / "log").read_text()
            # What was answered is on disk as soon as it can be.
            limit = time.monotonic() + 120
            while len(list((tmp_path).rglob("[0-9a-f][0-9a-f]/*.json"))) < 15 and time.monotonic() < limit:
                time.sleep(0.02)
            # Meanwhile a second run on the same output is refused.
            second = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
            assert second.returncode == 1 and f"(pid {process.pid}, since" in second.stderr, second.stderr
            assert "wait for it or stop it" in second.stderr and "Traceback" not in second.stderr
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert len(endpoint.paid) == 15
    let_go.set()
    code, said = run(words)
    assert code == 0, said
    assert len(endpoint.paid) > 15 and set(endpoint.paid.values()) == {1}
    # As if nothing had happened: the same files as a run of one piece.
    results = {
        file.name: file.read_bytes()
        for file in (tmp_path / "o").iterdir()
        if file.is_file() and "provenance" not in file.name and file.name not in ("usage.json", ".lock")
    }
    assert results
    straight = [word.replace(str(tmp_path / "o"), str(tmp_path / "straight")) for word in words]
    (tmp_path / "straight").mkdir()
    assert run(straight)[0] == 0
    assert {name: (tmp_path / "straight" / name).read_bytes() for name in results} == results
    for journal in (tmp_path / "o").rglob("*.jsonl"):
        if journal.parent.name in ("journal", "judge"):
            with Journal(journal) as book:
                assert all(entry["error"] not in ("unavailable", "not_asked") for entry in book.entries())
