"""BFCL's official harness in its own environment, a scripted endpoint behind it: played, replayed, harmless."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "memory_agent"))

from agent_helpers import make_tokenizer

from qwenlong.core import seeds
from qwenlong.core.config import EndpointConfig, EvaluationConfig
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.llm import Client, Unavailable
from qwenlong.evaluation.benchmarks.bfcl_v4_memory import MemoryItem
from qwenlong.evaluation.registry import find
from qwenlong.memory_agent import backends
from qwenlong.memory_agent.backends import EndpointBackend
from qwenlong.memory_agent.journal import Journal
from qwenlong.memory_agent.loop import Generate
from scripted import Endpoint, serving

pytestmark = pytest.mark.engines
ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "benchmarks" / "bfcl_v4_memory" / "BFCL_v4_memory.json"
ASKED = "must respond in this format"


@pytest.fixture(scope="module")
def environment() -> str:
    """The environment as its script makes it (once: .venv-bfcl, or QWENLONG_BFCL)."""
    subprocess.run(
        [ROOT / "scripts" / "bfcl_env.sh", "install"], check=True, env=os.environ | {"PYTHON": sys.executable}
    )
    return os.environ.get("QWENLONG_BFCL", str(ROOT / ".venv-bfcl"))


def answering(trace: Path) -> Any:
    """A model that appends what it is told, tries to write a file by the way, and repeats its memory when asked."""

    def answer(body: dict[str, Any]) -> str:
        said = body["messages"][-1]["content"]
        if said.startswith("[{'role': 'tool'"):
            return f"<think>So.</think>{said}" if ASKED in body["messages"][0]["content"] else "Noted."
        if ASKED in body["messages"][0]["content"]:
            return "[memory_retrieve()]"
        bad = f"memory_append(text=open(file={str(trace)!r}, mode='w'))"
        return f"[memory_append(text={said!r}), {bad}, open(file={str(trace)!r}, mode='w')]"

    return answer


async def _hold(server: Endpoint, environment: str, folder: Path, most: int = 100_000) -> list[MemoryItem]:
    benchmark = find("bfcl_v4_memory_rec_sum").configured(EvaluationConfig(bfcl_environment=environment))
    items = [item for item in benchmark.load(DATA, None) if item.group == "notetaker"]
    tokenizer = make_tokenizer(folder / "tokenizer")
    backend = EndpointBackend(Client(EndpointConfig(base_url=server.url, model="m", retries=0)), "m", tokenizer)
    with Journal(folder / "journal") as journal:

        def asking(name: str) -> Generate:
            seed = seeds.derive(17, name)
            return journal.wrap(backends.generator(backend, temperature=0.7, top_p=0.95, seed=seed), name)

        try:
            return list(await benchmark.prepare(items, asking, tokenizer, most, 500))  # type: ignore[arg-type]
        finally:
            await backend.close()


def _ask(item: MemoryItem) -> float:
    turns = asyncio.run(item.interact(None, None, 0, 0))  # type: ignore[arg-type]
    return item.score(turns[-1].text)["official"]


def test_the_official_harness_plays_our_model(environment: str, tmp_path: Path) -> None:
    """What the notetaker's conversations said is remembered, the journal replays all, nothing is run by the way."""
    trace = tmp_path / "trace"
    with serving() as server:
        server.answer = answering(trace)
        items = asyncio.run(_hold(server, environment, tmp_path))
        # 24 turns and 25 questions, two calls each.
        assert len(server.requests) == 2 * (24 + 25)
        again = asyncio.run(_hold(server, environment, tmp_path))
        assert len(server.requests) == 2 * (24 + 25)
    assert again == items
    # The whole memory is the answer, and some golds are worded otherwise than what was said.
    assert sum(map(_ask, items)) / len(items) > 0.5
    assert not trace.exists()
    with pytest.raises(UsageError, match=r"samples = 1"):
        items[0].variant(1)


def test_a_failing_endpoint_is_named_and_healed(environment: str, tmp_path: Path) -> None:
    """Questions behind a lost conversation are errors of the endpoint; the next run asks for what is missing."""
    healthy, calls = False, 0
    whole = answering(tmp_path / "trace")

    def flaky(body: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        return whole(body) if healthy or calls < 9 else {"status": 503}

    with serving() as server:
        server.answer = flaky
        for item in asyncio.run(_hold(server, environment, tmp_path)):
            with pytest.raises(Unavailable, match=item.id):
                _ask(item)
        healthy = True
        healed = asyncio.run(_hold(server, environment, tmp_path))
        assert sum(map(_ask, healed)) / len(healed) > 0.5
        assert max(server.paid.values()) == 1


def test_a_prompt_above_the_limit_is_an_error(environment: str, tmp_path: Path) -> None:
    with serving() as server:
        for item in asyncio.run(_hold(server, environment, tmp_path, most=50)):
            with pytest.raises(QwenlongError, match="max_input_tokens is 50"):
                _ask(item)
        assert not server.requests
