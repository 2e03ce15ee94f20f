"""Verification of a checkpoint directory: names, shapes, dtypes, values, and the distance to a reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints.merge import vocabulary_fault
from qwenlong.checkpoints.weights import Weights, compare_names, dtype_name


def verify(
    directory: Path,
    like: Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    on_tensor: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return what a checkpoint holds and what is wrong with it.

    Args:
        directory: a Hugging Face directory.
        like: a directory of the same architecture: names, shapes, vocabulary and the distance are taken against it.
        dtype: that all floating weights must have; None: they must have one dtype, that of config.json if it says so.
        on_tensor: called with the name of each tensor read.

    The report: `faults` (sentences; empty when all is well), `tensors`, `parameters`, `dtypes`, `zero_rows` (rows of
    matrices that are all zero), and with `like` `distance`: relative L2 norm and largest absolute difference of all
    weights, the number of tensors that are unchanged, and the L2 norm of the difference by tensor.

    Faults are: missing, unexpected or misshapen tensors; NaN or infinite values; matrices that are all zero; rows of
    zeros where the reference has none; dtypes other than wanted; another vocabulary. Raises DataError when the
    directory cannot be read at all.
    """
    with Weights(directory) as weights:
        config = weights.config()
        faults: list[str] = []
        reference = Weights(like) if like is not None else None
        try:
            if reference is not None and like is not None:
                faults += compare_names(reference.entries, weights.entries, directory.name, like.name)
                fault = vocabulary_fault(like, directory)
                faults += [f"vocabulary differs from {like.name}: {fault}"] if fault else []
            faults += _dtype_faults(weights, config, dtype)
            distance = _Distance()
            zero_rows = 0
            for name, entry in sorted(weights.entries.items()):
                tensor = weights.tensor(name)
                if on_tensor is not None:
                    on_tensor(name)
                if not tensor.is_floating_point() or not entry.elements:
                    continue
                n_bad = entry.elements - int(torch.isfinite(tensor).sum())
                if n_bad:
                    faults.append(f"{name} has {n_bad} values of {entry.elements} that are NaN or infinite")
                    continue
                other = None
                if reference is not None and name in reference.entries and reference.entries[name].shape == entry.shape:
                    other = reference.tensor(name)
                    if not other.is_floating_point() or not bool(torch.isfinite(other).all()):
                        faults.append(f"{name} of the reference cannot be compared with: it is not finite")
                        other = None
                zeros = _zero_rows(tensor)
                zero_rows += int(zeros.sum())
                if tensor.dim() > 1 and bool(zeros.all()):
                    if other is None or bool(other.any()):
                        faults.append(f"{name} is zero throughout")
                elif other is not None and (n_new := int((zeros & ~_zero_rows(other)).sum())):
                    faults.append(f"{name} has {n_new} rows of zeros where the reference has none")
                if other is not None:
                    distance.add(name, tensor, other)
            report: dict[str, Any] = {
                "faults": faults,
                "tensors": len(weights.entries),
                "parameters": weights.n_parameters,
                "dtypes": sorted({dtype_name(entry.dtype) for entry in weights.entries.values()}),
                "zero_rows": zero_rows,
            }
            if reference is not None:
                report["distance"] = distance.report()
            return report
        finally:
            if reference is not None:
                reference.__exit__(None, None, None)


def _dtype_faults(weights: Weights, config: dict[str, Any], dtype: torch.dtype | None) -> list[str]:
    floats = {name: entry.dtype for name, entry in weights.entries.items() if entry.dtype.is_floating_point}
    if dtype is not None:
        wanted, source = dtype, "the option asks for"
    else:
        stated = config.get("dtype", config.get("torch_dtype"))
        known = {dtype_name(value): value for value in floats.values()}
        if isinstance(stated, str) and floats:
            if stated not in known:
                return [f"config.json says {stated}, the weights are {', '.join(sorted(known))}"]
            wanted, source = known[stated], "config.json says"
        elif len(known) > 1:
            return [f"the weights mix dtypes ({', '.join(sorted(known))}) and config.json names none"]
        else:
            return []
    wrong = sorted(name for name, value in floats.items() if value != wanted)
    if not wrong:
        return []
    return [f"{len(wrong)} tensors are not {dtype_name(wanted)}, as {source}; the first is {wrong[0]}"]


def _zero_rows(tensor: Tensor) -> Tensor:
    """Which rows along the last dimension are all zero, flat; none for vectors and scalars."""
    if tensor.dim() < 2:
        return torch.zeros(0, dtype=torch.bool)
    return ~tensor.reshape(-1, tensor.shape[-1]).any(dim=1)


class _Distance:
    """Sums over tensors, in float64."""

    def __init__(self) -> None:
        self._difference: dict[str, float] = {}
        self._squares: list[float] = []
        self._reference: list[float] = []
        self._largest = 0.0
        self._unchanged = 0

    def add(self, name: str, tensor: Tensor, other: Tensor) -> None:
        squares = norms = 0.0
        largest = 0.0
        left, right = tensor.reshape(-1), other.reshape(-1)
        for start in range(0, left.numel(), 1 << 22):
            reference = right[start : start + (1 << 22)].double()
            delta = left[start : start + (1 << 22)].double() - reference
            squares += float((delta * delta).sum())
            norms += float((reference * reference).sum())
            largest = max(largest, float(delta.abs().max()))
        self._difference[name] = math.sqrt(squares)
        self._squares.append(squares)
        self._reference.append(norms)
        self._largest = max(self._largest, largest)
        self._unchanged += largest == 0

    def report(self) -> dict[str, Any]:
        total, norm = math.fsum(self._squares), math.fsum(self._reference)
        return {
            "relative": math.sqrt(total / norm) if norm else None,
            "largest": self._largest,
            "unchanged_tensors": self._unchanged,
            "compared_tensors": len(self._difference),
            "by_tensor": self._difference,
        }
