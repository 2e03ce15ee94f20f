"""Filters, sections and deduplication."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.core.config import CorpusConfig
from qwenlong.core.records import Document
from qwenlong.corpus import dedup, filters
from qwenlong.corpus.sections import split

PROSE = "The quick brown fox jumps over the lazy dog near the old river bank. "


def document(text: str, name: str = "s/x", kind: str = "", **values: object) -> Document:
    """Return a document of this text."""
    return Document.model_validate(
        {"id": name, "source": "s", "category": "general", "title": "X", "text": text, "n_tokens": 0, "licence": "MIT"}
        | {"metadata": {"kind": kind}}
        | values
    )


@pytest.mark.parametrize(
    ("text", "category", "expected"),
    [
        (PROSE * 4, "general", None),
        (PROSE, "general", "too_short"),
        (PROSE * 4 + "\x00", "general", "control_characters"),
        (PROSE * 4 + "\ufffd", "general", "control_characters"),
        ("# Auto-generated file\n" + PROSE * 4, "code", "generated"),
        ("# Auto-generated file\n" + PROSE * 4, "general", None),
        ("Permission is hereby granted, free of charge, to any person. " + PROSE * 4, "general", "boilerplate"),
        ("Permission is hereby granted, free of charge, to any person. " + PROSE * 100, "general", None),
        ((PROSE + "\n") * 4, "general", "repetition"),
        ("| | | --- === *** " * 20, "general", "symbols"),
    ],
)
def test_rules(text: str, category: str, expected: str | None) -> None:
    assert filters.reason(document(text, category=category), CorpusConfig()) == expected
    assert expected is None or expected in filters.REASONS


def test_repetition_counts_characters_of_repeated_lines() -> None:
    assert filters.repetition("HAM.\nabcdefgh\nHAM.\nijklmnop") == pytest.approx(4 / 24)
    assert filters.repetition("") == 0.0


@given(st.text(max_size=60))
def test_symbol_share_is_what_it_says(text: str) -> None:
    import re

    expected = sum(not re.match(r"[^\W_]|\s", c) for c in text) / max(1, len(text))
    assert filters.symbol_share(text) == pytest.approx(expected)


@given(
    st.lists(st.text(alphabet="ab. \n|#=-", min_size=1, max_size=120), min_size=1, max_size=12),
    st.integers(min_value=20, max_value=90),
    st.sampled_from(["play", "dialogue", "guide", "code"]),
)
def test_sections_fit_and_lose_no_character_but_space(parts: list[str], limit: int, kind: str) -> None:
    text = "\n\n".join(parts)
    sections = split(document(text, kind=kind), limit)
    assert all(len(section.text) <= limit for section in sections)
    assert "".join("".join(section.text.split()) for section in sections) == "".join(text.split())
    assert [section.id for section in sections] == [f"s/x#{n:03d}" for n in range(len(sections))]


def test_factbook_sections_repeat_their_heading_and_keep_lines_whole() -> None:
    lines = [f"Field {n}: value {n}" for n in range(20)]
    text = "## Economy\n" + "\n".join(lines) + "\n\n## Energy\nCoal: 1"
    sections = split(document(text, kind="factbook"), 120)
    assert [s.title for s in sections[:2]] == ["X – Economy", "X – Economy (2)"]
    assert all(s.text.startswith(("## Economy\n", "## Energy\n")) for s in sections)
    assert [line for s in sections for line in s.text.split("\n")[1:]] == [*lines, "Coal: 1"]
    last = sections[-1].metadata
    assert (last["parent"], last["section"], last["heading"], last["piece"]) == ("s/x", len(sections) - 1, "Energy", 1)


def test_a_table_repeats_its_head() -> None:
    rows = [f"| Item {n} | {n} | {n * n} |" for n in range(12)]
    head = ["## Sheet", "| Item | 2021 | 2022 |", "| --- | --- | --- |"]
    sections = split(document("\n".join([*head, *rows]), kind="finance"), 160)
    assert len(sections) > 2
    assert all(s.text.split("\n")[:3] == head and len(s.text) <= 160 for s in sections)
    assert [line for s in sections for line in s.text.split("\n")[3:]] == rows


def test_code_is_cut_at_definitions_with_their_decorators() -> None:
    text = "import x\n\n\n@cached\ndef first():\n" + "    y = 1\n" * 8 + "\n\nclass Second:\n" + "    z = 2\n" * 8
    sections = split(document(text, kind="code"), 110)
    # "import x" is short enough to stand with the first function; the decorator stays with it.
    assert [s.title for s in sections] == ["X – first", "X – Second"]
    assert "@cached\ndef first" in sections[0].text
    assert [s.title for s in split(document(text, kind="code"), 100)] == ["X – module", "X – first", "X – Second"]


def test_guides_are_cut_at_headings() -> None:
    text = "Intro\n=====\n\n" + "a b. " * 18 + "\n\nMethods\n-------\n\n" + "c d. " * 18
    assert [s.title for s in split(document(text, kind="guide"), 120)] == ["X – Intro", "X – Methods"]


def test_sections_without_headings_are_numbered() -> None:
    sections = split(document("\n".join(f"A: line {n}" for n in range(20)), kind="dialogue"), 60)
    assert [s.title for s in sections[:2]] == ["X – part 1", "X – part 2"]


def test_a_head_that_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="raise corpus.section_characters"):
        split(document("## A heading of some length\nA: 1", kind="factbook"), 20)


def test_exact_duplicates_keep_the_first_id() -> None:
    documents = [document("Same, words!", "s/b"), document("same WORDS", "s/a"), document("other words", "s/c")]
    kept, dropped = dedup.exact(documents)
    assert [d.id for d in kept] == ["s/a", "s/c"]
    assert [(d.id, twin) for d, twin in dropped] == [("s/b", "s/a")]


def words(seed: int, count: int = 200) -> list[str]:
    """Return random words."""
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghij", k=5)) for _ in range(count)]


def test_near_duplicates_by_true_similarity_whatever_the_order() -> None:
    base = words(0)
    changed = [*base[:-1], "changed"]  # 195 of 197 shingles in common
    half = [*base[:100], *words(1, 100)]  # 96 in common of 296
    documents = [
        document(" ".join(changed), "s/b"),
        document(" ".join(base), "s/a"),
        document(" ".join(half), "s/c"),
        document(" ".join(words(2)), "s/d"),
    ]
    for order in (documents, documents[::-1]):
        kept, dropped = dedup.near(order, 0.8, seed=5)
        assert [d.id for d in kept] == ["s/a", "s/c", "s/d"]
        assert [(d.id, twin) for d, twin in dropped] == [("s/b", "s/a")]
    # 96 / 296 = 0.32
    assert [d.id for d in dedup.near(documents, 0.3, seed=5)[0]] == ["s/a", "s/d"]
    assert [d.id for d in dedup.near(documents, 0.35, seed=5)[0]] == ["s/a", "s/c", "s/d"]
