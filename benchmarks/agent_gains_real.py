"""The memory agent's gains with a real model, few short documents, as it is.

    python benchmarks/agent_gains_real.py --corpus results/nano_rl/corpus --model models/nano
    python benchmarks/agent_gains_real.py --corpus … --model NAME --base-url http://127.0.0.1:8000/v1 --tokenizer DIR

A model that knows neither the questions' forms nor "nothing to add" shows no gain; the table says so.
Wall times are those of one question after another, on whatever else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import agent_items
import agent_readers
from agent_gains import SETTINGS
from agent_gains_asking import answer_all, sections
from agent_gains_tables import SEED, Run, cost_table, replaced, score_table

from qwenlong.core.files import read_parquet, write_text
from qwenlong.core.records import Document as Text
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import backends
from qwenlong.memory_agent.turns import Messages, Turn


class _Counted:
    """A backend that counts what it reads and writes."""

    def __init__(self, backend: backends.Backend) -> None:
        self._backend = backend
        self.name, self.tokenizer, self.window = backend.name, backend.tokenizer, backend.window
        self.stats = dict.fromkeys(("requests", "prompt_tokens", "completion_tokens"), 0.0)

    async def complete(self, messages: Messages, **settings: Any) -> Turn:
        turn = await self._backend.complete(messages, **settings)
        for name, n in zip(self.stats, (1, turn.prompt_tokens, turn.completion_tokens), strict=True):
            self.stats[name] += n
        return turn

    async def close(self) -> None:
        await self._backend.close()


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with documents.parquet")
    parser.add_argument("--model", required=True, help="a model directory, or with --base-url a model's name")
    parser.add_argument("--base-url", help="OpenAI-compatible address")
    parser.add_argument("--tokenizer", type=Path, help="directory; default: the model's")
    parser.add_argument("--documents", type=int, default=2, help="of six questions each")
    parser.add_argument("--chunks", type=int, default=6, help="chunks of a document, about")
    parser.add_argument("--chunk", type=int, default=384)
    parser.add_argument("--memory", type=int, default=96)
    parser.add_argument("--answer", type=int, default=48)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/agent_gains.md"))
    a = parser.parse_args()
    folder = a.tokenizer or Path(a.model)
    tokenizer = Tokenizer(folder)
    texts = read_parquet(a.corpus / "documents.parquet", Text)
    made = agent_items.make(texts, a.documents, int(a.chunks * a.chunk * agent_readers.CHARACTERS), SEED)
    chunks = {d.id: sections(d, tokenizer, a.chunk) for d in made}
    questions = sum(len(d.questions) for d in made)
    runs: dict[str, Run] = {}
    for name, setting in SETTINGS.items():
        # What is on in the scripted server only is no setting of a real one.
        if name not in a.settings or (setting.server and not setting.gains):
            continue
        counted = _Counted(backends.open_backend(a.model, base_url=a.base_url, tokenizer=str(folder)))
        gains = {**setting.gains, **({"recall_tokens": a.memory} if "recall_tokens" in setting.gains else {})}
        found = asyncio.run(answer_all(counted, gains, made, chunks, 1, (a.memory, a.answer, a.window)))
        runs[name] = Run(found[0], counted.stats, found[1], {"one by one": found[2] / questions})
        print(score_table(runs)[-1], cost_table(runs)[-1], found[1], flush=True)
    each = sum(map(len, chunks.values())) / len(made)
    head = f"{questions} questions, {each:.0f} chunks of at most {a.chunk} tokens, memory {a.memory}, greedy."
    page = a.out.read_text(encoding="utf-8") if a.out.exists() else "# The memory agent's gains\n"
    lines = [head, "", *score_table(runs), "", *cost_table(runs)]
    write_text(a.out, replaced(page, f"Real model: {backends.label(a.model)}", lines))


if __name__ == "__main__":
    main()
