"""Statistics made in chunks are those of the whole table of logits: values, gradients, and nothing kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.training.token_statistics import linear_statistics


def case(n: int, d: int, vocabulary: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn((n, d), generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn((vocabulary, d), generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (n,), generator=random)
    temperature = torch.rand(n, generator=random) + 0.5
    return hidden, weight, labels, temperature


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(2, 30), st.integers(1, 50), st.integers(0, 10**6))
def test_chunks_give_what_the_whole_gives(n: int, d: int, vocabulary: int, chunk: int, seed: int) -> None:
    hidden, weight, labels, temperature = case(n, d, vocabulary, seed, torch.float64)
    slope = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    slope[::3] = 0
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T / temperature.double()[:, None])
    expected = torch.autograd.grad((distribution.log_prob(labels) * slope).sum(), (hidden, weight))
    chosen, entropy = linear_statistics(hidden, weight, labels, temperature, True, chunk)
    found = torch.autograd.grad((chosen * slope).sum(), (hidden, weight))
    torch.testing.assert_close(chosen, distribution.log_prob(labels))
    torch.testing.assert_close(entropy, distribution.entropy(), atol=1e-9, rtol=1e-7)
    assert not entropy.requires_grad
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-7)


def test_bfloat16_weights_give_float32_statistics() -> None:
    hidden, weight, labels, temperature = case(33, 16, 50, 3, torch.bfloat16)
    chosen, entropy = linear_statistics(hidden, weight, labels, temperature, True, 8)
    assert chosen.dtype == entropy.dtype == torch.float32
    chosen.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    wide = (hidden.detach().double(), weight.detach().double())
    whole = torch.log_softmax(wide[0] @ wide[1].T / temperature.double()[:, None], dim=-1)
    torch.testing.assert_close(chosen.double(), whole.gather(1, labels[:, None])[:, 0], atol=0.1, rtol=0.02)


def test_no_more_logits_than_a_chunk_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwenlong.training import token_statistics

    seen: list[int] = []
    original = token_statistics._logits

    def counted(hidden: torch.Tensor, weight: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return original(hidden, weight, temperature)

    monkeypatch.setattr(token_statistics, "_logits", counted)
    hidden, weight, labels, temperature = case(100, 4, 11, 1, torch.float32)
    chosen, _ = linear_statistics(hidden, weight, labels, temperature, False, 16)
    assert seen == [16] * 6 + [4]
    seen.clear()
    slope = torch.zeros(100)
    slope[40:60] = 1.0
    (chosen * slope).sum().backward()
    assert seen == [16, 4], "rows without a gradient are not made again"
    assert not hidden.grad[:40].any() and hidden.grad[40:60].any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": torch.zeros(3, 5)}, "must be"),
        ({"labels": torch.zeros(2, dtype=torch.long)}, "labels"),
        ({"temperature": torch.ones(4)}, "temperature"),
        ({"chunk": 0}, "chunk = 0"),
    ],
)
def test_shapes_are_checked(change: dict, named: str) -> None:
    hidden, weight, labels, temperature = case(3, 4, 6, 0, torch.float32)
    given = {"hidden": hidden, "weight": weight, "labels": labels, "temperature": temperature, "entropy": False}
    with pytest.raises(ValueError, match=named):
        linear_statistics(**(given | change))
