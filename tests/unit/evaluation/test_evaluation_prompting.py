"""Prompts within the limit: the question whole, both ends of the context, no token too many and few to spare."""

from __future__ import annotations

import time

import pytest
from agent_helpers import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import prompting
from qwenlong.memory_agent.loop import Messages

QUESTION = "What did the old mill grind, and who said so?"


def build(context: str) -> Messages:
    """The question stands behind the context."""
    return [{"role": "user", "content": f"Read this.\n\n{context}\n\nQuestion: {QUESTION}"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level tokenizer: characters outside its corpus are several tokens."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


PARTS = st.sampled_from(
    ["the answer is ", "\n\n", "        ", "<|im_end|>", "磨坊", "🦊🦊", "é", "x" * 40, "0123456789", "\t", "the"]
)
TEXTS = st.lists(st.one_of(PARTS, st.text(st.characters(exclude_categories=["Cs"]), max_size=12)), max_size=80).map(
    "".join
)


@given(text=TEXTS, times=st.integers(1, 30), room=st.integers(8, 300))
@settings(max_examples=150)
def test_the_question_is_whole_and_the_limit_kept(tokenizer: Tokenizer, text: str, times: int, room: int) -> None:
    """For any text and limit: whole where it fits, else both ends, to the letter, and few tokens to spare."""
    context = text * times
    limit = tokenizer.count_chat(build(prompting.MARK)) + room
    chat = prompting.fit("q1", context, build, tokenizer, limit)
    size = tokenizer.count_chat(chat)
    assert size <= limit
    whole = build(context)
    if tokenizer.count_chat(whole) <= limit:
        assert chat == whole
        return
    before, _, after = chat[0]["content"].partition("Read this.\n\n")[2].rpartition(f"\n\nQuestion: {QUESTION}")
    assert after == "" and chat[0]["content"].endswith(QUESTION)
    # The mark may stand in the text itself: at one of its places the two ends meet.
    ends = [
        (before[:at], before[at + len(prompting.MARK) :])
        for at in range(len(before))
        if before.startswith(prompting.MARK, at)
    ]
    kept = [(head, tail) for head, tail in ends if context.startswith(head) and context.endswith(tail)]
    assert kept and min(len(head) + len(tail) for head, tail in kept) < len(context)
    # One character can be four tokens, and it stands at either end of the cut.
    assert size >= limit - 2 * 4 - prompting.SPARE, (size, limit)


def test_both_ends_have_the_same_share(tokenizer: Tokenizer) -> None:
    """Half of what is kept comes from either end."""
    context = " ".join(f"line {n} of the tale" for n in range(3000))
    text = prompting.fit("q1", context, build, tokenizer, 800)[0]["content"]
    head, tail = text.removeprefix("Read this.\n\n").removesuffix(f"\n\nQuestion: {QUESTION}").split(prompting.MARK)
    assert abs(tokenizer.count(head) - tokenizer.count(tail)) <= 4
    assert "line 0 of" in head and "line 2999 of" in tail


@pytest.mark.parametrize("room", [-50, -1, 0])
def test_a_question_that_does_not_fit_is_refused(tokenizer: Tokenizer, room: int) -> None:
    """By name, with the limit and the remedy."""
    limit = tokenizer.count_chat(build(prompting.MARK)) + room
    with pytest.raises(DataError, match=rf"q1: the question alone exceeds {limit} tokens; raise"):
        prompting.fit("q1", "word " * 500, build, tokenizer, limit)


def test_a_context_of_millions_of_tokens_is_cut_quickly(tokenizer: Tokenizer) -> None:
    """Only the ends of a long context are encoded: thirty times the text costs less than ten times the time."""
    text = "The miller of the old mill said that the answer is in the memory. " * 5000

    def seconds(times: int) -> float:
        context = text * times
        start = time.perf_counter()
        size = tokenizer.count_chat(prompting.fit("q1", context, build, tokenizer, 4000))
        assert 4000 - prompting.SPARE <= size <= 4000
        return time.perf_counter() - start

    seconds(1)
    short = min(seconds(1) for _ in range(3))
    assert tokenizer.count(text) * 30 > 2_000_000
    assert min(seconds(30) for _ in range(3)) < 10 * short + 0.1


def test_a_long_context_of_few_tokens_is_whole(tokenizer: Tokenizer) -> None:
    """Thirteen characters a token: pieces cut tokens in two, and the count must not be taken from them."""
    context = "<|endoftext|>" * 20_000
    limit = tokenizer.count_chat(build(context))
    assert len(context) > 8 * limit + 65_536
    assert prompting.fit("q", context, build, tokenizer, limit) == build(context)
    assert tokenizer.count_chat(prompting.fit("q", context, build, tokenizer, limit - 1)) <= limit - 1
