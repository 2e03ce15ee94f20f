"""The compiled, threaded merge in pieces against `sce.merge_tensor`: the same bits, the same statistics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.checkpoints import sce_stream
from qwenlong.checkpoints.sce import BLOCK, merge_tensor
from qwenlong.checkpoints.sce_stream import merge_pieces


def in_pieces(base: torch.Tensor, experts: list[torch.Tensor], *words: object, **options: object) -> tuple:
    result = torch.full((base.numel(),), torch.nan, dtype=options.get("dtype") or base.dtype)  # type: ignore[arg-type]

    def put(start: int, values: torch.Tensor) -> None:
        assert bool(result[start : start + values.numel()].isnan().all()), "a piece came twice"
        result[start : start + values.numel()] = values

    stats = merge_pieces(base, experts, put, *words, **options)  # type: ignore[arg-type]
    return result.reshape(base.shape), stats


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Bit for bit: 0 and -0 differ."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, list[torch.Tensor]]:
    n = draw(st.sampled_from([0, 1, 5, BLOCK - 1, BLOCK, 3 * BLOCK + 7]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
    # A few levels make ties, agreements, cancellations and negative zeros common.
    levels = draw(st.sampled_from([0, 1, 2, 1000]))
    unit = draw(st.sampled_from([1.0, 2.0**-10, 1e-6]))

    def values() -> torch.Tensor:
        if levels == 1000:
            return torch.randn(n, generator=generator)
        return torch.randint(-levels, levels + 1, (n,), generator=generator).float() * -1.0

    base = values().to(draw(dtypes))
    experts = [(base.float() + unit * values()).to(draw(dtypes)) for _ in range(draw(st.integers(2, 5)))]
    if draw(st.booleans()):
        experts[-1] = experts[0].clone()
    return base, experts


@settings(max_examples=150)
@given(
    cases(),
    st.sampled_from([1.0, 0.5, 0.1, 0.003]),
    st.sampled_from(["reference", "mergekit"]),
    st.booleans(),
    st.sampled_from([0, 3, 1 << 22]),
)
def test_pieces_are_the_whole_tensor(case: tuple, select_top: float, mode: str, threaded: bool, held: int) -> None:
    base, experts = case
    expected, expected_stats = merge_tensor(base, experts, select_top, mode)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(sce_stream, "PIECE", BLOCK)
        patch.setattr(sce_stream, "TASK", 2)
        patch.setattr(sce_stream, "HELD", held)
        merged, stats = in_pieces(base, experts, select_top, mode, pool=pool if threaded else None)
    assert same(merged, expected)
    assert stats == expected_stats


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_any_dtype_of_the_result(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(3, 70_001, generator=generator).bfloat16()
    experts = [(base.float() + torch.randn(base.shape, generator=generator) * 1e-3) for _ in range(2)]
    for select_top in (1.0, 0.2):
        expected, expected_stats = merge_tensor(base, experts, select_top, dtype=dtype)
        with ThreadPoolExecutor(2) as pool:
            merged, stats = in_pieces(base, experts, select_top, dtype=dtype, pool=pool)
        assert same(merged, expected) and stats == expected_stats


def test_ties_across_pieces_go_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sce_stream, "PIECE", BLOCK)
    n = 4 * BLOCK
    base = torch.zeros(n)
    one = torch.ones(n)
    two = torch.where(torch.arange(n) % 2 == 0, 1.0, 2.0)
    # Half of the elements differ, all by the same: int(0.9 * 2048) = 1843 of them are selected, the first ones.
    merged, stats = in_pieces(base, [one, two], 0.9, "mergekit")
    expected, expected_stats = merge_tensor(base, [one, two], 0.9, "mergekit")
    assert torch.equal(merged, expected) and stats == expected_stats
    assert stats["selected"] == 1843 / n
    assert int((merged != 0).sum()) == 1843 and int(merged.nonzero()[-1]) == 2 * 1843 - 1


@pytest.mark.parametrize(
    ("base", "experts", "dtype", "message"),
    [
        (torch.zeros(2), [torch.tensor([0.0, torch.nan]), torch.zeros(2)], None, "expert 1 has NaN"),
        (torch.tensor([0.0, -torch.inf]), [torch.zeros(2)] * 2, None, "base has NaN or infinite"),
        (torch.zeros(2), [torch.zeros(2), torch.tensor([torch.inf, 0.0])], None, "expert 2 has NaN or infinite"),
        (torch.zeros(2), [torch.full((2,), 1e6)] * 2, torch.float16, "overflows torch.float16"),
        (torch.zeros(2), [torch.full((2,), 3.4e38)] * 2, torch.bfloat16, "overflows torch.bfloat16"),
    ],
)
@pytest.mark.parametrize("select_top", [1.0, 0.5])
def test_refusals(
    base: torch.Tensor, experts: list, dtype: torch.dtype | None, message: str, select_top: float
) -> None:
    for pool in (None, ThreadPoolExecutor(2)):
        with pytest.raises(ValueError, match=message):
            in_pieces(base, experts, select_top, dtype=dtype, pool=pool)


def test_bfloat16_is_rounded_as_pytorch_rounds() -> None:
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).to(torch.int32)
    values = bits.view(torch.float32).double()
    values = values[values.isfinite() & (values.abs() < 3.38e38)]
    halves = torch.arange(0, 1 << 16, dtype=torch.int32) << 16 | 0x8000  # exactly between two
    halves = halves.view(torch.float32).double()
    values = torch.cat([values, values * (1 + 2**-40), halves[halves.isfinite() & (halves.abs() < 3.38e38)]])
    values = torch.cat([values, torch.tensor([0.0, -0.0, 1e-300, -1e-300, 1e-45], dtype=torch.float64)])
    rounded = sce_stream._rounded(values.numpy(), torch.bfloat16, np.empty(values.numel(), dtype=np.uint16))
    assert same(rounded, values.to(torch.bfloat16))
