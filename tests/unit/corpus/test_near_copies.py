"""Fifty pairs that a person would call copies, at a true similarity of 0.80 to 0.95, among a thousand clean texts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import planted
import pytest
from corpus_files import config, folder

from qwenlong.core.files import write_jsonl
from qwenlong.corpus import shards
from qwenlong.corpus.build import build
from qwenlong.corpus.load import load

Edit = Callable[[random.Random, list[str]], list[str]]


def swapped(rng: random.Random, words: list[str]) -> list[str]:
    """Two neighbours change places."""
    at = rng.randrange(len(words) - 1)
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def replaced(rng: random.Random, words: list[str]) -> list[str]:
    """Another word in place of one."""
    at = rng.randrange(len(words))
    return [*words[:at], f"other{rng.randrange(10**6)}", *words[at + 1 :]]


def left_out(rng: random.Random, words: list[str]) -> list[str]:
    """A word is left out."""
    at = rng.randrange(len(words))
    return words[:at] + words[at + 1 :]


def boilerplate(rng: random.Random, words: list[str]) -> list[str]:
    """One more sentence of a notice at the end, with a number, as sites have them."""
    return [*words, "read", "story", f"{len(words)}", "too"]


def cut(rng: random.Random, words: list[str]) -> list[str]:
    """The last two words are gone."""
    return words[:-2]


EDITS: tuple[Edit, ...] = (swapped, replaced, left_out, boilerplate, cut)


def dressed(rng: random.Random, words: list[str]) -> str:
    """Other case, line ends and punctuation, which the similarity does not see."""
    return "".join(rng.choice([w, w.upper(), w.title()]) + rng.choice([" ", "\n", "  ", ", ", "; "]) for w in words)


def near_copy(rng: random.Random, words: list[str], edit: Edit, least: float) -> str:
    """Return a copy edited again and again, as long as its similarity stays at `least` or above."""
    copy, original = words, " ".join(words)
    while True:
        changed = edit(rng, copy)
        if planted.jaccard(original, " ".join(changed)) < least:
            return dressed(rng, copy)
        copy = changed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(11)
    texts = [planted.prose(rng, rng.randint(150, 400)) for _ in range(1000)]
    root = tmp_path_factory.mktemp("copies")
    copies = []
    for n in range(50):
        least = 0.80 + 0.15 * (n // len(EDITS)) / 10
        copies.append(near_copy(rng, texts[n], EDITS[n % len(EDITS)], least))
        true = planted.jaccard(" ".join(texts[n]), copies[-1])
        assert 0.80 <= true < 0.97, (n, true)
    write_jsonl(root / "a.jsonl", [{"text": " ".join(text)} for text in texts])
    write_jsonl(root / "b.jsonl", [{"text": copy} for copy in copies])
    return root


def test_a_build_drops_the_fifty_copies_and_no_other(place: Path, tmp_path: Path) -> None:
    documents, stats = build(config(folders=[folder(place).model_dump()]), tmp_path)
    assert stats["sources"]["notes"]["dropped"] == {"near_duplicate": 50}
    assert {document.metadata["path"] for document in documents} == {"a.jsonl"} and len(documents) == 1000


def test_shards_drop_the_same(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenlong.corpus.load.PART_FILES", 1)
    run = config(folders=[folder(place).model_dump()], workers=1)
    files, _ = load(run.corpus, tmp_path, tmp_path / "loaded")
    assert len(files) > 1
    counts = shards.run(files, tmp_path / "out", run.corpus, 5)
    assert (counts["kept"], counts["dropped"]) == (1000, {"near_duplicate": 50})
