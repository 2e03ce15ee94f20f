"""Proposer, solver, verifier over a scripted endpoint: what is accepted, what falls where, what a kill costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mase_documents import DOCUMENTS
from typer.testing import CliRunner

import qwenlong
from qwenlong.core.files import write_parquet
from qwenlong.core.records import Document
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.mase import output
from qwenlong.synthesis.mase.proposals import KINDS
from qwenlong.synthesis.mase.run import STEPS

#: The code under test, also in a process of its own.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(qwenlong.__file__).parents[1])}


def role(body: dict[str, Any]) -> str:
    text = body["messages"][0]["content"]
    return "proposer" if text.startswith("You write") else "solver" if text.startswith("You answer") else "verifier"


def propose(text: str) -> str:
    """A proposer that reads the first document and does what its prompt asks."""
    first = text.split("Document 1:")[1]
    passages = 3 if "three separate" in text else 2 if "two separate" in text else 1
    if "Messages of one speaker" in text:
        count = int(re.search(r"exactly (\d+) such", text)[1])  # type: ignore[index]
        number = next(n for n, part in enumerate(text.split("\nDocument "), 0) if "A: I saw" in part) or 1
        number = next(int(n) for n, body in re.findall(r"Document (\d+):\n(?:.*\n){2}([AB]): I saw", text)) or number
        part = text.split(f"Document {number}:")[1]
        said = re.findall(r"^A: (.*)$", part, re.MULTILINE)[:count]
        return json.dumps({"document": number, "speaker": "A", "description": "names a bird", "messages": said})
    lines = [line for line in first.splitlines()[3:] if line.strip()]
    found = re.search(r"bridge was built in (\d+)", first)
    quotes = [found.group(0) if found else lines[0], *(line[:40] for line in lines[1:3])][:passages]
    answer = found[1] if found else "bird number 0"
    marks = Counter(text)["?"]
    form = {
        "question": f"Question {len(quotes)} of {marks} kind {hash_of(text)}: when was the thing made?",
        "answer": answer,
        "evidence": [{"document": 1, "quote": quote} for quote in quotes],
        "reasoning": ["It says so."],
    }
    if "three wrong ones" in text:
        named = [word for word in re.findall(r"[A-Za-z]*\d+", "\n".join(lines)) if word != answer]
        wrong = named[:3] if found else [f"bird number {n}" for n in (1, 2, 3)]
        form["distractors"] = [{"document": 1, "quote": word} for word in wrong]
    return "Let me see {not json}.\n" + json.dumps(form)


def hash_of(text: str) -> str:
    import hashlib

    return " ".join(re.findall("..", hashlib.sha256(text.encode()).hexdigest()[:16]))


def solve(text: str) -> str:
    document = text.split("Document 1:")[1]
    if "followed by the exact message" in text:
        prefix = re.search(r'answer is "(\w+:)" followed', text)[1]  # type: ignore[index]
        asked = re.search(r'Reproduce the (\w+) message of A in "(.*?)"', text)
        part = text.split(f"\n{asked[2]}\n")[1]  # type: ignore[index]
        place = ("first", "second", "third", "fourth").index(asked[1])  # type: ignore[index]
        said = re.findall(r"^A: (.*)$", part, re.MULTILINE)[place]
        return json.dumps({"found": True, "answer": f"{prefix} {said}"})
    year = re.search(r"built in (\d+)", document)
    answer = year[1] if year else "bird number 0"
    options = dict((text_, letter) for letter, text_ in re.findall(r"^\(([A-D])\) (.*)$", text, re.MULTILINE))
    return json.dumps({"found": True, "answer": options.get(answer, answer)})


def answer(body: dict[str, Any]) -> Any:
    text = body["messages"][0]["content"]
    return {"proposer": propose, "solver": solve, "verifier": lambda _: "Both say so.\n[[YES]]"}[role(body)](text)


@pytest.fixture
def setup(endpoint: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """Write corpus and configuration; return the command's words."""

    def write(**mase: Any) -> list[str]:
        write_parquet(tmp_path / "corpus" / "documents.parquet", DOCUMENTS, Document)
        one = {"base_url": endpoint.url, "model": "m", "retries": 0, "timeout_seconds": 300.0, "concurrency": 4}
        settings = {"rounds": 2, "clusters": 4, "documents_per_cluster": 2, "tries": 2, "max_similarity": 0.9} | mase
        config = {"synthesis": {"mase": {"proposer": one} | settings}, "tracking": {"enabled": False}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        words = ["mase", "--config", tmp_path / "config.yaml", "--corpus", tmp_path / "corpus", "--out", tmp_path / "o"]
        return [str(word) for word in words]

    endpoint.answer = answer
    return write


def run(words: list[str], code: int = 0) -> str:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code != 0) == (code != 0), f"{done.output}\n{done.exception!r}"
    return f"{done.output}{done.exception or ''}"


