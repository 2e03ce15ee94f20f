"""Sampling by inverse CDF from a stream of uniforms per row, so that a row's tokens do not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qwenlong.core.errors import UsageError

#: Uniforms drawn at a time per row; a row's stream does not depend on it.
_BLOCK = 64
#: Tokens looked at before a whole vocabulary is sorted for top-p.
_HEAD = 64


@dataclass(frozen=True)
class Sampling:
    """How a row is sampled. `temperature` 0 is greedy; `top_k` -1 and `top_p` 1 are off."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError naming the value that is out of range."""
        for name, good, remedy in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k == -1 or self.top_k >= 1, "-1 (off) or at least 1"),
        ):
            if not good:
                raise UsageError(f"{name} = {getattr(self, name)} cannot be sampled with; make it {remedy}")


class Uniforms:
    """A counter-based stream of uniforms in [0, 1) for each row (Philox, keyed by the row's seed)."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._block = np.empty((len(seeds), 0))
        self._next = 0

    def draw(self) -> Tensor:
        """Return the next uniform of every row, float64 [rows]."""
        if self._next == self._block.shape[1]:
            self._block = np.stack([stream.random(_BLOCK) for stream in self._streams])
            self._next = 0
        values = self._block[:, self._next]
        self._next += 1
        return torch.from_numpy(values.copy())

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        self._streams = [self._streams[row] for row in rows]
        self._block = self._block[list(rows)]


class Sampler:
    """The sampling parameters of a batch as tensors."""

    def __init__(self, sampling: Sequence[Sampling], device: torch.device) -> None:
        self._set(
            torch.tensor([s.temperature for s in sampling], dtype=torch.float32, device=device),
            torch.tensor([s.top_p for s in sampling], dtype=torch.float64, device=device),
            torch.tensor([s.top_k for s in sampling], dtype=torch.int64, device=device),
        )

    def _set(self, temperature: Tensor, top_p: Tensor, top_k: Tensor) -> None:
        self._temperature, self._top_p, self._top_k = temperature, top_p, top_k
        self._greedy = temperature == 0
        self._any_greedy = bool(self._greedy.any())
        self._truncates = bool(((top_p < 1) | (top_k > 0)).any())
        self._largest_k = int(top_k.max()) if top_k.numel() else -1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self._set(self._temperature[rows], self._top_p[rows], self._top_k[rows])

    def __call__(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sampled tokens [rows] and their log-probabilities float32 [rows].

        `logits` is [rows, vocabulary], `uniforms` float64 [rows]. The log-probability is that of the whole
        distribution at the row's temperature, before top-k and top-p; for greedy rows that at temperature 1.
        """
        scale = torch.where(self._greedy, torch.ones_like(self._temperature), self._temperature)
        log_probs = torch.log_softmax(logits.float() / scale[:, None], dim=-1)
        uniforms = uniforms.to(logits.device)
        tokens = self._truncated(log_probs, uniforms) if self._truncates else _inverse_cdf(log_probs, uniforms)
        if self._any_greedy:
            tokens = torch.where(self._greedy, log_probs.argmax(dim=-1), tokens)
        return tokens, log_probs.gather(-1, tokens[:, None]).squeeze(-1)

    def _truncated(self, log_probs: Tensor, uniforms: Tensor) -> Tensor:
        vocabulary = log_probs.shape[-1]
        # Sorting a vocabulary costs more than a decoding step of a small model: the head of it nearly always suffices.
        width = min(vocabulary, max(_HEAD, self._largest_k))
        while True:
            top, order = log_probs.topk(width, dim=-1)
            probabilities = top.double().exp()
            before = probabilities.cumsum(dim=-1) - probabilities
            covered = before[:, -1] + probabilities[:, -1] >= self._top_p
            covered |= (self._top_k > 0) & (self._top_k <= width)
            if width == vocabulary or bool(covered.all()):
                break
            width = min(vocabulary, 8 * width)
        rank = torch.arange(width, device=log_probs.device)
        kept = before < self._top_p[:, None]
        kept &= (self._top_k[:, None] < 0) | (rank < self._top_k[:, None])
        # Rows without truncation of their own use the same order of tokens as in a batch of such rows.
        whole = (self._top_p == 1) & (self._top_k < 0)
        chosen = _invert((probabilities * kept).cumsum(dim=-1), uniforms, kept.sum(dim=-1) - 1)
        tokens = order.gather(-1, chosen[:, None]).squeeze(-1)
        return torch.where(whole, _inverse_cdf(log_probs, uniforms), tokens) if bool(whole.any()) else tokens


def _inverse_cdf(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    last = torch.full(uniforms.shape, log_probs.shape[-1] - 1, device=log_probs.device)
    return _invert(cumulative, uniforms, last)


def _invert(cumulative: Tensor, uniforms: Tensor, last: Tensor) -> Tensor:
    """Return the first index whose cumulative mass exceeds the uniform share of the total; never past `last`."""
    mass = cumulative[:, -1]
    found = torch.searchsorted(cumulative, (uniforms * mass)[:, None], right=True).squeeze(-1)
    return torch.minimum(found, last)
