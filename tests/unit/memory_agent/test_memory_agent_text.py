"""Chunking, parsing and reading of documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.html_pages import html_text
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import parsing
from qwenlong.memory_agent.chunking import split
from qwenlong.memory_agent.documents import read_document, render

_KEEP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_KEEP
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=400), budget=st.integers(4, 60))
def test_chunks_join_to_the_text_and_keep_the_budget(tokenizer: Tokenizer, text: str, budget: int) -> None:
    """Any text, any border: nothing is lost, nothing is above the budget."""
    chunks = split(text, tokenizer, budget)
    assert "".join(chunks) == text
    assert all(chunk and tokenizer.count(chunk) <= budget for chunk in chunks)


def test_a_paragraph_that_fits_is_not_cut(tokenizer: Tokenizer) -> None:
    """Paragraphs move whole; only one above the budget is cut, at a sentence."""
    short = "A short paragraph of the report.\n\n"
    long = "".join(f"Sentence number {n} says something else. " for n in range(20)) + "\n\n"
    budget = tokenizer.count(short) * 2 + 5
    chunks = split(short * 4 + long + short, tokenizer, budget)
    assert chunks[:2] == [short * 2, short * 2]
    assert len(chunks) > 5
    assert all(chunk.rstrip().endswith(".") for chunk in chunks)


def test_text_without_borders_is_cut_anywhere(tokenizer: Tokenizer) -> None:
    """A megabyte of one word neither hangs nor breaks the budget."""
    text = "x" * 200_000
    chunks = split(text, tokenizer, 500)
    assert "".join(chunks) == text
    assert max(tokenizer.count(chunk) for chunk in chunks) <= 500


def test_a_budget_below_one_character_is_refused(tokenizer: Tokenizer) -> None:
    """The message names the character and the option."""
    with pytest.raises(UsageError, match="chunk_tokens = 2 cannot hold"):
        split("漢字", tokenizer, 2)
    assert split("", tokenizer, 2) == []


@pytest.mark.parametrize(
    ("reply", "memory", "plan", "status"),
    [
        ("<memory>new</memory><plan>next</plan>", "new", "next", "ok"),
        ("<think>\nthe <memory>draft</memory>\n</think>\n<memory> new </memory>", "new", "", "ok"),
        ("<memory>a</memory> no: <memory>b</memory><plan>p</plan>", "b", "p", "ok"),
        ("Paris is the capital.", "Paris is the capital.", "", "malformed"),
        ("<memory>cut short by the lim", "cut short by the lim", "", "malformed"),
        ("", "old", "old plan", "empty"),
        ("<think>\nall done</think>\n", "old", "old plan", "empty"),
        ("<memory> </memory><plan>look on</plan>", "old", "look on", "empty"),
        ("<think>\nstill thinking <memory>x</memory>", "old", "old plan", "unfinished"),
        ("<think>a</think> then <think> again <memory>x</memory>", "old", "old plan", "unfinished"),
    ],
)
def test_updates_are_read(tokenizer: Tokenizer, reply: str, memory: str, plan: str, status: str) -> None:
    """Tags after the thinking count; what cannot be used leaves the memory alone."""
    found = parsing.update(reply, "old", "old plan", tokenizer, 100)
    assert (found.memory, found.plan, found.status) == (memory, plan, status)


@_KEEP
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<"), max_size=200), st.integers(0, 30))
def test_memory_and_plan_fit_the_limit_together(tokenizer: Tokenizer, text: str, limit: int) -> None:
    """What an update leaves behind has room in the next prompt."""
    found = parsing.update(f"<memory>{text}</memory><plan>{text}</plan>", "", "", tokenizer, limit)
    assert tokenizer.count(found.memory) + tokenizer.count(found.plan) <= limit


def test_truncation_keeps_the_beginning(tokenizer: Tokenizer) -> None:
    """A cut inside a character leaves no replacement mark."""
    assert parsing.truncate("short", tokenizer, 50) == "short"
    cut = parsing.truncate("日本語の文章", tokenizer, 7)
    assert cut and "日本語の文章".startswith(cut) and tokenizer.count(cut) <= 7


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<question>Who?</question><format>One word</format>", ("Who?", "One word", "ok")),
        ("<question>Who?</question>", ("Who?", "", "ok")),
        ("Who?", ("Who? One word.", "", "malformed")),
        ("<question>" + "x" * 99 + "</question>", ("Who? One word.", "", "malformed")),
        ("<think> hm", ("Who? One word.", "", "unfinished")),
        ("", ("Who? One word.", "", "empty")),
    ],
)
def test_requests_are_split_or_kept_whole(reply: str, expected: tuple[str, str, str]) -> None:
    """A split that is not one, or longer than the query, leaves the query as the question."""
    found = parsing.request(reply, "Who? One word.")
    assert (found.question, found.instruction, found.status) == expected


def test_html_shows_what_a_reader_sees() -> None:
    """Scripts go, blocks become lines, entities and preformatted text stay."""
    page = "<html><head><title>T</title><style>p{}</style></head><body><p>a &lt;b&gt;\n c<br>d</p><script>x()</script>"
    page += "<table><tr><td>1</td><td>2</td></tr></table><pre>  if x:\n    y</pre></body>"
    text = html_text(page)
    assert "x()" not in text and "p{}" not in text
    assert text.splitlines()[0] == "T"
    assert "a <b> c\nd" in text and "1 | 2" in text and "  if x:\n    y" in text


def test_documents_of_every_kind_are_read(tmp_path: Path) -> None:
    """Each suffix has its reading; a PDF comes from a real one written here."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    (tmp_path / "a.txt").write_text("\ufeffplain text", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps([{"role": "user", "content": "hi"}, {"title": "T", "text": "body"}]))
    (tmp_path / "c.json").write_text(json.dumps({"year": 1990}))
    (tmp_path / "e.jsonl").write_text('"one"\n"two"\n')
    figure = Figure()
    figure.text(0.5, 0.5, "printed words")
    with PdfPages(tmp_path / "d.pdf") as pages:
        pages.savefig(figure)
    assert read_document(tmp_path / "a.txt") == "plain text"
    assert read_document(tmp_path / "b.json") == "user: hi\nT\nbody"
    assert json.loads(read_document(tmp_path / "c.json")) == {"year": 1990}
    assert "printed" in read_document(tmp_path / "d.pdf")
    assert read_document(tmp_path / "e.jsonl") == "one\ntwo"
    assert render([tmp_path / "a.txt", tmp_path / "e.jsonl"]).startswith("[1] a.txt\nplain text\n[2] e.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"ab\xff\xfed", "not UTF-8 .2 bytes"),
        ("x.json", b"{", "not JSON .line 1"),
        ("x.txt", b" \n", "holds no text"),
        ("x.pdf", b"not a pdf", "cannot be read as PDF"),
    ],
)
def test_bad_documents_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """The message names the file and what to do."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_document(tmp_path / name)
    with pytest.raises(DataError, match="no document"):
        read_document(tmp_path / "absent.txt")