def funnel(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "funnel.json").read_text())
    for row in (found["all"], *found["rounds"].values(), *found["tasks"].values()):
        assert sum(row[step] for step in STEPS) == row["proposed"]
    return found


def test_end_to_end_and_a_second_run_pays_nothing(endpoint: Any, setup: Any, tmp_path: Path) -> None:
    words = setup()
    run(words)
    out = tmp_path / "o"
    found = funnel(out)
    assert found["all"]["accepted"] == found["all"]["proposed"] > 20, found
    assert set(found["tasks"]) == set(KINDS) and found["refusals"] == {
        r: {} for r in ("proposer", "solver", "verifier")
    }
    candidates = output.read(out / "candidates.jsonl")
    by_id = {document.id: document for document in DOCUMENTS}
    for one in candidates:
        assert one.generator == "mase@1" and one.template.startswith("mase_") and one.evidence
        assert all(by_id[span.document].text[span.start : span.end].strip() for span in one.evidence)
        assert one.holds([by_id[name] for name in one.documents])
        assert not one.holds([])
    # Exact kinds need no verifier; every other candidate cost three calls.
    calls = Counter(role(body) for body in endpoint.requests)
    assert calls["proposer"] == calls["solver"] == len(candidates) > calls["verifier"] > 0
    usage = json.loads((out / "usage.json").read_text())
    assert usage["this_run"]["solver"]["replies"] == calls["solver"] == usage["all_runs"]["solver"]["replies"]
    # Round 2 shows what round 1 accepted, and asks for more.
    second = [b["messages"][0]["content"] for b in endpoint.requests if role(b) == "proposer"]
    assert sum("(none yet)" in text for text in second) == found["rounds"]["1"]["proposed"]
    assert {one.n_hops for one in candidates if not one.n_needles} == {1, 2}
    assert {one.n_needles for one in candidates if one.n_needles} == {2, 4}

    before = {name: (out / name).read_bytes() for name in ("candidates.jsonl", "funnel.json")}
    endpoint.requests.clear()
    run(words)
    assert endpoint.requests == [] and before == {name: (out / name).read_bytes() for name in before}
    assert json.loads((out / "usage.json").read_text())["all_runs"]["solver"]["replies"] == calls["solver"]


def test_without_an_endpoint_it_says_what_to_set(setup: Any, tmp_path: Path) -> None:
    assert "synthesis.mase.proposer and llm.generator are not set" in run(setup(proposer=None), 2)


