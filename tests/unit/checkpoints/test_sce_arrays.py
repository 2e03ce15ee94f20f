"""SCE on larger tensors against a float64 reference in NumPy: random and adversarial mixtures, and what must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.checkpoints.sce import merge_tensor

SHAPES = [(1500,), (40, 30), (5, 16, 20)]


def reference(base: np.ndarray, experts: np.ndarray, top: float, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """SPEC section 5 on flat float64 arrays [n] and [experts, n]: merged values and coefficients."""
    delta = experts - base
    selected = np.ones(base.size, dtype=bool)
    if top < 1:
        variance = sum((delta[j] - delta[k]) ** 2 for j in range(len(delta)) for k in range(j))
        order = np.lexsort((np.arange(base.size), -variance))
        selected[:] = False
        selected[order[: int(top * np.count_nonzero(variance))]] = True
    energy = np.where(selected, delta**2, 0).sum(axis=1)
    eta = energy / energy.sum() if energy.sum() else np.full(len(delta), 1 / len(delta))
    if mode == "mergekit":
        delta = np.where(selected, delta, 0)
    sign = np.where(delta.sum(axis=0) >= 0, 1, -1)
    survives = np.sign(delta) == sign
    weight = survives * eta[:, None]
    divisor = weight.sum(axis=0)
    return base + (weight * delta).sum(axis=0) / np.where(divisor == 0, 1, divisor), eta


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and two to four experts, each region of elements changed in another way."""
    shape = draw(st.sampled_from(SHAPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    scale = draw(st.sampled_from([1e-6, 3e-4, 0.1]))
    n = int(np.prod(shape))
    base = (torch.randn(n, generator=generator) * 0.02).to(dtype)
    experts = [base.float() + scale * torch.randn(n, generator=generator) for _ in range(draw(st.integers(2, 4)))]
    for region in torch.arange(n).split(n // 5):
        kind = draw(st.sampled_from(["free", "agree", "unchanged", "opposed", "one"]))
        if kind == "unchanged":
            for expert in experts:
                expert[region] = base[region].float()
        for number, expert in enumerate(experts[1:], 1):
            if kind == "agree":
                expert[region] = experts[0][region]
            elif kind == "opposed" and number == 1:
                expert[region] = 2 * base[region].float() - experts[0][region]
            elif kind == "one":
                expert[region] = base[region].float()
    return base.reshape(shape), [expert.to(dtype).reshape(shape) for expert in experts]


@settings(max_examples=80)
@given(mixtures(), st.sampled_from([1.0, 0.5, 0.1]), st.sampled_from(["reference", "mergekit"]))
def test_agrees_with_the_array_reference(case: tuple, top: float, mode: str) -> None:
    base, experts = case
    merged, stats = merge_tensor(base, experts, top, mode, dtype=torch.float64)
    flat = [tensor.double().flatten().numpy() for tensor in (base, *experts)]
    expected, eta = reference(flat[0], np.stack(flat[1:]), top, mode)
    np.testing.assert_allclose(stats["coefficients"], eta, rtol=1e-12)
    np.testing.assert_allclose(merged.flatten().numpy(), expected, rtol=1e-12, atol=1e-16)
    assert merged.shape == base.shape


@settings(max_examples=60)
@given(mixtures(), st.sampled_from([1.0, 0.5, 0.1, 0.01]))
def test_what_the_experts_agree_on_is_never_reverted(case: tuple, top: float) -> None:
    base, experts = case
    merged, stats = merge_tensor(base, experts, top)
    agree = torch.stack([expert == experts[0] for expert in experts]).all(dim=0)
    assert torch.equal(merged[agree], experts[0][agree])
    changed = (experts[0] != base) & agree
    assert stats["reverted"] <= 1 - float(changed.sum()) / base.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_deltas_keep_their_true_coefficients(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(2, 300, 200, generator=generator, dtype=torch.float64)
    # Energies as 9 to 1 at an RMS of 1e-6 and less: an absolute threshold would call both 0.5.
    for rms in (1e-6, 1e-9):
        base = torch.zeros(300, 200, dtype=dtype)
        experts = [(3 * rms * noise[0]).to(dtype), (rms * noise[1]).to(dtype)]
        _, stats = merge_tensor(base, experts)
        energies = [float((expert.double() ** 2).sum()) for expert in experts]
        expected = [energy / sum(energies) for energy in energies]
        assert expected[0] == pytest.approx(0.9, abs=0.01)
        assert stats["coefficients"] == pytest.approx(expected, rel=1e-12)
