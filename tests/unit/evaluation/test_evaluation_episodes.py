"""Conversations with tools, and what a benchmark prepares once before its items: seeded, resumable, failing by item."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from quiz import Quiz, QuizItem, quiz
from typer.testing import CliRunner

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import read_jsonl
from qwenlong.core.records import Prediction
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import registry
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.interface import Asking, Episode, Item
from qwenlong.memory_agent.loop import Generate, Turn
from scripted import Endpoint

RUN = CliRunner()


@dataclass(frozen=True)
class Talk(QuizItem, Episode):
    """Two calls: the second shows what the first said, and what was prepared."""

    notes: str | None = ""

    def variant(self, sample: int) -> Talk:
        """Return the item as it is."""
        return self

    async def interact(
        self, generate: Generate, tokenizer: Tokenizer, max_tokens: int, answer_tokens: int
    ) -> list[Turn]:
        """Ask twice."""
        if self.notes is None:
            raise QwenlongError(f"{self.id}: nothing was prepared")
        first = await generate(self.messages(tokenizer, max_tokens), answer_tokens, 0)
        said = [{"role": "user", "content": f"<<{self.id}>> {self.notes} / {first.text}"}]
        return [first, await generate(said, answer_tokens, 1)]


@dataclass(frozen=True)
class Talks(Quiz):
    """Prepares a note for each of two subjects; items of a subject whose note fails are lost, the others are not."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[Talk]:
        """Read the records."""
        return [Talk(item.record) for item in super().load(examples, documents)]

    async def prepare(
        self, items: Sequence[Item], asking: Asking, tokenizer: Tokenizer, max_tokens: int, answer_tokens: int
    ) -> Sequence[Item]:
        """Ask for two notes."""
        notes: list[str | None] = []
        for name in ("even", "odd"):
            try:
                turn = await asking(name)([{"role": "user", "content": f"Note {name}"}], answer_tokens, 0)
                notes.append(turn.text)
            except QwenlongError:
                notes.append(None)
        return [replace(item, notes=notes[n % 2]) for n, item in enumerate(items) if isinstance(item, Talk)]


@pytest.fixture
def talk_line(quiz_line: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The command line, the benchmark being Talks."""
    plain = quiz()
    monkeypatch.setitem(registry.BENCHMARKS, "quiz", Talks(**{**plain.__dict__}))
    return quiz_line


def test_what_was_prepared_is_asked_once(talk_line: Callable[..., list[str]], server: Endpoint, tmp_path: Path) -> None:
    """A note that fails costs its items alone; the same command asks for it, and for nothing that was answered."""
    broken = True

    def answer(body: dict[str, object]) -> object:
        text = json.dumps(body["messages"])
        return {"status": 400} if broken and "Note odd" in text else f"{body['seed']}"

    server.answer = answer
    done = RUN.invoke(app, talk_line(server.url, more=("--limit", "10")))
    assert done.exit_code == 1 and "5 of 10 responses failed" in done.output and "nothing was prepared" in done.output
    assert len(server.requests) == 2 + 2 * 5
    broken = False
    assert RUN.invoke(app, talk_line(server.url, more=("--limit", "10"))).exit_code == 0
    assert len(server.requests) == 2 + 2 * 5 + 1 + 2 * 5
    assert len({body["seed"] for body in server.requests}) == 2 + 2 * 10
    first = (tmp_path / "out/predictions.jsonl").read_bytes()
    assert RUN.invoke(app, talk_line(server.url, out="whole", more=("--limit", "10"))).exit_code == 0
    assert (tmp_path / "whole/predictions.jsonl").read_bytes() == first
    found = read_jsonl(tmp_path / "out/predictions.jsonl", Prediction)
    assert len({one.prompt_digest for one in found}) == 10
    run = json.loads((tmp_path / "whole/run.json").read_text())
    assert run["calls"] == 2 + 2 * 10 and run["response_tokens"] == 10 * 22
    # A conversation is no document.
    done = RUN.invoke(app, talk_line(server.url, more=("--agent",)))
    assert done.exit_code == 2 and "is a conversation, not a document" in done.output
