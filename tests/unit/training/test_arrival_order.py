"""The CPU rollout server itself: tokens depend on (seed, step, sample, rollout, turn), not on when requests arrive."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from qwenlong.core.seeds import derive
from qwenlong.inference import engine
from qwenlong.inference.engine import Generator

GROUP, PROMPTS = 3, 5


class _Config:
    prompt_length, response_length = 64, 24


@pytest.fixture(scope="module")
def server_class() -> Any:
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    from qwenlong.training.cpu_platform.rollout import HFServer

    return HFServer.__ray_metadata__.modified_class


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(4)
    config = Qwen3MoeConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, moe_intermediate_size=32, num_experts=2,
        num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=256, eos_token_id=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config).eval()


@pytest.fixture
def server(server_class: Any, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(engine, "load_generator", lambda path: (Generator(model, {1}, 0), None))
    made = server_class(_Config(), Path("none"))
    made.sizes = []
    inner = made._generate

    def counted(batch: list[Any]) -> Any:
        made.sizes.append(len(batch))
        return inner(batch)

    made._generate = counted
    return made


def requests(turns: int = 1, wave: bool = True) -> list[tuple[str, list[dict[str, Any]]]]:
    """Name and sampling parameters of every turn of every rollout, as the agent loops make them."""
    made = []
    for n in range(PROMPTS):
        for session in range(GROUP):
            calls = []
            for turn in range(turns):
                names = ("memory", 3, f"s3p{n}i{n + 7}", session, turn)
                call = {"max_tokens": 8 + n, "temperature": 1.0, "top_p": 0.95, "seed": derive(17, *names) % 2**31}
                if wave:
                    call |= {"wave": PROMPTS * GROUP if turn == 0 else 0, "follows": turn < turns - 1}
                calls.append(call)
            made.append((f"{n}/{session}", calls))
    return made


def prompt(name: str, before: list[int]) -> list[int]:
    n = int(name[0])
    return [5 + (n * k) % 290 for k in range(1, 9 + 4 * n)] + before


def rollouts(server: Any, order: int, turns: int = 1, pauses: float = 0.0, wave: bool = True) -> dict[str, list[Any]]:
    """Tokens and log-probabilities of every turn, requests arriving in an order and at times of their own."""
    chance = random.Random(order)

    async def one(name: str, calls: list[dict[str, Any]], pause: float) -> tuple[str, list[Any]]:
        said, before = [], []
        for call in calls:
            await asyncio.sleep(pause)
            out = await server.generate("r", prompt_ids=prompt(name, before), sampling_params=call)
            said.append((list(out.token_ids), list(out.log_probs)))
            before = list(out.token_ids)
        return name, said

    async def everything() -> dict[str, list[Any]]:
        work = requests(turns, wave)
        chance.shuffle(work)
        return dict(await asyncio.gather(*(one(n, calls, pauses * chance.random()) for n, calls in work)))

    return asyncio.run(everything())


@pytest.mark.parametrize("turns", [1, 3])
def test_a_steps_rollouts_are_the_same_in_any_order_of_arrival(server: Any, turns: int) -> None:
    """Bit for bit, log-probabilities too, even where requests trickle in: the batch waits for all that come."""
    first = rollouts(server, 0, turns)
    assert len({tuple(said[0][0]) for said in first.values()}) == PROMPTS * GROUP
    for order in (1, 2, 3):
        assert rollouts(server, order, turns, pauses=0.1 * order) == first
    assert server.sizes == [PROMPTS * GROUP] * (4 * turns)


def test_without_waiting_only_float_noise_depends_on_the_batch(server: Any) -> None:
    """Requests that do not say how many they are share batches by chance: the tokens are still the same."""
    first = rollouts(server, 0)
    again = rollouts(server, 1, pauses=0.3, wave=False)
    assert len(server.sizes) > 2, "requests came in several batches"
    assert {k: v[0][0] for k, v in again.items()} == {k: v[0][0] for k, v in first.items()}
    for name, said in again.items():
        assert said[0][1] == pytest.approx(first[name][0][1], abs=2e-5)


def test_rows_that_never_come_hold_nothing_up_for_long(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(type(server)._serve.__globals__, "_PATIENCE", 0.2)
    _, calls = requests()[0]
    out = asyncio.run(server.generate("r", prompt_ids=[5, 6], sampling_params=calls[0]))
    assert out.token_ids and server.sizes == [1]


def test_other_seeds_draw_other_tokens() -> None:
    seeds = {call["seed"] for _, calls in requests(turns=3) for call in calls}
    assert len(seeds) == 3 * PROMPTS * GROUP
