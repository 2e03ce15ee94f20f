"""Target distribution of prompt lengths: a histogram, whole samples per bin, and how far a set is from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from qwenlong.core.config import LengthsConfig

#: Samples per bin of 6000 tokens, read off the paper's Figure 3 (mean 34.3K, 19% in the last nine bins).
FIGURE3 = (2300, 1200, 1660, 2400, 690, 1150, 460, 530, 570, 290, 220, 720, 300, 300, 250, 210, 180, 190, 450, 75)
#: Figure 3's bin from which prompts count as long: 66,000 tokens of 120,000.
_LONG = Fraction(66, 120)


@dataclass(frozen=True)
class Histogram:
    """Bins [n * width, (n + 1) * width) of tokens with their counts. Counts are shares: only their ratio matters."""

    width: int
    counts: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens at which the last bin ends."""
        return self.width * len(self.counts)

    @property
    def long(self) -> int:
        """Tokens from which a prompt counts as long, in the proportion of Figure 3 (66K of 120K)."""
        return round(self.longest * _LONG)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the fewest and the most tokens of a bin."""
        return number * self.width, (number + 1) * self.width - 1

    def bin_of(self, tokens: int) -> int:
        """Return the bin of a length; lengths beyond the last bin belong to it."""
        return min(tokens // self.width, len(self.counts) - 1)

    def quotas(self, n: int) -> list[int]:
        """Return how many of `n` samples each bin gets: largest remainders, ties to the shorter bin.

        >>> Histogram(10, (2, 1, 1)).quotas(6)
        [3, 2, 1]
        """
        total = sum(self.counts)
        exact = [Fraction(n * count, total) for count in self.counts]
        whole = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda b: (whole[b] - exact[b], b))
        for place in by_remainder[: n - sum(whole)]:
            whole[place] += 1
        return whole

    def distance(self, lengths: Sequence[int]) -> dict[str, Any]:
        """Return counts per bin of some lengths, and how far they are from the target, as JSON.

        Total variation is half the sum of absolute differences of the shares: the share of samples in a wrong bin. The
        target's mean takes the centre of each bin, its long share the bins that begin at `long` or above.
        """
        achieved = [0] * len(self.counts)
        for tokens in lengths:
            achieved[self.bin_of(tokens)] += 1
        n, total = len(lengths), sum(self.counts)
        report: dict[str, Any] = {
            "bin_tokens": self.width,
            "samples": achieved,
            "target": self.quotas(n),
            "target_mean": sum((b + 0.5) * self.width * c for b, c in enumerate(self.counts)) / total,
            "long_tokens": self.long,
            "target_long_share": sum(c for b, c in enumerate(self.counts) if b * self.width >= self.long) / total,
        }
        if n:
            pairs = zip(achieved, self.counts, strict=True)
            report["total_variation"] = round(sum(abs(a / n - c / total) for a, c in pairs) / 2, 6)
            report["mean"] = round(sum(lengths) / n, 1)
            report["long_share"] = round(sum(tokens >= self.long for tokens in lengths) / n, 6)
        return report


def histogram(config: LengthsConfig) -> Histogram:
    """Return the histogram that the configuration names."""
    counts = FIGURE3 if config.histogram == "figure3" else config.histogram
    return Histogram(round(config.bin_tokens * config.scale), counts)
