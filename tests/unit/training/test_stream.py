"""A stream of packs through FlexAttention gives what each row alone gives; block masks never lose a pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from qwenlong.training import packing, stream_model
from qwenlong.training.block_mask import allowed, blocks, flex_mask

VOCABULARY = 61
BLOCK = 16


def rows(seed: int, groups: int, size: int, longest: int = 40) -> tuple[list[list[int]], list[list[int]]]:
    random = torch.Generator().manual_seed(seed)

    def ids(most: int) -> list[int]:
        n = int(torch.randint(1, most + 1, (1,), generator=random))
        return torch.randint(1, VOCABULARY, (n,), generator=random).tolist()

    prompts = [ids(longest) for _ in range(groups)]
    pairs = [(prompts[g], ids(12)) for g in range(groups) for _ in range(size)]
    order = torch.randperm(len(pairs), generator=random).tolist()
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


def models() -> list:
    torch.manual_seed(5)
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
        "initializer_range": 0.4, "tie_word_embeddings": True,
    }  # fmt: skip
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    mixture = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **moe)).double()
    mixture.set_experts_implementation("eager")  # grouped products know no float64
    return [LlamaForCausalLM(LlamaConfig(**shape)).double(), mixture]


def alone(model, prompts: list, responses: list, temperature: float) -> tuple[Tensor, Tensor]:
    parts = []
    for prompt, response in zip(prompts, responses, strict=True):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        distribution = torch.distributions.Categorical(logits=logits / temperature)
        parts.append((distribution.log_prob(torch.tensor(response)), distribution.entropy()))
    return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_and_gradients_are_those_of_separate_rows(which: int, seed: int) -> None:
    prompts, responses = rows(seed, groups=3, size=3)
    weights = torch.randn(sum(map(len, responses)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain, streaming = models()[which], models()[which]
    names = list(dict(plain.named_parameters()))
    head = stream_model.prepare(streaming)
    assert list(dict(streaming.named_parameters())) == names

    expected, entropy = alone(plain, prompts, responses, 0.7)
    (expected * weights).sum().backward()
    stream = packing.stream(prompts, responses, multiple=128)
    head.request = stream_model.Request(stream.labels, torch.full((len(stream.labels),), 0.7), True)
    found = streaming(**stream_model.inputs(stream, torch.device("cpu"))).logits[0]
    (found[:, 0] * weights).sum().backward()
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[:, 1], entropy, rtol=1e-6, atol=1e-6)
    for (name, ours), theirs in zip(streaming.named_parameters(), plain.parameters(), strict=True):
        # transformers normalises and routes in float32 whatever the weights are.
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_flex_attention_over_the_blocks_is_attention_over_the_dense_mask() -> None:
    # The kernel that a GPU runs, in its reference form: block by block, as the mask lists them.
    from torch.nn.attention.flex_attention import flex_attention

    stream = packing.stream(*rows(9, 4, 4, 100), multiple=128)
    n = len(stream.pack)
    random = torch.Generator().manual_seed(0)
    query = torch.randn((1, 4, n, 16), generator=random)
    key, value = (torch.randn((1, 2, n, 16), generator=random) for _ in range(2))
    mask = flex_mask(stream.pack, stream.row)
    with torch.no_grad():
        flexible = flex_attention(query, key, value, block_mask=mask, enable_gqa=True)
        dense, _ = stream_model.stream_attention(torch.nn.Identity(), query, key, value, mask)
    torch.testing.assert_close(flexible.transpose(1, 2), dense, rtol=1e-5, atol=1e-5)


def test_parts_of_a_stream_cover_it_once() -> None:
    stream = packing.stream(*rows(9, 4, 4, 100), multiple=256)
    whole = stream_model.inputs(stream, torch.device("cpu"))
    parts = [stream_model.part_of_inputs(whole, rank, 2) for rank in range(2)]
    for name in ("input_ids", "position_ids"):
        assert torch.equal(torch.cat([part[name] for part, _ in parts], dim=1), whole[name])
    assert torch.equal(parts[0][1] ^ parts[1][1], torch.ones(len(stream.labels), dtype=torch.bool))
    half = whole["input_ids"].shape[1] // 2
    for rank, (part, mine) in enumerate(parts):
        assert part["attention_mask"] is whole["attention_mask"]
        assert torch.equal(part["logits_to_keep"] + rank * half, stream.places[mine])
    with pytest.raises(ValueError, match="does not divide among 3 ranks"):
        stream_model.part_of_inputs(whole, 0, 3)


def test_without_a_request_the_head_gives_logits() -> None:
    model = models()[0]
    ids = torch.tensor([[3, 4, 5]])
    expected = model(input_ids=ids).logits
    stream_model.prepare(model)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = models()[0]
    model.lm_head = torch.nn.Linear(32, VOCABULARY, bias=True)
    with pytest.raises(NotImplementedError, match="engine.packed"):
        stream_model.prepare(model)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 60]))
def test_blocks_lose_no_pair_and_full_ones_hold_nothing_else(seed: int, groups: int, size: int, longest: int) -> None:
    stream = packing.stream(*rows(seed, groups, size, longest), multiple=BLOCK)
    n = len(stream.pack)
    place = torch.arange(n)
    dense = allowed(stream.pack, stream.row, place[:, None], place[None, :])
    tiles = dense.view(n // BLOCK, BLOCK, n // BLOCK, BLOCK).transpose(1, 2)
    partial, full = blocks(stream.pack, stream.row, BLOCK)
    assert not (partial & full).any()
    assert (tiles.any(-1).any(-1) <= (partial | full)).all(), "a block with an allowed pair was left out"
    assert (full <= tiles.all(-1).all(-1)).all(), "a full block holds a pair that is not allowed"
    # Row by row: what a token may see is its prompt and its own row up to itself.
    for query in range(0, n, 7):
        seen = {k for k in range(query + 1) if stream.pack[k] == stream.pack[query]
                and int(stream.row[k]) in (0, int(stream.row[query]))}  # fmt: skip
        assert seen == set(dense[query].nonzero()[:, 0].tolist())


def test_blocks_of_other_prompts_and_responses_are_not_computed() -> None:
    prompt = list(range(1, 33))
    stream = packing.stream([prompt] * 2 + [[7] * 32], [[5] * 32] * 3, multiple=BLOCK)
    partial, full = blocks(stream.pack, stream.row, BLOCK)
    kinds = (partial.int() + 2 * full.int()).tolist()
    # Two blocks each: prompt, response, response, other prompt, its response.
    assert kinds[5] == [2, 2, 0, 0, 2, 1, 0, 0, 0, 0]
    assert kinds[9] == [0, 0, 0, 0, 0, 0, 2, 2, 2, 1]


def test_the_mask_of_flex_attention_is_the_dense_one() -> None:
    stream = packing.stream(*rows(4, 3, 3, 150), multiple=128)
    mask = flex_mask(stream.pack, stream.row)
    n = len(stream.pack)
    place = torch.arange(n)
    dense = allowed(stream.pack, stream.row, place[:, None], place[None, :])
    tiles = dense.view(n // 128, 128, n // 128, 128).transpose(1, 2).any(-1).any(-1)
    assert tuple(mask.shape) == (1, 1, n, n)
    assert (mask.to_dense()[0, 0].bool() >= tiles).all()


def test_a_stream_that_is_no_multiple_is_refused() -> None:
    stream = packing.stream([[1, 2]], [[3]])
    with pytest.raises(ValueError, match="multiple"):
        blocks(stream.pack, stream.row, 2)


def test_layout_of_a_stream() -> None:
    stream = packing.stream([[1, 2], [9], [1, 2]], [[3, 4], [8], [5]], multiple=4)
    assert stream.input_ids.tolist() == [1, 2, 3, 4, 5, 9, 8, 0]
    assert stream.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1, 0]
    assert stream.pack.tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert stream.row.tolist() == [0, 0, 1, 1, 3, 0, 2, 0]
    assert stream.labels.tolist() == [3, 4, 8, 5]
    assert stream.places.tolist() == [1, 2, 5, 1]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 400))
def test_streams_hold_every_row_once_within_the_limit(seed: int, groups: int, size: int, limit: int) -> None:
    prompts, responses = rows(seed, groups, size)
    batches = packing.micro_batches(prompts, responses, limit, padded=False)
    assert sorted(row for batch in batches for row in batch) == list(range(len(prompts)))
    for batch in batches:
        tokens = len(packing.stream([prompts[r] for r in batch], [responses[r] for r in batch]).input_ids)
        assert tokens <= limit or len(batch) == 1, "only a single row may be above the limit"
    assert len(packing.at_least(batches, len(prompts))) == len(prompts)


def test_micro_batches_of_a_stream_are_even() -> None:
    prompts = [[n] * 90 for n in range(1, 33)]
    batches = packing.micro_batches(prompts, [[1] * 10] * 32, 1500, padded=False)
    assert sorted(len(batch) for batch in batches) == [10, 11, 11]


def test_too_few_rows_for_the_micro_batches_of_other_ranks() -> None:
    with pytest.raises(ValueError, match="2 rows cannot make 3"):
        packing.at_least([[0, 1]], 3)
