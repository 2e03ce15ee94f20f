"""The verbs against a real HTTP endpoint and a real model directory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import endpoint
from typer.testing import CliRunner

from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.backends import open_backend
from qwenlong.memory_agent.commands import answer_app, app

RUN = CliRunner()
TEXT = "The lighthouse was built in 1881. " * 30 + "\n\nIts keeper was <b>Anna</b>.\n\n" + "Waves came in. " * 40


def scripted(request: dict[str, Any]) -> tuple[int, str]:
    """Reply as a good model would: split, copy the keeper into memory, answer from memory."""
    prompt = request["messages"][0]["content"]
    if prompt.startswith("Split"):
        return 200, "<question>Who kept the lighthouse?</question><format>One word.</format>"
    if "Section" in prompt:
        known = "Anna" in prompt
        return 200, f"<memory>{'keeper: <b>Anna</b>' if known else 'nothing'}</memory><plan>go on</plan>"
    return 200, "Anna" if "Anna" in prompt else "unknown"


def arguments(tmp_path: Path, tokenizer: Tokenizer, base_url: str, *more: str) -> list[str]:
    """The command line of one question, chunks of 150 tokens."""
    document = tmp_path / "light.txt"
    document.write_text(TEXT)
    line = ["answer", "--document", str(document), "--question", "Who kept the lighthouse? One word."]
    line += ["--base-url", base_url, "--model", "m", "--tokenizer", str(tokenizer.folder)]
    return [*line, "--chunk-tokens", "150", "--memory-tokens", "64", "--answer-tokens", "32", *more]


def test_an_endpoint_answers_with_one_call_a_chunk(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """JSON has the documented shape; the trace escapes what the document and the model say."""
    trace = tmp_path / "trace.html"
    with endpoint(scripted) as (url, requests):
        done = RUN.invoke(app, arguments(tmp_path, tokenizer, url, "--json", "--trace", str(trace)))
    assert done.exit_code == 0, done.output
    reply = json.loads(done.stdout)
    tokens = {"prompt_tokens", "completion_tokens"}
    assert set(reply) == {"answer", "memory", "chunks", "clean", "calls", "steps"} | tokens
    assert reply["clean"] is True
    total = reply["chunks"]["total"]
    assert reply["answer"] == "Anna" and total >= 3
    assert reply["chunks"] == {"total": total, "read": total, "skipped": 0, "failed": 0, "unread": 0}
    assert reply["calls"] == len(requests) == total + 2
    assert reply["prompt_tokens"] == 11 * len(requests) and reply["completion_tokens"] == 3 * len(requests)
    assert [step["kind"] for step in reply["steps"]] == ["split", *["update"] * total, "answer"]
    assert set(reply["steps"][0]) == {"index", "kind", "chunk", "status", "finish_reason"} | tokens
    assert [request["max_tokens"] for request in requests] == [64] * (total + 1) + [32]
    page = trace.read_text()
    assert "<b>Anna</b>" not in page and "&lt;b&gt;Anna&lt;/b&gt;" in page


def test_a_broken_run_resumes_from_its_journal(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The endpoint refuses the fourth call; the same command asks only for the rest."""
    broken = True

    def flaky(request: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        if broken and len(requests) == 4:
            return 400, {"error": "out of order"}
        return scripted(request)

    journal = ("--journal", str(tmp_path / "journal"))
    with endpoint(flaky) as (url, requests):
        line = arguments(tmp_path, tokenizer, url, *journal)
        failed = RUN.invoke(app, line)
        assert failed.exit_code == 1 and "400" in failed.output
        broken = False
        done = RUN.invoke(app, line)
        assert done.exit_code == 0 and done.stdout.strip() == "Anna"
        calls = len(requests)
        whole = json.loads(RUN.invoke(app, [*line, "--json"]).stdout)
        assert len(requests) == calls and whole["calls"] == calls - 1
        other = [part.replace("One word.", "Two words.") for part in line]
        assert RUN.invoke(app, other).exit_code == 0
        assert len(requests) == calls + whole["calls"]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--mode", "slow"], 2, "--mode 'slow'"),
        (["--skip"], 2, "skip = True is no part of the paper's loop; set mode: fast"),
        (["--prompts", "no/such"], 2, "'no/such' is no directory"),
        (["--window", "200"], 2, "window has 200"),
        (["--tokenizer", "no/such"], 2, "no tokenizer 'no/such'"),
        (["--document", "absent.txt"], 1, "no document absent.txt"),
        (["--api-key-env", "QWENLONG_NO_SUCH_KEY"], 2, "QWENLONG_NO_SUCH_KEY"),
    ],
)
def test_wrong_usage_is_named(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, more: list[str], code: int, message: str
) -> None:
    """Each message names the option or file; nothing is asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with endpoint(scripted) as (url, requests):
        done = RUN.invoke(app, arguments(tmp_path, tokenizer, url, *more))
    assert done.exit_code == code and message in " ".join(done.output.split()) and requests == []


def test_a_server_that_hides_the_opened_thinking(thinking_tokenizer: Tokenizer) -> None:
    """Cut short inside the thinking is unfinished; closed thinking gets its beginning back; a bare answer stays."""
    replies = {
        "cut": ("still thinking", "length"),
        "closed": ("so\n</think>\nAnna", "stop"),
        "bare": ("Anna", "stop"),
        "silent": (None, "length"),
    }

    def reply(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text, reason = replies[request["messages"][0]["content"]]
        return 200, {"choices": [{"message": {"content": text}, "finish_reason": reason}]}

    async def ask(url: str) -> dict[str, str]:
        backend = open_backend("m", base_url=url, tokenizer=str(thinking_tokenizer.folder))
        found = {}
        for name in replies:
            messages = [{"role": "user", "content": name}]
            turn = await backend.complete(messages, max_tokens=9, temperature=0.0, top_p=1.0, seed=2**62)
            assert turn.prompt_tokens == thinking_tokenizer.count_chat(messages)
            found[name] = turn.text
        await backend.close()
        return found

    with endpoint(reply) as (url, _):
        found = asyncio.run(ask(url))
    assert found == {
        "cut": "<think>\nstill thinking",
        "closed": "<think>\nso\n</think>\nAnna",
        "bare": "Anna",
        "silent": "<think>\n",
    }


def test_a_local_model_reads_and_answers(tmp_path: Path, model: Path) -> None:
    """A directory works in the endpoint's place, twice the same; its window is respected."""
    document = tmp_path / "d.txt"
    document.write_text(TEXT)
    line = ["--document", str(document), "--question", "Who?", "--model", str(model), "--seed", "3", "--json"]
    sizes = ["--chunk-tokens", "200", "--memory-tokens", "16", "--answer-tokens", "8"]
    first = RUN.invoke(app, ["answer", *line, *sizes])
    assert first.stdout == RUN.invoke(app, ["answer", *line, *sizes]).stdout
    reply = json.loads(first.stdout)
    assert reply["calls"] == reply["chunks"]["total"] + 2
    assert reply["completion_tokens"] <= 16 * (reply["calls"] - 1) + 8
    too_long = RUN.invoke(app, ["answer", *line])
    assert too_long.exit_code == 2 and "window has 1024" in too_long.output
    # One pass: the document exceeds the window and is refused with the way out; a short one is answered.
    refused = RUN.invoke(answer_app, [*line, "--max-tokens", "8"])
    assert refused.exit_code == 2 and "qwenlong agent answer" in refused.output
    document.write_text("A short text.")
    done = RUN.invoke(answer_app, [*line, "--max-tokens", "8"])
    assert json.loads(done.stdout.splitlines()[0])["completion_tokens"] <= 8


def test_a_local_turn_carries_what_training_needs(model: Path) -> None:
    """Ids of prompt and response, one log-probability a response token, thinking tags kept in the text."""
    backend = open_backend(str(model))
    messages = [{"role": "user", "content": "Hello"}]
    turn = asyncio.run(backend.complete(messages, max_tokens=12, temperature=1.0, top_p=1.0, seed=5))
    assert turn.prompt_ids == backend.tokenizer.encode(backend.tokenizer.render_chat(messages))
    assert len(turn.response_ids) == len(turn.log_probs) == turn.completion_tokens
    assert all(value <= 0 for value in turn.log_probs)
    assert turn.text == backend.tokenizer.decode(turn.response_ids).removesuffix("<|im_end|>")
