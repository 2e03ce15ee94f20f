"""The loop with a scripted model: prompts, order, failures, window, journal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qwenlong.core import templates
from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.journal import Journal
from qwenlong.memory_agent.loop import Messages, Step, Turn, fold

SIZES = {"memory_tokens": 60, "answer_tokens": 30}
CHUNKS = ["Rome was founded in 753 BC. ", "Its seventh king was Tarquin. ", "The end."]


class Scripted:
    """A model that says what it is told to, in order, and remembers what it read."""

    def __init__(self, replies: list[str | tuple[str, str]], fail_at: int | None = None) -> None:
        self.replies = replies
        self.fail_at = fail_at
        self.calls: list[tuple[str, int, int]] = []

    async def __call__(self, messages: Messages, max_tokens: int, turn_index: int) -> Turn:
        if turn_index == self.fail_at:
            raise ConnectionError("the server went away")
        self.calls.append((messages[0]["content"], max_tokens, turn_index))
        reply = self.replies[turn_index]
        text, finish = (reply, "stop") if isinstance(reply, str) else reply
        return Turn(text, finish, prompt_ids=[1, 2, 3], response_ids=[4, 5], log_probs=[-0.1, -0.2])


def test_every_turn_is_a_fresh_prompt_with_memory_and_plan(tokenizer: Tokenizer) -> None:
    """Turn k shows the memory of turn k-1 and nothing else of it; the format comes only with the answer."""
    model = Scripted(
        [
            "<think>\nsecret\n</think>\n<memory>753 BC</memory><plan>find the king</plan>",
            "<memory>753 BC; Tarquin</memory><plan>confirm</plan>",
            "<memory>753 BC; Tarquin, confirmed</memory>",
            "<think>\nx\n</think>\n\nTherefore, the answer is Tarquin",
        ]
    )
    seen: list[Step] = []
    result = asyncio.run(
        fold("Who was king?", "FORMAT", CHUNKS, model, tokenizer=tokenizer, on_step=seen.append, **SIZES)
    )
    prompts = [prompt for prompt, _, _ in model.calls]
    assert [limit for _, limit, _ in model.calls] == [60, 60, 60, 30]
    assert [index for _, _, index in model.calls] == [0, 1, 2, 3]
    assert CHUNKS[0].strip() in prompts[0] and "Section 1 of 3" in prompts[0]
    assert CHUNKS[0].strip() not in prompts[1] and "753 BC" in prompts[1] and "find the king" in prompts[1]
    assert "secret" not in prompts[1]
    assert ["FORMAT" in prompt for prompt in prompts] == [False, False, False, True]
    assert "Tarquin, confirmed" in prompts[3] and "The end." not in prompts[3]
    assert result.answer == "Therefore, the answer is Tarquin"
    assert result.response.startswith("<think>")
    assert result.memory == "753 BC; Tarquin, confirmed" and result.plan == ""
    assert tuple(seen) == result.steps
    assert result.chunks() == {"total": 3, "read": 3, "skipped": 0, "failed": 0, "unread": 0}
    assert result.steps[1].turn.response_ids == [4, 5] and result.steps[1].turn.prompt_tokens == 3


def test_unusable_replies_keep_the_memory_and_are_counted(tokenizer: Tokenizer) -> None:
    """Unfinished thinking and silence change nothing; an unfinished answer is no answer."""
    model = Scripted(
        ["<memory>fact</memory><plan>p</plan>", ("<think>\nendless", "length"), "", ("<think>\nendless", "length")]
    )
    result = asyncio.run(fold("Q?", "F", CHUNKS, model, tokenizer=tokenizer, **SIZES))
    assert result.memory == "fact" and result.plan == "p" and result.answer == ""
    assert [step.status for step in result.steps] == ["ok", "unfinished", "empty", "unfinished"]
    assert result.chunks() == {"total": 3, "read": 1, "skipped": 0, "failed": 2, "unread": 0}


def test_paper_mode_splits_the_request_with_one_call(tokenizer: Tokenizer) -> None:
    """The format half reaches the answer alone; without one the default instruction stands in."""
    replies = ["<question>Who was king?</question><format>One word.</format>", *["<memory>m</memory>"] * 3, "Tarquin"]
    model = Scripted(replies)
    query = "Who was king? One word."
    result = asyncio.run(fold(query, "", CHUNKS, model, tokenizer=tokenizer, split_request=True, **SIZES))
    assert len(model.calls) == len(CHUNKS) + 2
    assert "One word." in model.calls[-1][0] and "One word." not in model.calls[1][0]
    assert [step.kind for step in result.steps] == ["split", "update", "update", "update", "answer"]
    whole = Scripted(["nonsense", *["<memory>m</memory>"] * 3, "Tarquin"])
    asyncio.run(fold(query, "", CHUNKS, whole, tokenizer=tokenizer, split_request=True, **SIZES))
    assert templates.ANSWER_INSTRUCTION in whole.calls[-1][0] and query in whole.calls[1][0]


def test_a_window_too_small_is_refused_before_the_first_call(tokenizer: Tokenizer) -> None:
    """The message adds the numbers up; at the limit it runs, and every prompt then fits."""
    model = Scripted(["<memory>" + "long memory " * 40 + "</memory><plan>" + "p " * 40 + "</plan>"] * 3 + ["A"])
    with pytest.raises(UsageError, match=r"update turn needs \d+ .*memory 60.*chunk.*window has 100") as refused:
        asyncio.run(fold("Q?", "F", CHUNKS, model, tokenizer=tokenizer, window=100, **SIZES))
    assert model.calls == []
    needed = int(str(refused.value).split("needs ")[1].split()[0])
    with pytest.raises(UsageError, match="needs"):
        asyncio.run(fold("Q?", "F", CHUNKS, model, tokenizer=tokenizer, window=needed - 1, **SIZES))
    asyncio.run(fold("Q?", "F", CHUNKS, model, tokenizer=tokenizer, window=needed, **SIZES))
    for prompt, limit, _ in model.calls:
        assert tokenizer.count_chat([{"role": "user", "content": prompt}]) + limit <= needed
    with pytest.raises(UsageError, match="answer turn needs"):
        asyncio.run(
            fold("Q?", "F", CHUNKS, model, tokenizer=tokenizer, window=needed, memory_tokens=60, answer_tokens=2000)
        )


def test_a_killed_run_resumes_from_its_journal(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Finished turns are read, a line cut short is dropped, and the result is that of an unbroken run."""
    replies: list[str | tuple[str, str]] = [
        "<memory>753 – ü</memory><plan>k</plan>",
        "<memory>753; T</memory>",
        "<memory>753; T.</memory>",
        "T",
    ]
    path = tmp_path / "state" / "one.jsonl"
    whole = asyncio.run(fold("Q?", "F", CHUNKS, Scripted(replies), tokenizer=tokenizer, **SIZES))
    with Journal(path) as journal, pytest.raises(ConnectionError):
        broken = Scripted(replies, fail_at=2)
        asyncio.run(fold("Q?", "F", CHUNKS, journal.wrap(broken), tokenizer=tokenizer, **SIZES))
    with path.open("ab") as stream:
        stream.write(b'{"key": "/2/abc", "turn": {"te')
    model = Scripted(replies)
    with Journal(path) as journal:
        assert len(journal) == 2
        resumed = asyncio.run(fold("Q?", "F", CHUNKS, journal.wrap(model), tokenizer=tokenizer, **SIZES))
        assert journal.replayed == 2
    assert [index for _, _, index in model.calls] == [2, 3]
    assert resumed == whole
    again = Scripted(replies)
    with Journal(path) as journal:
        assert asyncio.run(fold("Q?", "F", CHUNKS, journal.wrap(again), tokenizer=tokenizer, **SIZES)) == whole
        assert again.calls == []
        # Another question meets none of the stored turns, though the file is the same.
        asyncio.run(fold("Other?", "F", CHUNKS, journal.wrap(again), tokenizer=tokenizer, **SIZES))
        assert len(again.calls) == 4


def test_one_journal_has_one_writer(tmp_path: Path) -> None:
    """A second process is refused by name."""
    with Journal(tmp_path / "j.jsonl"), pytest.raises(UsageError, match="in use by another process"):
        Journal(tmp_path / "j.jsonl")
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.put("a", Turn("x", "stop"))
        journal.close(remove=True)
    assert not (tmp_path / "j.jsonl").exists()
