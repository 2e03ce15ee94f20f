"""`agent answer` over an endpoint that goes down: it ends soon, keeps what it has, and goes on when told again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import endpoint
from batch_helpers import counting
from typer.testing import CliRunner

from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.answering import PATIENCE
from qwenlong.memory_agent.commands import app

RUN = CliRunner()


def line(folder: Path, tokenizer: Tokenizer, url: str, *more: str) -> list[str]:
    """Return the words of a question over a document of some thirty sections."""
    document = folder / "d.txt"
    document.write_text("\n\n".join(f"Note {n}: the gate was opened and it rained for {n} days." for n in range(20)))
    words = ["answer", "--document", str(document), "--question", "How long did it rain? One word.", "--model", "m"]
    words += ["--base-url", url, "--tokenizer", str(tokenizer.folder), "--chunk-tokens", "40", "--memory-tokens", "64"]
    return [*words, "--answer-tokens", "32", "--retries", "0", "--journal", str(folder / "journal"), *more]


def test_an_endpoint_that_is_down_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """After so many requests in vain the rest of the document is not thrown away; no finished turn is asked again."""
    down = False

    def reply(request: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        if down or len(requests) > 6:
            return 503, {"error": "overloaded"}
        return 200, f"<memory>{len(requests)}</memory>" if "Section" in request["messages"][0]["content"] else "nine"

    with endpoint(reply) as (url, requests):
        ended = RUN.invoke(app, line(tmp_path, tokenizer, url))
        assert ended.exit_code == 1 and f"gave up on {PATIENCE} requests in a row" in ended.output, ended.output
        assert len(requests) == 6 + PATIENCE
    with endpoint(lambda request: (200, "<memory>on</memory>")) as (url, requests):
        done = RUN.invoke(app, line(tmp_path, tokenizer, url, "--json"))
        assert done.exit_code == 0, done.output
        whole = json.loads(done.stdout)
        assert len(requests) == whole["calls"] - 6 and whole["clean"] is True
    # Nobody is there any more, and nobody is needed.
    again = RUN.invoke(app, line(tmp_path, tokenizer, url, "--json"))
    assert again.exit_code == 0 and json.loads(again.stdout) == whole


def test_sections_that_were_lost_are_told_and_asked_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """One outage in the middle leaves an answer that is not clean; the same command mends it."""

    def flaky(request: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        return (500, {"error": "oops"}) if len(requests) == 9 else (200, "<memory>m</memory>")

    with endpoint(flaky) as (url, requests):
        first = RUN.invoke(app, line(tmp_path, tokenizer, url, "--json"))
        assert first.exit_code == 0, first.output
        reply = json.loads(first.stdout)
        assert f"not clean, 1 of {reply['chunks']['total']} sections left no trace" in first.stderr
        assert reply["clean"] is False and reply["chunks"]["failed"] == 1
        assert [step["finish_reason"] for step in reply["steps"]].count("error") == 1
        calls = len(requests)
        second = json.loads(RUN.invoke(app, line(tmp_path, tokenizer, url, "--json")).stdout)
        assert second["clean"] is True and second["chunks"]["failed"] == 0
        # The memory is the same with and without the lost section, and so are all prompts but that one.
        assert len(requests) == calls + 1


@pytest.mark.parametrize(
    ("more", "bound"), [(["--timeout", "0.3"], PATIENCE * 0.3), (["--deadline", "0.2"], PATIENCE * 0.2)]
)
def test_an_endpoint_that_hangs_holds_nobody_up(
    tmp_path: Path, tokenizer: Tokenizer, more: list[str], bound: float
) -> None:
    """Each request ends at its limit; the run ends by name."""
    with counting(delay=60.0) as server:
        began = time.monotonic()
        ended = RUN.invoke(app, line(tmp_path, tokenizer, server.url, *more))
        took = time.monotonic() - began
    assert ended.exit_code == 1 and ("no reply within" in ended.output or "within 0.2 s" in ended.output)
    # The request is split first, and without that nothing can be read.
    assert took < bound + 20
