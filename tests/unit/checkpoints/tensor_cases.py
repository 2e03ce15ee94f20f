"""Small tensors on which merges meet ties, agreements, cancellations and zeros."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and two to four experts of one shape, of at most three dimensions, and one dtype."""
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    n = math.prod(shape)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    unit = draw(st.sampled_from([1.0, 2.0**-7, 2.0**-12]))
    # Few levels, so that ties, agreements, cancellations and zeros are common.
    numbers = st.lists(st.integers(-2, 2), min_size=n, max_size=n)
    base = torch.tensor(draw(numbers), dtype=torch.float64).reshape(shape)
    experts = [
        (base + unit * torch.tensor(draw(numbers), dtype=torch.float64).reshape(shape)).to(dtype)
        for _ in range(draw(st.integers(2, 4)))
    ]
    return base.to(dtype), experts
