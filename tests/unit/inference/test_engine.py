"""Generation: rows are independent of their neighbours, log-probabilities are those of the model, batches shrink."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from qwenlong.core.errors import DataError, UsageError
from qwenlong.inference import engine
from qwenlong.inference.engine import Generator, Local, Sampling, load_generator

VOCABULARY = 97
SHARED = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    initializer_range=0.4,
)


def make(kind: str) -> torch.nn.Module:
    torch.manual_seed(5)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHARED)).eval()
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**SHARED)).eval()
    moe = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHARED, **moe)).eval()


def prompts(n: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, VOCABULARY, (3 + 5 * i % 17,), generator=generator).tolist() for i in range(n)]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_greedy_equals_transformers(kind: str) -> None:
    model = make(kind)
    for prompt in prompts(4):
        expected = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=1, pad_token_id=0
        )[0, len(prompt) :].tolist()
        # In one batch with others, so that padding and compaction are in play.
        rows = [prompt, *prompts(4)]
        sampling = [Sampling(12, temperature=0.0), *[Sampling(n + 2, temperature=1.3) for n in range(4)]]
        assert Generator(model, {1}, 0).generate(rows, sampling, list(range(5)))[0].token_ids == expected


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 5, "temperature": 0.7}])
def test_row_does_not_depend_on_neighbours(kind: str, options: dict[str, float]) -> None:
    generator = Generator(make(kind), {1, 2, 3, 4}, 0)
    rows, seeds = prompts(6) + prompts(3), list(range(100, 109))
    sampling = [Sampling(10 + n, **{"temperature": 1.0, **options}) for n in range(9)]
    sampling[4] = Sampling(20, top_p=0.5)
    together = generator.generate(rows, sampling, seeds)
    small = Generator(generator.model, {1, 2, 3, 4}, 0, max_batch_tokens=64).generate(rows, sampling, seeds)
    for row in range(9):
        alone = generator.generate([rows[row]], [sampling[row]], [seeds[row]])[0]
        for other in (together[row], small[row]):
            assert other.token_ids == alone.token_ids
            assert other.finish_reason == alone.finish_reason
            assert other.log_probs == pytest.approx(alone.log_probs, abs=2e-5)


def test_log_probs_are_the_whole_distribution_at_the_temperature() -> None:
    model = make("qwen3_moe")
    prompt = prompts(3)[2]
    result = Generator(model, set(), 0).generate([prompt], [Sampling(9, temperature=0.6, top_p=0.4)], [1])[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + result.token_ids])).logits[0, len(prompt) - 1 : -1]
    expected = (logits / 0.6).log_softmax(-1).gather(-1, torch.tensor(result.token_ids)[:, None]).squeeze(-1)
    assert result.log_probs == pytest.approx(expected.tolist(), abs=2e-5)


def test_same_seed_same_tokens_other_seed_others() -> None:
    generator = Generator(make("llama"), set(), 0)
    prompt = prompts(1)[0]
    first, again, other = generator.generate([prompt] * 3, [Sampling(20)] * 3, [7, 7, 8])
    assert first.token_ids == again.token_ids != other.token_ids


def test_frequencies_follow_the_truncated_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4000, 1)
    uniforms = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for options, expected in (
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.75}, [0.625, 0.375, 0.0, 0.0]),
        ({"top_k": 3}, [0.5263, 0.3158, 0.1579, 0.0]),
    ):
        tokens, _ = engine.Sampler([Sampling(1, **options)] * 4000, logits.device)(logits, uniforms)
        assert (torch.bincount(tokens, minlength=4) / 4000).tolist() == pytest.approx(expected, abs=0.02)


def test_stop_tokens_end_a_row_and_are_included() -> None:
    generator = Generator(make("llama"), set(), 0)
    prompt = prompts(1)[0]
    free = generator.generate([prompt], [Sampling(20)], [7])[0]
    stop = free.token_ids[6]
    stopped = generator.generate([prompt], [Sampling(20, stop_token_ids=(stop,))], [7])[0]
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert (stopped.finish_reason, free.finish_reason) == ("stop", "length")


def test_one_prefill_per_distinct_prompt() -> None:
    model = make("llama")
    seen: list[tuple[int, int]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    Generator(model, set(), 0).generate([prompts(2)[1]] * 8, [Sampling(3)] * 8, list(range(8)))
    assert seen == [(1, 8), (8, 1), (8, 1)]


def test_batches_stay_within_the_token_limit() -> None:
    rows = prompts(12) * 3
    sampling = [Sampling(10)] * 36
    batches = list(engine._batches(rows, sampling, 100))
    assert sorted(row for jobs in batches for job in jobs for row in job.rows) == list(range(36))
    for jobs in batches:
        columns = max(len(job.prompt) for job in jobs) + 10
        assert columns * sum(len(job.rows) for job in jobs) <= 100


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": 0}, {"max_new_tokens": 0}])
def test_bad_sampling_is_named(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Sampling(**{"max_new_tokens": 4, **bad})


def test_bad_rows_are_refused() -> None:
    generator = Generator(make("llama"), set(), 0)
    with pytest.raises(UsageError, match="prompt 1 is empty"):
        generator.generate([[5], []], [Sampling(1)] * 2, [0, 1])
    with pytest.raises(UsageError, match="2 prompts, 1 samplings"):
        generator.generate([[5], [6]], [Sampling(1)], [0, 1])


def test_missing_model_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match="config.json is missing"):
        load_generator(tmp_path)


def test_local_batches_concurrent_callers() -> None:
    generator = Generator(make("llama"), {1}, 0)
    sizes: list[int] = []
    plain = generator.generate

    def counted(rows, sampling, seeds, *more):
        sizes.append(len(rows))
        assert threading.current_thread() is not threading.main_thread()
        return plain(rows, sampling, seeds, *more)

    generator.generate = counted  # type: ignore[method-assign]
    rows = prompts(6)

    async def all_rows() -> list[engine.Generation]:
        local = Local(generator)
        first = await asyncio.gather(*(local.generate(row, Sampling(5), n) for n, row in enumerate(rows)))
        again = await local.generate(rows[2], Sampling(5), 2)
        assert again.token_ids == first[2].token_ids
        return first

    results = asyncio.run(all_rows())
    assert sizes == [6, 1]
    assert [r.token_ids for r in results] == [r.token_ids for r in plain(rows, [Sampling(5)] * 6, list(range(6)))]


def test_a_row_that_nobody_wants_any_more_ends() -> None:
    """The others are as they would have been; the rows are the caller's, whatever order they are worked off in."""
    generator = Generator(make("qwen3"), {1}, 0)
    rows = prompts(4)
    sampling = [Sampling(20)] * 4
    whole = generator.generate(rows, sampling, [3, 4, 5, 6])
    asked = {row: 0 for row in range(4)}

    def unwanted(row: int) -> bool:
        asked[row] += 1
        return row == 2 and asked[row] == 5

    cut = generator.generate(rows, sampling, [3, 4, 5, 6], unwanted)
    assert cut[2].token_ids == whole[2].token_ids[:5] and cut[2].finish_reason == "length"
    assert [cut[n].token_ids for n in (0, 1, 3)] == [whole[n].token_ids for n in (0, 1, 3)]
    assert len(whole[2].token_ids) > 5


def test_a_caller_that_is_cancelled_leaves_the_batch() -> None:
    model = make("llama")
    steps: list[float] = []

    def slowly(*_: object) -> None:
        steps.append(time.monotonic())
        time.sleep(0.01)

    model.register_forward_pre_hook(slowly)

    async def leave() -> None:
        generator = Generator(model, set(), 0)
        task = asyncio.ensure_future(Local(generator).generate([5, 6, 7], Sampling(100), 1))
        while not steps:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(generator.lock.acquire)

    asyncio.run(leave())
    assert 1 <= len(steps) < 60


def test_local_hands_errors_to_the_callers() -> None:
    async def empty() -> None:
        await Local(Generator(make("llama"), {1}, 0)).generate([], Sampling(5), 0)

    with pytest.raises(UsageError, match="empty"):
        asyncio.run(empty())
