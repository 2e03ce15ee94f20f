"""Many questions over one document: what a server's prefix cache finds when they go side by side, and when they do not."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from agent_helpers import endpoint
from batch_helpers import records, words
from typer.testing import CliRunner

from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.commands import app

QUESTIONS, SECTIONS = 12, 16


class PrefixCache:
    """A server's cache of prompt beginnings, in blocks of tokens, the least recently used block dropped first."""

    def __init__(self, tokenizer: Tokenizer, blocks: int, size: int = 8) -> None:
        self._tokenizer, self._blocks, self._size = tokenizer, blocks, size
        self._held: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self.read = self.cached = 0
        self.order: list[int] = []
        self._guard = Lock()

    def __call__(self, request: dict[str, Any]) -> tuple[int, str]:
        prompt = request["messages"][0]["content"]
        with self._guard:
            ids = self._tokenizer.encode(prompt)
            hit = True
            for end in range(self._size, len(ids) + 1, self._size):
                block = tuple(ids[:end])
                hit = hit and block in self._held
                self.cached += self._size if hit else 0
                self._held[block] = None
                self._held.move_to_end(block)
            while len(self._held) > self._blocks:
                self._held.popitem(last=False)
            self.read += len(ids)
            if "Part " in prompt:
                self.order.append(int(prompt.partition("Part ")[2].split()[0]))
        return 200, f"<memory>seen {len(self.order)}</memory>" if "<memory>" in prompt else "nine"


@pytest.mark.parametrize("order", ["section_first", "question_first"])
def test_sections_are_read_from_the_cache_by_all_but_one(tmp_path: Path, tokenizer: Tokenizer, order: str) -> None:
    """Side by side a cache that holds two sections serves all; in the paper's order it holds the instructions only."""
    parts = [f"Part {n} of the log: " + f"rain, wind {n} and no sail. " * 9 for n in range(16)]
    (tmp_path / "d.txt").write_text("\n\n".join(parts))
    rows = [
        {"id": f"q{n}", "question": f"{n}: how long did it rain?", "document": "d.txt", "format": "Days."}
        for n in range(QUESTIONS)
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache = PrefixCache(tokenizer, blocks=150)
    with endpoint(cache) as (url, requests):
        line = words(source, out, url, tokenizer.folder, "--mode", "fast", "--order", order, "--concurrency", "4")
        line += ["--parallel", "1", "--no-skip", "--no-early-exit", "--recall-tokens", "0", "--no-recall-chunks"]
        line[line.index("--chunk-tokens") + 1] = "200"
        done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert len(records(out)) == QUESTIONS and all(row["clean"] for row in records(out).values())
    share = cache.cached / cache.read
    print(f"\n{order}: {len(requests)} calls, {cache.read} prompt tokens, {cache.cached} cached ({share:.0%})")
    if order == "section_first":
        # As many at once as there are slots: none of them reads a section before all have read the one before.
        assert len(cache.order) == QUESTIONS * SECTIONS
        assert cache.order[: 4 * SECTIONS] == sorted(cache.order[: 4 * SECTIONS])
        assert share > 0.5
    else:
        assert share < 0.35