def change(to: str, make_reply: Callable[[str], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return the good script with one role replaced."""
    return lambda body: make_reply(body["messages"][0]["content"]) if role(body) == to else answer(body)


def edited(**values: Any) -> Callable[[str], str]:
    def reply(text: str) -> str:
        if "Messages of one speaker" in text:
            return propose(text)
        form = json.loads(propose(text).partition("\n")[2])
        return json.dumps(form | values)

    return reply


ONLY = {"tasks": ["reading_comprehension"], "rounds": 1}


@pytest.mark.parametrize(
    ("who", "reply", "step", "kind"),
    [
        ("proposer", lambda text: "I would rather not.", "malformed", "malformed"),
        ("proposer", lambda text: {"text": propose(text), "finish": "length"}, "malformed", "truncated"),
        ("proposer", lambda text: {"text": None, "message": {"refusal": "no"}}, "malformed", "declined"),
        ("proposer", edited(more=1), "malformed", "invalid"),
        ("proposer", edited(evidence=[]), "malformed", "invalid"),
        (
            "proposer",
            edited(evidence=[{"document": 1, "quote": "The bridge was never built in 1801"}]),
            "ungrounded",
            "ungrounded",
        ),
        ("proposer", edited(evidence=[{"document": 9, "quote": "bridge was built"}]), "ungrounded", "ungrounded"),
        ("proposer", edited(evidence=[{"document": 1, "quote": "in"}]), "ungrounded", "ungrounded"),
        ("proposer", edited(answer="4711"), "ungrounded", "ungrounded"),
        (
            "proposer",
            edited(question="Was it 1801, 1802, 1803, 1804, 1805, 1806, 1807, 1808, 1809, 1810? Or bird number 0?"),
            "leaked",
            "leaked",
        ),
        ("solver", lambda text: '{"found": false, "answer": ""}', "unsolved", "unsolved"),
        ("solver", lambda text: "1801", "unsolved", "malformed"),
        ("verifier", lambda text: "No.\n[[NO]]", "disagreed", None),
        ("verifier", lambda text: "They agree.", "no_verdict", "no_verdict"),
        ("verifier", lambda text: "[[YES]]\nor so", "no_verdict", "no_verdict"),
        ("verifier", lambda text: "I was told to say [[YES]]", "no_verdict", "no_verdict"),
        ("verifier", lambda text: "[[YES]] [[NO]]", "no_verdict", "no_verdict"),
        ("verifier", lambda text: {"text": "[[YES]]", "finish": "length"}, "no_verdict", "truncated"),
    ],
)
def test_each_fault_is_counted_where_it_belongs(
    endpoint: Any, setup: Any, tmp_path: Path, who: str, reply: Any, step: str, kind: str | None
) -> None:
    endpoint.answer = change(who, reply)
    run(setup(**ONLY))
    found = funnel(tmp_path / "o")
    assert found["all"]["proposed"] == 4
    # Clusters around a conversation have no year: their good proposals differ from the edited ones only by step.
    assert found["all"]["accepted"] == 0 and found["all"][step] >= 3, found["all"]
    assert kind is None or found["refusals"][who].get(kind, 0) >= 3
    assert (tmp_path / "o" / "candidates.jsonl").read_text() == ""


def test_repeated_questions_are_dropped(endpoint: Any, setup: Any, tmp_path: Path) -> None:
    endpoint.answer = change("proposer", edited(question="When was the thing made by those people?"))
    run(setup(tasks=["reading_comprehension"], rounds=1, per_cluster=3))
    found = funnel(tmp_path / "o")["all"]
    assert found["too_similar"] == found["proposed"] - 1 and found["accepted"] == 1


def test_an_outage_stops_a_cluster_and_the_next_run_goes_on(endpoint: Any, setup: Any, tmp_path: Path) -> None:
    words, paid = setup(), Counter[str]()

    def flaky(body: dict[str, Any]) -> Any:
        text = json.dumps(body, sort_keys=True)
        if role(body) == "solver" and "Arlow" in text:
            return {"status": 503}
        paid[text] += 1
        return answer(body)

    endpoint.answer = flaky
    assert "run the same command again" in run(words, 1)
    found = funnel(tmp_path / "o")
    assert found["all"]["unavailable"] > 0 and found["waiting_clusters"] >= 1

    def well(body: dict[str, Any]) -> Any:
        paid[json.dumps(body, sort_keys=True)] += 1
        return answer(body)

    endpoint.answer = well
    run(words)
    after = funnel(tmp_path / "o")
    assert after["all"]["unavailable"] == 0 and set(paid.values()) == {1}
    # The same as if nothing had happened.
    kept = (tmp_path / "o" / "candidates.jsonl").read_bytes()
    words[-1] = str(tmp_path / "straight")
    run(words)
    assert (tmp_path / "straight" / "candidates.jsonl").read_bytes() == kept


def test_a_kill_and_a_resumed_run_pay_each_call_once(endpoint: Any, setup: Any, tmp_path: Path) -> None:
    words, paid, guard = setup(), Counter[str](), threading.Lock()
    held, let_go = threading.Semaphore(0), threading.Event()

    def slow(body: dict[str, Any]) -> Any:
        with guard:
            number = sum(paid.values())
            if number < 40 or let_go.is_set():
                paid[json.dumps(body, sort_keys=True)] += 1
                return answer(body)
        held.release()
        let_go.wait(300)
        return {"drop": True}

    endpoint.answer = slow
    command = [sys.executable, "-m", "qwenlong", "synthesize", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    # All four workers wait (eight questions are still to be verified), so that nothing else is under way.
    assert all(held.acquire(timeout=120) for _ in range(4))
    journals, limit = list((tmp_path / "o" / "journal").glob("*.jsonl")), time.monotonic() + 120
    while sum(j.read_bytes().count(b"\n") for j in journals) < 40 and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    let_go.set()
    run(words)
    assert set(paid.values()) == {1}
    kept = (tmp_path / "o" / "candidates.jsonl").read_bytes()
    words[-1] = str(tmp_path / "straight")
    run(words)
    assert (tmp_path / "straight" / "candidates.jsonl").read_bytes() == kept and kept.count(b"\n") > 20


def test_a_distractor_with_the_answer_is_kept_out(endpoint: Any, setup: Any, tmp_path: Path) -> None:
    run(setup(**ONLY))
    one = next(c for c in output.read(tmp_path / "o" / "candidates.jsonl") if c.documents[0].startswith("towns"))
    by_id = {document.id: document for document in DOCUMENTS}
    home = [by_id[name] for name in one.documents]
    span = one.evidence[0]
    quote = by_id[span.document].text[span.start : span.end]
    other = next(d for d in DOCUMENTS if d.source == "talks")
    assert one.holds([*home, other])
    assert not one.holds([*home, other.model_copy(update={"text": f"They say: {quote}!"})])
    assert not one.holds([*home, other.model_copy(update={"title": home[0].title})])
