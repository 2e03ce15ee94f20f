"""The memory agent against a real model behind a real server: `answer`, `batch`, `serve`, and no server at all.

SmolLM2-135M says little that is right; what is held here is that every path ends, what it counts adds up, and of 64
requests at once none is lost. vLLM comes in an environment of its own and takes minutes to install: `make test-slow`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests/unit/memory_agent")]

import llm_paths  # noqa: E402
from serving_helpers import Running, serving  # noqa: E402

pytestmark = pytest.mark.engines
SIZES = ["--window", "1536", "--chunk-tokens", "500", "--memory-tokens", "24", "--answer-tokens", "16"]
BOOK = (ROOT / "docs/llm.md").read_text() + (ROOT / "docs/memory_agent.md").read_text()[:2000]
QUESTION = "Which statuses are tried again? Name them."


@dataclass
class Real:
    """A served model, and the agent's options for it."""

    kind: str
    options: list[str]
    model: str
    work: Path
    book: Path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qwenlong", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "packages")}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


@pytest.fixture(scope="module", params=["transformers", "local", pytest.param("vllm", marks=pytest.mark.slow)])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    work = tmp_path_factory.mktemp(request.param)
    (work / "book.md").write_text(BOOK)
    with llm_paths.model_folder(ROOT / "data/cache") as folder:
        if request.param == "local":
            yield Real("local", ["--model", str(folder)], folder.name, work, work / "book.md")
            return
        with llm_paths.served(folder, work, request.param) as server:
            options = ["--base-url", server.url, "--model", server.model, "--tokenizer", str(folder)]
            yield Real(request.param, options, server.model, work, work / "book.md")


@pytest.fixture(scope="module")
def agent(real: Real) -> Iterator[Running]:
    with serving(real.work / "agent.log", *real.options, *SIZES) as running:
        yield running


def test_answer(real: Real) -> None:
    done = real.run("agent", "answer", "--document", real.book, "--question", QUESTION, *real.options, *SIZES, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    total = said["chunks"]["total"]
    assert total >= 3 and said["calls"] == total + 2 == len(said["steps"]) and said["answer"]
    assert said["chunks"]["read"] + said["chunks"]["failed"] == total
    assert all(0 < step["completion_tokens"] <= 24 for step in said["steps"])
    assert all(step["prompt_tokens"] + step["completion_tokens"] <= 1536 for step in said["steps"])


def test_serve(real: Real, agent: Running) -> None:
    """The official client, whole and streamed, direct and read, with steps."""
    api = openai.OpenAI(base_url=agent.url, api_key="none", max_retries=0, timeout=900)
    name = api.models.list().data[0].id
    hi: list[Any] = [{"role": "user", "content": "Say hello."}]
    long: list[Any] = [{"role": "user", "content": BOOK}, {"role": "user", "content": QUESTION}]
    steps = {"qwenlong_steps": True}

    short = api.chat.completions.create(model=name, messages=hi, max_tokens=8, extra_body=steps)
    assert short.choices[0].message.content and short.model_extra["qwenlong"]["steps"][0]["kind"] == "direct"
    parts = list(api.chat.completions.create(model=name, messages=hi, max_tokens=8, stream=True))
    assert "".join(c.delta.content or "" for part in parts for c in part.choices)
    assert [c.finish_reason for part in parts for c in part.choices if c.finish_reason][0] in ("stop", "length")

    read = api.chat.completions.create(model=name, messages=long, max_tokens=8, extra_body=steps)
    about = read.model_extra["qwenlong"]
    assert read.choices[0].message.content and about["mode"] == "agent" and about["chunks"]["total"] >= 3
    assert [step["kind"] for step in about["steps"]] == ["split", *["update"] * about["chunks"]["total"], "answer"]
    assert read.usage and read.usage.completion_tokens == sum(step["completion_tokens"] for step in about["steps"])
    text, told, usage = "", 0, None
    for part in api.chat.completions.create(
        model=name, messages=long, max_tokens=8, stream=True, stream_options={"include_usage": True}
    ):
        usage = part.usage or usage
        for choice in part.choices:
            text += choice.delta.content or ""
            told += "reasoning_content" in (choice.delta.model_extra or {})
    assert text and told == about["calls"] and usage and usage.prompt_tokens > 1536


def test_batch(real: Real) -> None:
    """Two questions over one document; the same command again asks nothing and writes the same."""
    source, out = real.work / "in.jsonl", real.work / "out.jsonl"
    items = [{"id": str(n), "question": f"{QUESTION} ({n})", "document": "book.md"} for n in range(2)]
    source.write_text("".join(json.dumps(item) + "\n" for item in items))
    words = ["agent", "batch", source, out, *real.options, *SIZES, "--json"]
    done = real.run(*words)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1"] and all(row["answer"] for row in rows)
    assert totals["items"] == totals["answered"] == 2 and totals["calls"] == sum(row["calls"] for row in rows)
    before = out.read_bytes()
    again = real.run(*words)
    assert again.returncode == 0 and json.loads(again.stdout)["calls"] == 0 and out.read_bytes() == before


@pytest.mark.parametrize("real", ["local"], indirect=True)
def test_one_pass(real: Real) -> None:
    """Without a server: a short document is answered, a book refused with the way out."""
    note = real.work / "note.txt"
    note.write_text("The lighthouse was built in 1881. Its keeper was Anna.")
    words = ["answer", "--question", "Who kept the lighthouse?", *real.options, "--max-tokens", 12, "--json"]
    done = real.run(*words, "--document", note)
    said = json.loads(done.stdout)
    assert done.returncode == 0 and set(said) == {"answer", "finish_reason", "prompt_tokens", "completion_tokens"}
    assert said["answer"] and said["finish_reason"] in ("stop", "length") and 1 <= said["completion_tokens"] <= 12
    assert ("cut off" in done.stderr) == (said["finish_reason"] == "length")
    assert real.run(*words, "--document", note).stdout == done.stdout
    note.write_text(BOOK * 9)
    refused = real.run(*words, "--document", note)
    assert refused.returncode == 2 and "qwenlong agent answer" in refused.stderr and "8192" in refused.stderr


def test_sixty_four_at_once(real: Real, agent: Running) -> None:
    """An eighth reads a document; each gets an answer or says by name what went wrong: none is lost."""
    api = openai.OpenAI(base_url=agent.url, api_key="none", max_retries=0, timeout=1500)
    name = api.models.list().data[0].id

    def one(number: int) -> str:
        messages: list[Any] = [{"role": "user", "content": f"Say {number}."}]
        if number % 8 == 0:
            messages = [{"role": "user", "content": BOOK[:6500]}, *messages]
        if number % 2:
            whole = api.chat.completions.create(model=name, messages=messages, max_tokens=8)
            return whole.choices[0].finish_reason
        parts = api.chat.completions.create(model=name, messages=messages, max_tokens=8, stream=True)
        return [c.finish_reason for part in parts for c in part.choices if c.finish_reason][-1]

    with ThreadPoolExecutor(64) as pool:
        ends = list(pool.map(one, range(64)))
    assert len(ends) == 64 and set(ends) <= {"stop", "length"}
    # A request's line is written after its last byte has gone.
    until = time.monotonic() + 60
    while (log := agent.logged()).count("status=200") < 64 and time.monotonic() < until:
        time.sleep(0.5)
    assert log.count("status=200") >= 64 and "status=5" not in log and QUESTION not in log
