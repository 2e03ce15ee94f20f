"""Many questions over one document: what a server's prefix cache finds when they go side by side."""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

from agent_helpers import endpoint
from batch_helpers import records, words
from typer.testing import CliRunner

from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.commands import app

QUESTIONS, SECTIONS, SLOTS = 12, 16, 6
ASKED, PART = re.compile(r"(\d+): how long did it rain"), re.compile(r"Part (\d+) ")


class PrefixCache:
    """A server's cache of prompt beginnings, in blocks of tokens, the least recently used block dropped first."""

    def __init__(self, tokenizer: Tokenizer, blocks: int, size: int = 8) -> None:
        self._tokenizer, self._blocks, self._size = tokenizer, blocks, size
        self._held: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self.read = self.cached = 0
        self.order: list[tuple[int, int]] = []
        """Question and section of each request that shows one."""
        self._guard = Lock()

    def __call__(self, request: dict[str, Any]) -> tuple[int, str]:
        prompt = request["messages"][0]["content"]
        asked, part = ASKED.search(prompt), PART.search(prompt)
        if asked is not None:
            # Some questions are answered later than others: by themselves they would not stay side by side.
            time.sleep(0.015 * (int(asked[1]) % 3))
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
            if part is not None:
                assert asked is not None
                self.order.append((int(asked[1]), int(part[1])))
        return 200, f"<memory>seen {len(self.order)}</memory>" if "<memory>" in prompt else "nine"


def ask_all(folder: Path, tokenizer: Tokenizer, order: str) -> PrefixCache:
    """Ask all questions, six at a time; return what the cache saw. It has room for about two sections."""
    parts = [f"Part {n} of the log: " + f"rain, wind {n} and no sail. " * 28 for n in range(SECTIONS)]
    folder.mkdir()
    (folder / "d.txt").write_text("\n\n".join(parts))
    rows = [
        {"id": f"q{n}", "question": f"{n}: how long did it rain?", "document": "d.txt", "format": "Days."}
        for n in range(QUESTIONS)
    ]
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache = PrefixCache(tokenizer, blocks=250)
    with endpoint(cache) as (url, requests):
        line = words(
            source, out, url, tokenizer.folder, "--mode", "fast", "--order", order, "--concurrency", str(SLOTS)
        )
        line += ["--parallel", "1", "--no-skip", "--no-early-exit", "--recall-tokens", "0", "--no-recall-chunks"]
        line[line.index("--chunk-tokens") + 1] = "600"
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        assert len(records(out)) == QUESTIONS and all(row["clean"] for row in records(out).values())
        share = cache.cached / cache.read
        print(f"\n{order}: {len(requests)} calls, {cache.read} prompt tokens, {cache.cached} cached ({share:.0%})")
    return cache


def test_sections_are_read_from_the_cache_by_all_but_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Side by side a section is computed once for the questions under way; in the paper's order each time."""
    shared = ask_all(tmp_path / "shared", tokenizer, "section_first")
    # As many at once as there are slots: none of them reads a section before all have read the one before.
    assert len(shared.order) == QUESTIONS * SECTIONS
    for wave in range(QUESTIONS // SLOTS):
        # The next wave begins in the slots of those that wait for the last of this one.
        read = [section for question, section in shared.order if question // SLOTS == wave]
        assert read == sorted([*range(SECTIONS)] * SLOTS)
    alone = ask_all(tmp_path / "alone", tokenizer, "question_first")
    # Five of six questions find instructions and section; alone they find the instructions.
    assert shared.cached / shared.read > 0.6 > 0.3 > alone.cached / alone.read
    assert shared.read - shared.cached < 0.5 * (alone.read - alone.cached)
