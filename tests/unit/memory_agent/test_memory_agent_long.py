"""The command over long documents, with the endpoint in another process: calls, needles, memory, order."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from qwenlong.core.tokens import Tokenizer

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

import agent_long_document as long  # noqa: E402

NANO = ROOT / "models" / "nano"


def document(folder: Path, tokens: int) -> tuple[Path, Path]:
    """A document of about so many tokens, made of this project's own files in a drawn order, with needles."""
    folder.mkdir()
    tokenizer, draw = Tokenizer(NANO), random.Random(17)
    files = [*sorted((ROOT / "packages").rglob("*.py")), *sorted((ROOT / "docs").rglob("*.md"))]
    texts = [file.read_text(encoding="utf-8") + "\n\n" for file in files]
    counts = dict(zip(texts, tokenizer.count_batch(texts), strict=True))
    taken: list[str] = []
    total = 0
    while total < tokens:
        taken.append(draw.choice(texts))
        total += counts[taken[-1]]
    text = "".join(taken)
    needles = long.needles(17)
    places = sorted(draw.randrange(len(text) * 99 // 100) for _ in needles)
    text = "".join(long.plant(text.splitlines(keepends=True), places, needles))
    (folder / "document.txt").write_text(text, encoding="utf-8")
    (folder / "needles.json").write_text(json.dumps(needles), encoding="utf-8")
    return folder / "document.txt", folder / "needles.json"


def test_a_long_document_is_read_once_in_order_and_whole(tmp_path: Path) -> None:
    """200,000 tokens: 1 + chunks + 1 calls, each needle once and whole, all sections together the document."""
    text, needles = document(tmp_path / "a", 200_000)
    assert all(Tokenizer(NANO).count(needle["sentence"]) <= 64 for needle in long.needles(17))
    run = long.client([text], needles, NANO, (5000, 1024, 256), tmp_path / "log")
    assert long.problems(run, long.expected_text(text, NANO)) == []
    assert 40 <= run.answer["chunks"]["total"] <= 60
    assert run.peak < long.MOST_MEMORY * 2**20


@pytest.mark.slow
def test_memory_is_flat_up_to_millions_of_tokens(tmp_path: Path) -> None:
    """0.5 and 4 million tokens."""
    peaks = []
    for tokens in (500_000, 4_000_000):
        text, needles = document(tmp_path / str(tokens), tokens)
        run = long.client([text], needles, NANO, (32000, 15000, 1024), tmp_path / "log")
        assert long.problems(run, long.expected_text(text, NANO)) == []
        assert run.peak < long.MOST_MEMORY * 2**20
        assert run.cpu < long.MOST_SECONDS * 2
        peaks.append(run.peak)
    # The allocator's arenas differ by some tens of MiB from run to run; the document itself has 14 MiB more.
    assert peaks[1] < peaks[0] + 64 * 2**20
