"""What goes wrong on the way: unusable replies, repairs, endpoints that give up, requests that cannot be split."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from told import Reply, Told

from qwenlong.core import templates
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.llm import Rejected, Unavailable
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.loop import Result, fold

SIZES: dict[str, Any] = {"memory_tokens": 60, "answer_tokens": 30}
CHUNKS = ["One. ", "Two. ", "Three. "]
GOOD = "<memory>good {turn}</memory><plan>p</plan>"
REPAIR = Gains(repair=True)
BROKEN: list[tuple[Reply, str]] = [
    ("", "empty"),
    ("<memory></memory>", "empty"),
    (("<think>\nendless", "length"), "unfinished"),
    ("no tags at all", "malformed"),
    (("<memory>cut o", "length"), "malformed"),
    (f"<memory>{'long ' * 200}</memory>", "over_budget"),
    (("I must not say", "content_filter"), "empty"),
    (("I decline", "refusal"), "empty"),
]


def run(model: Told, tokenizer: Tokenizer, gains: Gains | None = None, **more: Any) -> Result:
    """Fold three chunks."""
    options = SIZES | {"question": "Who?", "instruction": "Short.", "chunks": CHUNKS} | more
    question, instruction, chunks = (options.pop(name) for name in ("question", "instruction", "chunks"))
    return asyncio.run(fold(question, instruction, chunks, model, tokenizer=tokenizer, gains=gains, **options))


def script(**replies: Reply) -> Told:
    """Return a model that says something special at some turns (t1=…), and good memories otherwise."""
    return Told(lambda prompt, turn: replies.get(f"t{turn}", GOOD.format(turn=turn)))


@pytest.mark.parametrize(("reply", "status"), BROKEN)
def test_a_broken_reply_is_asked_for_once_more(tokenizer: Tokenizer, reply: Reply, status: str) -> None:
    """The repair sees the same prompt and what was wrong; its reply counts, with its own number and seed."""
    model = script(t1=reply)
    result = run(model, tokenizer, REPAIR)
    assert [step.status for step in result.steps] == ["ok", status, "repaired", "ok", "ok"]
    assert [step.kind for step in result.steps] == ["update", "update", "repair", "update", "answer"]
    # Planned turns are 0 to 3, repairs come after them.
    assert [turn for _, _, turn in model.calls] == [0, 1, 4 + 1, 2, 3]
    assert model.prompts[2].startswith(model.prompts[1]) and "could not be used" in model.prompts[2]
    assert result.steps[1].memory == "good 0" and not result.steps[1].used and result.steps[2].memory == "good 5"
    assert result.chunks() == {"total": 3, "read": 3, "skipped": 0, "failed": 0, "unread": 0} and result.clean


@pytest.mark.parametrize(("reply", "status"), BROKEN)
def test_after_a_repair_in_vain_the_last_good_memory_stays(tokenizer: Tokenizer, reply: Reply, status: str) -> None:
    """One repair and no more; the chunk counts as failed, and the result is not clean."""
    model = script(t1=reply, t5=reply)
    result = run(model, tokenizer, REPAIR)
    assert [step.status for step in result.steps] == ["ok", status, status, "ok", "ok"]
    assert "good 0" in model.prompts[3] and result.steps[2].memory == "good 0" and result.steps[2].plan == "p"
    assert result.chunks() == {"total": 3, "read": 2, "skipped": 0, "failed": 1, "unread": 0} and not result.clean


@pytest.mark.parametrize(("reply", "status"), BROKEN)
def test_without_repairs_there_is_one_call_a_chunk(tokenizer: Tokenizer, reply: Reply, status: str) -> None:
    """The paper's loop: a reply without tags is the memory, one that is too long is cut, nothing is asked twice."""
    model = script(t1=reply)
    result = run(model, tokenizer)
    assert len(model.calls) == 4 and result.steps[1].status == status
    kept = status in ("empty", "unfinished")
    assert (result.steps[1].memory == "good 0") is kept
    assert result.chunks()["failed"] == int(kept) and result.clean is not kept
    assert tokenizer.count(result.steps[1].memory) <= 60


def test_a_skip_is_a_good_reply_to_a_repair(tokenizer: Tokenizer) -> None:
    """Nothing to add, said at the second try."""
    result = run(script(t1="", t5="<nothing/>"), tokenizer, Gains(repair=True, skip=True))
    assert result.steps[2].status == "skipped" and result.chunks()["skipped"] == 1 and result.clean


def test_a_chunk_that_the_endpoint_gave_up_on_is_counted(tokenizer: Tokenizer) -> None:
    """Memory and plan stay, reading goes on, the step says why; with gains and without."""
    for gains in (Gains(), REPAIR, Gains(recall_tokens=20, recall_chunks=True)):
        model = script(t1=Unavailable("status 503"))
        result = run(model, tokenizer, gains)
        step = result.steps[1]
        assert (step.status, step.error, step.turn.finish_reason) == ("failed", "status 503", "error")
        assert step.memory == "good 0" and not step.used and step.turn.prompt_tokens == 0
        assert len(model.calls) == 4 and "good 0" in model.prompts[2]
        assert result.chunks() == {"total": 3, "read": 2, "skipped": 0, "failed": 1, "unread": 0} and not result.clean


