"""Rows behind one copy of their prompt give what each row alone gives: values, gradients, and less work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from qwenlong.inference import kernels
from qwenlong.training import packing
from qwenlong.training.token_statistics import token_statistics

VOCABULARY = 61


@pytest.fixture(scope="module")
def model() -> Qwen3MoeForCausalLM:
    torch.manual_seed(5)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.4, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=24,
    )  # fmt: skip
    made = Qwen3MoeForCausalLM(config).double()
    kernels.choose(made, cpu=True)
    return made


def rows(seed: int, groups: int, size: int) -> tuple[list[list[int]], list[list[int]]]:
    random = torch.Generator().manual_seed(seed)

    def ids(longest: int) -> list[int]:
        n = int(torch.randint(1, longest + 1, (1,), generator=random))
        return torch.randint(1, VOCABULARY, (n,), generator=random).tolist()

    prompts = [ids(40) for _ in range(groups)]
    pairs = [(prompts[g], ids(12)) for g in range(groups) for _ in range(size)]
    order = torch.randperm(len(pairs), generator=random).tolist()
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


def alone(model: Qwen3MoeForCausalLM, prompt: list[int], response: list[int]) -> tuple[Tensor, Tensor]:
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    distribution = torch.distributions.Categorical(logits=logits)
    return distribution.log_prob(torch.tensor(response)), distribution.entropy()


def together(model: Qwen3MoeForCausalLM, prompts: list[list[int]], responses: list[list[int]]) -> tuple[Tensor, Tensor]:
    packs = packing.pack(prompts, responses)
    logits = model(
        input_ids=packs.input_ids,
        position_ids=packs.position_ids,
        attention_mask=packs.attention_mask,
        logits_to_keep=packs.columns,
    ).logits
    chosen, entropy = token_statistics(logits[packs.pack, packs.column], packs.labels, True)
    assert entropy is not None
    return chosen, entropy


@pytest.mark.parametrize("seed", range(6))
def test_values_and_gradients_are_those_of_separate_rows(model: Qwen3MoeForCausalLM, seed: int) -> None:
    prompts, responses = rows(seed, groups=3, size=3)
    weights = torch.randn(sum(map(len, responses)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def gradients(chosen: Tensor) -> list[Tensor]:
        model.zero_grad()
        (chosen * weights).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    single = [alone(model, p, r) for p, r in zip(prompts, responses, strict=True)]
    expected, entropy = torch.cat([a for a, _ in single]), torch.cat([b for _, b in single])
    chosen, packed_entropy = together(model, prompts, responses)
    torch.testing.assert_close(chosen, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(packed_entropy, entropy, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(gradients(chosen), gradients(expected), strict=True):
        # transformers normalises and routes in float32 whatever the weights are.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_response_does_not_see_its_neighbours(model: Qwen3MoeForCausalLM) -> None:
    prompt, response = [5, 6, 7], [8, 9, 10]
    first, _ = together(model, [prompt, prompt], [response, [11, 12]])
    second, _ = together(model, [prompt, prompt], [response, [50, 51, 52, 53]])
    torch.testing.assert_close(first[:3], second[:3], rtol=0, atol=1e-9)


def test_prompt_is_there_once() -> None:
    packs = packing.pack([[1, 2, 3]] * 4 + [[4]], [[5, 6]] * 4 + [[7]])
    assert packs.input_ids.tolist() == [[1, 2, 3, 5, 6, 5, 6, 5, 6, 5, 6], [4, 7] + [0] * 9]
    assert packs.position_ids[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 3, 4, 3, 4]
    assert packs.labels.tolist() == [5, 6] * 4 + [7]
    # The last tokens of responses predict nothing that is asked for, so their logits are not made.
    assert packs.columns.tolist() == [0, 2, 3, 5, 7, 9]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 400))
def test_micro_batches_hold_every_row_once_within_the_limit(seed: int, groups: int, size: int, limit: int) -> None:
    prompts, responses = rows(seed, groups, size)
    batches = packing.micro_batches(prompts, responses, limit)
    assert sorted(row for batch in batches for row in batch) == list(range(len(prompts)))
    for batch in batches:
        packs = packing.pack([prompts[r] for r in batch], [responses[r] for r in batch])
        alone_in_it = len(batch) == 1
        assert packs.input_ids.numel() <= limit or alone_in_it, "only a single row may be above the limit"
    if limit == 400:
        assert len(batches) <= len(packing.by_prompt(prompts))


@pytest.mark.parametrize(
    ("prompts", "responses", "named"),
    [
        ([], [], "0 prompts"),
        ([[1]], [], "1 prompts, 0 responses"),
        ([[1], []], [[1], [2]], "row 1"),
        ([[1]], [[]], "row 0"),
    ],
)
def test_bad_rows_are_refused(prompts: list[list[int]], responses: list[list[int]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        packing.pack(prompts, responses)
