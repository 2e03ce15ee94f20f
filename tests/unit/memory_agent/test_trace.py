"""The page of a run: what changed, what went wrong, nothing that a document could smuggle in, small for 800 turns."""

from __future__ import annotations

import html.parser
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.memory_agent.loop import Result, Step, Turn
from qwenlong.memory_agent.memory_diff import Piece, diff, shortened
from qwenlong.memory_agent.trace import TEXT, file_name, render, write_trace

HOSTILE = "</pre></details><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
_TEXT = st.lists(st.sampled_from(["Rome fell. ", "It rained\n", "a", ".", " ", "keeper? ", "雨。", "<b>", "\n\n"])).map(
    "".join
)


@settings(max_examples=150)
@given(_TEXT, _TEXT)
def test_a_difference_holds_both_texts(old: str, new: str) -> None:
    """What stayed and went is the old memory, what stayed and came the new one; equal texts have no change."""
    pieces = diff(old, new)
    assert "".join(piece.text for piece in pieces if piece.change != "new") == old
    assert "".join(piece.text for piece in pieces if piece.change != "gone") == new
    assert all(one.change != other.change for one, other in zip(pieces, pieces[1:], strict=False))
    if old == new:
        assert {piece.change for piece in pieces} <= {"same"}


def test_words_are_marked_within_a_sentence() -> None:
    """A sentence that changed a little is not shown as another one."""
    pieces = diff("Rome was founded in 753 BC. The king was Tarquin.", "Rome was founded in 754 BC. The king was Numa.")
    changes = [piece for piece in pieces if piece.change != "same"]
    assert [piece.text.strip() for piece in changes] == ["753", "754", "Tarquin", "Numa"]
    # Two sentences with nothing in common are not woven into each other.
    pieces = diff("He sailed east at dawn.", "Nobody knew her name, or why.")
    assert [piece.change for piece in pieces] == ["gone", "new"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a. b. " * 20_000, "b. c. a. " * 15_000),
        ("a " * 60_000, "b " * 60_000),
        ("x" * 100_000, "y" * 100_000),
        ("\n" * 50_000, "a\n" * 50_000),
        (".!?" * 30_000, "?!." * 30_000),
    ],
)
def test_hostile_memories_take_bounded_time(old: str, new: str) -> None:
    """Texts made to be compared for ever are compared as a whole."""
    began = time.process_time()
    pieces = diff(old, new)
    assert time.process_time() - began < 5
    assert "".join(piece.text for piece in pieces if piece.change != "new") == old
    assert sum(len(piece.text) for piece in shortened(pieces, 500)) < 1500


def test_a_long_difference_is_shortened() -> None:
    """The changes stay with what stands beside them; what stayed elsewhere is left out, and the rest is counted."""
    pieces = [Piece("same", "x" * 900), Piece("new", "NEW"), Piece("same", "y" * 900), Piece("gone", "z" * 5000)]
    shown = shortened(pieces, 400)
    text = "".join(piece.text for piece in shown)
    assert len(text) < 800 and Piece("new", "NEW") in shown and "[…]" in text
    assert text.startswith(" […] x") or text.startswith("[…]") or " […] " in shown[0].text


class Page(html.parser.HTMLParser):
    """What a browser would find: tags, addresses, and text by the tag around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.inside: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("href", "src") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        assert not any(name.startswith("on") for name in values)
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag = self.inside[-1] if self.inside else ""
        self.text[tag] = self.text.get(tag, "") + data


def made(count: int, sentences: int) -> tuple[Result, list[str]]:
    """Return a run of so many sections whose memory grows to so many sentences, with every kind of trouble in it."""
    drawn = random.Random(count)
    sections = [f"Section {n}. {HOSTILE} " + "It rained. " * 400 for n in range(count)]
    steps = [Step(0, "split", "ok", Turn("<question>Who?</question>", "stop"), "", "")]
    memory: list[str] = []
    statuses = {2: "failed", 5: "unfinished", 7: "malformed", 9: "skipped"}
    for n in range(count):
        status = statuses.get(n % 10, "ok")
        if status in ("ok", "malformed"):
            memory = [line for line in memory if drawn.random() < 0.95][-sentences:]
            memory += [f"Fact {drawn.randrange(10**6)} of day {n}: {HOSTILE}." for _ in range(3)]
        used = status not in ("failed", "unfinished")
        turn = Turn("" if status == "failed" else f"reply {HOSTILE}" * 50, "stop", n_prompt_tokens=7, seconds=0.5)
        error = f"no reply {HOSTILE}" if status == "failed" else ""
        steps.append(Step(n + 1, "update", status, turn, "\n".join(memory), f"plan {n}", n, used, "", error))  # type: ignore[arg-type]
    steps.append(Step(count + 1, "answer", "ok", Turn(f"Anna {HOSTILE}", "stop"), "\n".join(memory), ""))
    return Result(f"Anna {HOSTILE}", "\n".join(memory), "", tuple(steps), count), sections


@pytest.mark.parametrize(("count", "sentences"), [(12, 40), (800, 400)])
def test_the_page_is_whole_safe_and_small(tmp_path: Path, count: int, sentences: int) -> None:
    """All turns are there, failures first; whatever documents and models say is text."""
    result, sections = made(count, sentences)
    write_trace(tmp_path / "t.html", f"Who? {HOSTILE}", result, sections, "m")
    text = (tmp_path / "t.html").read_text()
    assert len(text) < 2 * TEXT
    page = Page(text)
    assert "script" not in page.tags and "img" not in page.tags and "link" not in page.tags
    assert all(address.startswith("#") and address[1:] in page.ids for address in page.addresses)
    assert page.ids.count("wrong") == 1 and {f"s{n}" for n in range(count + 2)} <= set(page.ids)
    assert text.index('id="wrong"') < text.index('id="s0"')
    failed = sum(n % 10 in (2, 5) for n in range(count))
    assert f"{failed} of {count} sections left no trace" in text
    assert page.tags["ins"] > count / 3 and page.tags["del"] >= 1
    assert HOSTILE[:40] in page.text["ins"] and f"Section {count - 1}. {HOSTILE[:30]}" in page.text["pre"]
    # The same run gives the same page.
    assert render(f"Who? {HOSTILE}", result, sections, "m") == text


def test_pages_have_names_of_their_own() -> None:
    """Ids that differ only in what a file name cannot hold do not share a page."""
    names = [file_name(item) for item in ("q1", "q/1", "q 1", "..", "ü" * 300, "../../etc/passwd")]
    assert names[0] == "q1.html" and len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in names)
