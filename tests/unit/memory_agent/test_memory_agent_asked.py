"""The server's rule: what is the document, and what the question."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.errors import UsageError
from qwenlong.memory_agent.asked import find

LIMIT = 40
BOOK = "\n\n".join(f"Page {n}. The sea was calm and the keeper wrote nothing into the book of days." for n in range(30))


def words(text: str) -> int:
    return len(text.split())


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("message", "document", "question", "rule"),
    [
        (f"<document>{BOOK}</document>\nWho kept it?", BOOK, "Who kept it?", "block"),
        (f'Who kept it?\n<text lang="en">{BOOK}</text>\nOne word.', BOOK, "Who kept it?\n\nOne word.", "block"),
        (f"Who?\n```md\n{BOOK}\n```", f"{BOOK}\n", "Who?", "block"),
        (f'Summarize:\n"""{BOOK}\n"""', f"{BOOK}\n", "Summarize:", "block"),
        (f"{BOOK}\n\nQuestion: Who kept it?\nInstructions: one word", f"{BOOK}\n\n",
         "Question: Who kept it?\nInstructions: one word", "marker"),
        (f"Question: what?\nAnswer: that\n{BOOK}\n**Question:** Who?", f"Question: what?\nAnswer: that\n{BOOK}\n",
         "**Question:** Who?", "marker"),
        (f"Question: Who kept it?\n\n{BOOK}", BOOK, "Question: Who kept it?", "marker"),
        (f"{BOOK}\n\nWho kept the lighthouse?", f"{BOOK}\n\n", "Who kept the lighthouse?", "paragraphs"),
        (f"Who kept it? Read below.\n\n{BOOK}\n\nOne word, please.", f"{BOOK}\n\n",
         "Who kept it? Read below.\n\nOne word, please.", "paragraphs"),
        (f"Summarize this:\n\n{BOOK}", BOOK, "Summarize this:", "paragraphs"),
        (f"THE BOOK\n\n{BOOK}\n\nTell me who kept it.", f"THE BOOK\n\n{BOOK}\n\n", "Tell me who kept it.",
         "paragraphs"),
        (f"{BOOK.replace(chr(10), ' ')}\nWho kept it?", BOOK.replace("\n", " ") + "\n", "Who kept it?", "paragraphs"),
        (f"{BOOK}\n\n谁守灯塔？", f"{BOOK}\n\n", "谁守灯塔？", "paragraphs"),
    ],
)  # fmt: skip
def test_one_message(message: str, document: str, question: str, rule: str) -> None:
    found = find([user(message)], words, LIMIT)
    assert (found.document, found.question, found.rule) == (document, question, rule)


def test_messages_of_a_conversation() -> None:
    """The last user message asks; short system messages go before it; the rest is the document, in order."""
    chat = [
        {"role": "system", "content": "Answer in French."},
        user(BOOK),
        {"role": "assistant", "content": "I have read it."},
        user("Who kept it?"),
    ]
    found = find(chat, words, LIMIT)
    assert found.question == "Answer in French.\n\nWho kept it?" and found.rule == "messages"
    assert found.document == f"{BOOK}\n\nAssistant: I have read it."
    long_rules = [{"role": "system", "content": BOOK}, user("Who?")]
    assert find(long_rules, words, LIMIT).document == BOOK
    named = find([user("Who?")], words, LIMIT, document="x", question=None)
    assert (named.document, named.question, named.rule) == ("x", "Who?", "field")
    assert find([user("a"), user("b")], words, LIMIT, document="x", question="c").question == "c"


@pytest.mark.parametrize(
    ("chat", "options", "words_of_error"),
    [
        ([user("word " * 500)], {}, "cannot be told|one piece"),
        ([user("word " * 500 + "\n\n" + "word " * 500)], {}, "neither begins nor ends"),
        ([{"role": "assistant", "content": BOOK}], {}, "no question"),
        ([user("Who?")], {}, "no part of it is a document"),
        ([user("Who?")], {"document": "  "}, "document is empty"),
        ([user("Who?")], {"document": "x", "question": " "}, "without a question"),
        ([user("x")], {"document": "x", "question": "word " * 50}, "longer than an eighth"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_way_out(
    chat: list[dict[str, str]], options: dict[str, str], words_of_error: str
) -> None:
    with pytest.raises(UsageError, match=words_of_error) as refused:
        find(chat, words, LIMIT, **options)  # type: ignore[arg-type]
    assert '"qwenlong"' in str(refused.value)


PIECES = st.lists(
    st.sampled_from(
        ["Question: ", "\n", "\n\n", "<document>", "</document>", "```\n", '"""', "a b c d e f g h", "?", ":", " ",
         "word " * 50, "<text ", "é", "\u2028", "\r\n"]
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=300)
@given(PIECES)
def test_nothing_is_lost(pieces: list[str]) -> None:
    """Every word of a message is in the document or in the question, except tags and fences."""
    text = "".join(pieces) + " end " + "word " * 100
    try:
        found = find([user(text)], words, LIMIT)
    except UsageError:
        return
    kept = sorted((found.document + " " + found.question).split())
    if found.rule != "block":
        assert kept == sorted(text.split())
    else:
        assert kept.count("word") == text.split().count("word")
    assert words(found.question) <= 2 * LIMIT and found.question.strip() and found.document.strip()


@pytest.mark.parametrize("piece", ["<text ", "<document>", "```", '"""\n', "\n \n", "Question:\n", " ", "\n", "# *_"])
def test_hostile_messages_take_linear_time(piece: str) -> None:
    """Four megabytes of what the rule looks for are a matter of seconds."""
    text = piece * (4_000_000 // len(piece))
    began = time.monotonic()
    with contextlib.suppress(UsageError):
        find([user(text + "\n\nWho?")], words, LIMIT)
    assert time.monotonic() - began < 10
