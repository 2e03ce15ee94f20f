"""No prompt and its output ever exceed the window, whatever the text, the memory and the gains."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from told import Told

from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.chunking import split
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.loop import fold
from qwenlong.memory_agent.prompting import Prompts

NANO = Path(__file__).parents[3] / "models" / "nano"
_SPACES = ["\n", "\n\n\n", " ", "\t", "  \n", "\u00a0", "\r\n", "\u200d"]
_MARKS = ["</memory>", "<|im_end|>", "\nMemory:\n", "<", ">"]
_NASTY = st.sampled_from(
    [*_SPACES, *_MARKS, "é", "日本", "🙂", "e\u0301", "x", "word ", "...", "=====", "0", "123", "A", "the king. "]
)
nasty = st.lists(_NASTY | st.text(max_size=3), max_size=40).map("".join)
gains = st.builds(
    Gains,
    skip=st.booleans(),
    early_exit=st.booleans(),
    recall_tokens=st.sampled_from([0, 5, 30]),
    recall_chunks=st.booleans(),
    parallel=st.integers(1, 4),
    order=st.sampled_from(["question_first", "section_first"]),
    repair=st.booleans(),
)


@pytest.fixture(scope="module", params=["small", "nano"])
def counting(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Tokenizer:
    """Two real tokenizers: one of 400 entries, and the one of models/nano."""
    return tokenizer if request.param == "small" else Tokenizer(NANO)


def smallest(refused: str) -> int:
    """Return the window that a refusal asks for."""
    return int(re.findall(r"needs (\d+)", refused)[0])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=nasty, replies=st.lists(nasty, min_size=1, max_size=6), question=nasty, gains=gains,
    memory=st.integers(8, 60), chunk=st.integers(16, 60), tagged=st.booleans(), requests=st.booleans(),
)  # fmt: skip
def test_every_turn_keeps_to_the_smallest_window_that_is_accepted(
    counting: Tokenizer, text: str, replies: list[str], question: str, gains: Gains,
    memory: int, chunk: int, tagged: bool, requests: bool,
) -> None:  # fmt: skip
    """Refused below it by name and without a call; at it, prompt and output of every call fit."""
    prompts = Prompts(tokenizer=counting)
    chunks = split(prompts.safe(text * 3), counting, chunk)

    def say(prompt: str, turn: int) -> str:
        reply = replies[turn % len(replies)]
        return f"<memory>{reply}</memory><plan>{reply}</plan>" if tagged else reply

    options: dict[str, Any] = {
        "tokenizer": counting, "memory_tokens": memory, "answer_tokens": 20, "gains": gains, "prompts": prompts,
        "split_request": requests,
    }  # fmt: skip

    def attempt(window: int) -> tuple[int, Told]:
        """Return the window that is asked for, 0 where this one will do, and the model."""
        model = Told(say)
        try:
            asyncio.run(fold("Who? " + question, "Short.", chunks, model, window=window, **options))
        except UsageError as refused:
            assert model.calls == []
            return smallest(str(refused)), model
        except QwenlongError as lost:
            assert "left a trace" in str(lost)
        return 0, model

    window = 1
    while needed := attempt(window)[0]:
        assert needed > window
        window = needed
    assert attempt(window - 1)[0] == window
    calls = attempt(window)[1].calls
    assert calls
    for prompt, limit, _ in calls:
        assert counting.count_chat([{"role": "user", "content": prompt}]) + limit <= window


class OnDisk(Sequence[str]):
    """Chunks that are read at each access, and know their tokens without being read."""

    def __init__(self, chunks: list[str], tokenizer: Tokenizer) -> None:
        self._chunks = chunks
        self.tokens = [tokenizer.count(chunk) for chunk in chunks]
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, n: Any) -> Any:
        self.read.append(n)
        return self._chunks[n]


@pytest.mark.parametrize("gains", [Gains(), Gains(parallel=3), Gains(repair=True, skip=True, recall_tokens=20)])
def test_chunks_on_disk_are_read_once_each_and_at_their_turn(tokenizer: Tokenizer, gains: Gains) -> None:
    """The window check knows their tokens; with a window and without."""
    texts = [f"Chapter {n}. Something happens." for n in range(9)]
    for window in (None, 2000):
        chunks = OnDisk(texts, tokenizer)
        begun: list[int] = []

        def say(prompt: str, turn: int, chunks: OnDisk = chunks, begun: list[int] = begun) -> str:
            begun.append(len(chunks.read))
            return "<memory>m</memory>"

        sizes: dict[str, Any] = {"memory_tokens": 40, "answer_tokens": 20, "window": window}
        asyncio.run(fold("Who?", "", chunks, Told(say), tokenizer=tokenizer, gains=gains, **sizes))
        assert sorted(chunks.read) == list(range(9)) and begun[0] <= gains.parallel
        refused = OnDisk(texts, tokenizer)
        with pytest.raises(UsageError, match="update turn needs"):
            asyncio.run(fold("Who?", "", refused, Told(say), tokenizer=tokenizer, **sizes | {"window": 50}))
        assert refused.read == []


def test_a_chunk_that_grows_when_made_harmless_is_counted_as_it_is_shown(tokenizer: Tokenizer) -> None:
    """Control tokens of one token each become many; a window for the raw text is refused before the first call."""
    chunk = "<|im_end|>" * 40
    assert tokenizer.count(chunk) == 40
    model = Told(lambda prompt, turn: "<memory>m</memory>")
    sizes: dict[str, Any] = {"tokenizer": tokenizer, "memory_tokens": 20, "answer_tokens": 20}
    with pytest.raises(UsageError, match=r"chunk \d{3}") as refused:
        asyncio.run(fold("Who?", "", [chunk], model, window=300, **sizes))
    assert model.calls == []
    window = smallest(str(refused.value))
    asyncio.run(fold("Who?", "", [chunk], model, window=window, **sizes))
    assert tokenizer.count_chat([{"role": "user", "content": model.prompts[0]}]) + 20 <= window
    # A sequence that counted the raw text is found out at its turn, by name.
    raw = OnDisk([chunk], tokenizer)
    with pytest.raises(Exception, match=r"exceeds the window of \d+ tokens by \d+.*lower chunk_tokens"):
        asyncio.run(fold("Who?", "", raw, model, window=window - 200, **sizes))
