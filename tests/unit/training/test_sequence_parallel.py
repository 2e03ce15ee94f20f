"""Exchanges between ranks that share a row, over real gloo ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from sequence_ranks import attend, tensors  # noqa: E402


def run(ranks: int, heads: int, kv_heads: int, out: Path) -> subprocess.CompletedProcess[str]:
    packages = os.pathsep.join(str(path) for path in sys.path if path)
    command = [sys.executable, str(HERE / "sequence_ranks.py"), *map(str, (ranks, heads, kv_heads, out))]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": packages})


@pytest.mark.parametrize(("ranks", "heads", "kv_heads"), [(2, 4, 2), (4, 8, 2)])
def test_attention_over_ranks_is_attention_on_one(ranks: int, heads: int, kv_heads: int, tmp_path: Path) -> None:
    done = run(ranks, heads, kv_heads, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    alone = [x.requires_grad_() for x in tensors(heads, kv_heads)]
    out = attend(*alone)
    expected = out[0, 0, torch.tensor([17, 3, 4, 5, 23]), 0]
    (expected * torch.arange(1.0, 6, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(torch.cat([part["back"] for part in parts], dim=2), out.detach())
    for part in parts:
        torch.testing.assert_close(part["whole"], expected.detach())
    for n, one in enumerate(alone):
        torch.testing.assert_close(torch.cat([part["gradients"][n] for part in parts], dim=2), one.grad)


def test_heads_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    done = run(2, 3, 3, tmp_path)
    assert done.returncode and "ValueError: 3 query and 3 key-value heads do not divide among 2 ranks" in done.stderr
