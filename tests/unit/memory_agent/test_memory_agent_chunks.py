"""Chunks of a stream: nothing lost, budgets exact, sentences whole, memory flat."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import borders
from qwenlong.memory_agent.chunking import split, stream
from qwenlong.memory_agent.chunks import Chunks

_KEEP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NANO = Path(__file__).parents[3] / "models" / "nano"
#: Text with all kinds of borders close together.
TEXT = st.lists(
    st.one_of(
        st.sampled_from(
            ["\n\n", "\n", ". ", "。", "? ", "; ", " ", "...", "\n\n\n", "Dr. ", "e.g. ", "é", "漢字", '." ']
        ),
        st.text(alphabet="abcdeXYZ", min_size=1, max_size=9),
    ),
    max_size=120,
).map("".join)


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    """The tokenizer of models/nano: 6,144 entries, trained on the corpora."""
    return Tokenizer(NANO)


@_KEEP
@given(text=TEXT, budget=st.integers(6, 90), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_how_a_text_comes_in_pieces_makes_no_difference(
    tokenizer: Tokenizer, text: str, budget: int, sizes: list[int]
) -> None:
    pieces, at = [], 0
    while at < len(text):
        pieces.append(text[at : at + sizes[len(pieces) % len(sizes)]])
        at += len(pieces[-1])
    made = list(stream(pieces, tokenizer, budget))
    assert "".join(chunk for chunk, _ in made) == text
    assert [count for _, count in made] == [tokenizer.count(chunk) for chunk, _ in made]
    assert all(0 < count <= budget for _, count in made)
    assert [chunk for chunk, _ in made] == split(text, tokenizer, budget)


@_KEEP
@given(text=TEXT, budget=st.integers(6, 90))
def test_a_text_that_fits_is_one_chunk(tokenizer: Tokenizer, text: str, budget: int) -> None:
    whole = 0 < tokenizer.count(text) <= budget
    assert (len(split(text, tokenizer, budget)) == 1) == whole


_WORD = st.sampled_from(["the", "code", "of", "Lyon", "is", "4711,", "said:", "look;", "then", "it", "(for", "good)"])
_NAME = st.sampled_from(["Dr. Weiss", "J. K. Rowling", "St. Ives", "No. 7", "e.g. that", "Mr. O'Neill", "version 3.11"])


@st.composite
def _sentence(draw: st.DrawFn, number: int) -> str:
    words = [f"Fact{number}", *draw(st.lists(st.one_of(_WORD, _NAME), min_size=2, max_size=12))]
    # Lines are wrapped anywhere between words.
    text = "".join(word + draw(st.sampled_from([" ", " ", " ", "\n"])) for word in words).rstrip()
    return text + draw(st.sampled_from([".", "?", "!", '."', ".)", "..."]))


@_KEEP
@given(data=st.data(), n=st.integers(2, 25), budget=st.integers(90, 200))
def test_a_short_sentence_is_never_cut(nano: Tokenizer, data: st.DataObject, n: int, budget: int) -> None:
    """In one paragraph above the budget, wrapped lines, abbreviations, colons and quotations inside."""
    sentences = [data.draw(_sentence(number)) for number in range(n)]
    text = "".join(s + data.draw(st.sampled_from([" ", "\n", "  "])) for s in sentences)
    chunks = split(text, nano, budget)
    assert "".join(chunks) == text
    for sentence in sentences:
        if nano.count(sentence) <= 64:
            assert any(sentence in chunk for chunk in chunks)


@_KEEP
@given(st.lists(st.text(alphabet="天地玄黄宇宙洪荒日月盈昃", min_size=3, max_size=20), min_size=5, max_size=40))
def test_chinese_sentences_are_never_cut(nano: Tokenizer, parts: list[str]) -> None:
    sentences = [f"{part}，{number}：{part[::-1]}；止{'。！？'[number % 3]}" for number, part in enumerate(parts)]
    chunks = split("".join(sentences), nano, 200)
    assert (len(chunks) > 1) == (nano.count("".join(sentences)) > 200)
    for sentence in sentences:
        if nano.count(sentence) <= 64:
            assert any(sentence in chunk for chunk in chunks)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ('He said "No." Then he left. ', ['He said "No." ', "Then he left. "]),
        ('"Why?" he asked. She ran.', ['"Why?" he asked. ', "She ran."]),
        ("Dr. Weiss met J. K. Rowling at No. 7. It rained.", ["Dr. Weiss met J. K. Rowling at No. 7. ", "It rained."]),
        ("The code is: 4711; keep it. Go.", ["The code is: 4711; keep it. ", "Go."]),
        ("1. First item\n2. Second item", ["1. First item\n2. Second item"]),
        ("It was 1984. Then 12. Both.", ["It was 1984. ", "Then 12. ", "Both."]),
        ("他来了。“走吧！”她说。", ["他来了。", "“走吧！”", "她说。"]),
        ("वह आया। वह गया।", ["वह आया। ", "वह गया।"]),
        ("هل جاء؟ نعم", ["هل جاء؟ ", "نعم"]),
        ("Wait... and see. Now... Go.", ["Wait... and see. ", "Now... ", "Go."]),
    ],
)
def test_sentences_end_where_a_reader_sees_them_end(text: str, parts: list[str]) -> None:
    assert borders.sentences(text) == parts


@given(TEXT)
def test_every_border_gives_the_text_back(text: str) -> None:
    for level in borders.LEVELS:
        parts = level(text)
        assert "".join(parts) == text and (all(parts) or text == "")


@pytest.mark.parametrize("row", [".", ". ", "。", ".\n", '!"', "<", " ", "\n", "a.", "\n\n", "…", "e.g."])
def test_hostile_rows_take_time_that_grows_with_their_length(nano: Tokenizer, row: str) -> None:
    """A megabyte of one mark; what is quadratic would take hours."""
    text = row * (1_000_000 // len(row))
    began = time.process_time()
    chunks = split(text, nano, 4000)
    assert "".join(chunks) == text
    assert time.process_time() - began < 60


def test_lines_are_cut_where_a_sentence_ends(nano: Tokenizer) -> None:
    """A dialogue in one paragraph is cut between its messages, not in them."""
    lines = [f"Anna: I saw number {n} today. It was as good as the last one.\n" for n in range(60)]
    chunks = split("".join(lines), nano, 300)
    assert len(chunks) > 3 and all(chunk.endswith(".\n") for chunk in chunks)


def test_chunks_are_well_filled(nano: Tokenizer) -> None:
    """One line of many words without a border, and one of many sentences: little room is lost."""
    for text in ("lighthouse keeper " * 4000, "The keeper of the house was Anna. " * 2000, "x" * 60_000):
        counts = [count for _, count in stream([text], nano, 1000)]
        assert sum(counts) / len(counts) > 900


def test_chunks_on_disk_are_a_sequence(tokenizer: Tokenizer) -> None:
    text = "The lighthouse was built in 1881. Its keeper was called Änne. 漢字。\n\n" * 40
    pieces = [text[at : at + 17] for at in range(0, len(text), 17)]
    with Chunks.cut(pieces, tokenizer, 120) as chunks:
        expected = split(text, tokenizer, 120)
        assert list(chunks) == expected and len(chunks) == len(expected) > 5
        assert (chunks[-1], chunks[1:3]) == (expected[-1], expected[1:3])
        assert list(chunks.tokens) == [tokenizer.count(chunk) for chunk in expected]
        assert chunks.digest == hashlib.sha256(text.encode()).hexdigest()
        with pytest.raises(IndexError, match="chunk"):
            chunks[len(chunks)]
    assert len(Chunks.cut([], tokenizer, 120)) == 0


def test_a_full_disk_is_named(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel itself refuses to write more, as on a full disk."""
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(QwenlongError, match=f"cannot keep the chunks in {re.escape(str(tmp_path))}.*TMPDIR"):
            Chunks.cut(("Some words of a sentence. " for _ in range(20_000)), tokenizer, 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_of_nothing_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="chunk_tokens = 0"):
        stream(["a"], tokenizer, 0)


def test_time_grows_with_the_length(nano: Tokenizer) -> None:
    """Four times the text, about four times the work: tokens counted, which no other work on the machine changes."""
    counted: list[int] = []

    class Counting(Tokenizer):
        def count_batch(self, texts: object) -> list[int]:
            counts = super().count_batch(texts)  # type: ignore[arg-type]
            counted.append(sum(counts))
            return counts

    text = "The keeper of the house was Anna. She said: wait; then no. 7 fell.\n" * 3000
    totals = []
    for times in (1, 4):
        counted.clear()
        made = list(stream((text for _ in range(times)), Counting(NANO), 500))
        totals.append(sum(counted))
        assert sum(counted) < 3.2 * sum(count for _, count in made)
    assert 3.5 < totals[1] / totals[0] < 4.5