def test_a_repair_that_gets_no_reply_fails_its_chunk(tokenizer: Tokenizer) -> None:
    """The reason is the endpoint's."""
    result = run(script(t1="", t5=Unavailable("timeout")), tokenizer, REPAIR)
    assert [step.status for step in result.steps][1:3] == ["empty", "failed"] and result.chunks()["failed"] == 1


@pytest.mark.parametrize("gains", [Gains(), REPAIR, Gains(parallel=3)])
def test_nothing_is_answered_when_nothing_could_be_read(tokenizer: Tokenizer, gains: Gains) -> None:
    """All chunks without a reply: the number, and the endpoint's last word."""
    with pytest.raises(Unavailable, match=r"none of 3 chunks could be read, the last for: status 503"):
        run(Told(lambda prompt, turn: Unavailable("status 503")), tokenizer, gains)


def test_nothing_is_answered_when_no_chunk_left_a_trace(tokenizer: Tokenizer) -> None:
    """With repairs, a model that never gives a memory is no silent empty answer."""
    with pytest.raises(QwenlongError, match=r"none of 3 chunks left a trace.*empty.*memory_tokens"):
        run(Told(lambda prompt, turn: ""), tokenizer, REPAIR)


def test_an_answer_without_a_reply_is_an_error(tokenizer: Tokenizer) -> None:
    """Not an empty answer."""
    with pytest.raises(Unavailable, match="all sections are read, but the answer failed: status 503"):
        run(script(t3=Unavailable("status 503")), tokenizer)


def test_an_answer_is_repaired_too(tokenizer: Tokenizer) -> None:
    """Unfinished thinking, then the answer; without repairs it stays empty and the result is not clean."""
    endless: Reply = ("<think>\nendless", "length")
    result = run(script(t3=endless, t7="Rome"), tokenizer, REPAIR)
    assert result.answer == "Rome" and result.steps[-1].status == "repaired" and result.clean
    assert result.response == "Rome"
    result = run(script(t3=endless), tokenizer)
    assert result.answer == "" and result.steps[-1].status == "unfinished" and not result.clean
    cut = run(script(t3=("Rome is", "length")), tokenizer)
    assert cut.answer == "Rome is" and not cut.clean


def test_a_request_that_the_server_refuses_is_an_error(tokenizer: Tokenizer) -> None:
    """A wrong key or name will not get better with the next chunk."""
    with pytest.raises(Rejected, match="status 401"):
        run(script(t0=Rejected("status 401", 401)), tokenizer, REPAIR)


def test_a_merge_that_fails_keeps_the_beginning_of_each_memory(tokenizer: Tokenizer) -> None:
    """Nothing is lost whole, and the result says that it is not clean."""
    long = "word " * 14

    def say(prompt: str, turn: int) -> Reply:
        if "Memory of part" in prompt:
            return ""
        return f"<memory>group {turn} {long}</memory>"

    result = run(Told(say), tokenizer, Gains(parallel=2))
    assert [step.status for step in result.steps] == ["ok", "ok", "ok", "empty", "ok"]
    assert not result.clean and result.chunks()["failed"] == 0
    assert "group 0" in result.memory and "group 2" in result.memory
    assert tokenizer.count(result.memory) <= 60

    def mend(prompt: str, turn: int) -> Reply:
        return "<memory>both</memory>" if "could not be used" in prompt else say(prompt, turn)

    mended = run(Told(mend), tokenizer, Gains(parallel=2, repair=True))
    assert mended.clean and mended.memory == "both"


def split(first: str, **more: Any) -> Told:
    """Return a model whose first turn splits the request."""
    return Told(lambda prompt, turn: first if turn == 0 else GOOD.format(turn=turn))


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused(tokenizer: Tokenizer, question: str) -> None:
    """Before any call."""
    model = script()
    for request in (True, False):
        with pytest.raises(UsageError, match="the question is empty"):
            run(model, tokenizer, question=question, split_request=request)
    assert model.calls == []


@pytest.mark.parametrize(
    "reply",
    [
        "<question></question><format>One word.</format>",
        "<format>One word.</format>",
        "",
        "<think>\nendless",
        "One word.",
        f"<question>{'made up ' * 30}</question><format></format>",
        "<question>𓀀𓀁𓀂𓀃𓀄</question><format></format>",
    ],
)
def test_a_split_without_a_question_asks_the_whole_request(tokenizer: Tokenizer, reply: str) -> None:
    """A request that is all format, or a split that is made up, in characters or in tokens."""
    model = split(reply)
    result = run(model, tokenizer, question="One word.", split_request=True)
    assert result.steps[0].status in ("empty", "malformed", "unfinished")
    assert "Problem: One word." in model.prompts[1] and templates.ANSWER_INSTRUCTION in model.prompts[-1]


def test_a_split_reaches_its_places(tokenizer: Tokenizer) -> None:
    """The core question goes to the updates, the format to the answer alone."""
    model = split("<question>Who is it?</question><format>One word.</format>")
    run(model, tokenizer, question="Who is it? One word.", split_request=True)
    assert "One word." not in model.prompts[1] and model.prompts[-1].endswith("One word.")


def test_a_question_longer_than_the_window_is_refused(tokenizer: Tokenizer) -> None:
    """With the turn, the numbers and the remedy."""
    model = script()
    for request, turn in ((True, "split"), (False, "update")):
        with pytest.raises(UsageError, match=rf"{turn} turn needs \d+ tokens.*window has 900.*shorten the question"):
            run(model, tokenizer, question="Why? " * 1000, split_request=request, window=900)
    assert model.calls == []
