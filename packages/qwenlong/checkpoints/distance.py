"""The distance between two checkpoints, summed in float64 over pieces of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class _Sums:
    squares: float = 0.0
    reference: float = 0.0
    largest: float = 0.0


class Distance:
    """Sums over tensors, in float64."""

    def __init__(self) -> None:
        self._tensors: dict[str, _Sums] = {}

    def add(self, name: str, piece: Tensor, reference: Tensor) -> None:
        """Add a piece of a tensor and the same piece of the reference, both finite and of one shape."""
        other = reference.double()
        delta = piece.double() - other
        sums = self._tensors.setdefault(name, _Sums())
        sums.squares += float((delta * delta).sum())
        sums.reference += float((other * other).sum())
        sums.largest = max(sums.largest, float(delta.abs().max()))

    def drop(self, name: str) -> None:
        """Leave a tensor out after all."""
        self._tensors.pop(name, None)

    def report(self) -> dict[str, Any]:
        """Return the relative L2 norm (None without a norm), the largest difference, and the norms by tensor."""
        total = math.fsum(sums.squares for sums in self._tensors.values())
        norm = math.fsum(sums.reference for sums in self._tensors.values())
        return {
            "relative": math.sqrt(total / norm) if norm else None,
            "largest": max((sums.largest for sums in self._tensors.values()), default=0.0),
            "unchanged_tensors": sum(sums.largest == 0 for sums in self._tensors.values()),
            "compared_tensors": len(self._tensors),
            "by_tensor": {name: math.sqrt(sums.squares) for name, sums in self._tensors.items()},
        }
