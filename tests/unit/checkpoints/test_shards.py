"""Rows of tensors that lie in shards: those of the whole tensor, however it was cut and copied."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwenlong.checkpoints.shards import Node, rows_of


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Tensor, Node | Tensor]:
    """A tensor of up to three dimensions, and how it lies on a mesh of up to three."""
    shape = draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
    whole = torch.arange(float(torch.Size(shape).numel())).reshape(shape)

    def spread(tensor: Tensor, depth: int) -> Node | Tensor:
        if not depth:
            return tensor
        dim = draw(st.none() | st.integers(0, len(shape) - 1))
        ranks = draw(st.integers(1, 4))
        if dim is None:
            return Node(None, tuple(spread(tensor.clone(), depth - 1) for _ in range(ranks)))
        # Some ranks hold nothing.
        cuts = sorted(draw(st.lists(st.integers(0, tensor.shape[dim]), min_size=ranks - 1, max_size=ranks - 1)))
        edges = [0, *cuts, tensor.shape[dim]]
        parts = [tensor.narrow(dim, low, high - low) for low, high in zip(edges, edges[1:], strict=False)]
        return Node(dim, tuple(spread(part, depth - 1) for part in parts))

    return whole, spread(whole, draw(st.integers(0, 3)))


@settings(max_examples=300)
@given(layouts(), st.integers(0, 8), st.integers(0, 8))
def test_rows_are_those_of_the_whole(laid: tuple[Tensor, Node | Tensor], start: int, stop: int) -> None:
    whole, node = laid
    start, stop = min(start, len(whole)), min(max(start, stop), len(whole))
    found = rows_of(node, start, stop)
    assert found is not None and torch.equal(found, whole[start:stop])


def test_scalars_and_copies_that_differ() -> None:
    one = torch.tensor(3.0)
    assert rows_of(Node(None, (one, one.clone())), 0, 1) == 3.0
    left, right = torch.zeros(4, 2), torch.zeros(4, 2)
    right[3, 1] = -0.0
    copies = Node(1, (Node(None, (left, right)), torch.ones(4, 1)))
    assert rows_of(copies, 0, 3) is not None
    # Equal as numbers, other bytes.
    assert rows_of(copies, 0, 4) is None
    nan = torch.full((2,), float("nan"))
    assert rows_of(Node(None, (nan, nan.clone())), 0, 2) is not None
