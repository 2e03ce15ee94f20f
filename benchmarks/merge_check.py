"""Compares the outputs of both merges element by element, and each with a float64 reference of its own rule.

The rules differ in three ways, known beforehand: which weights share one coefficient (ours: a matrix; mergekit: all
experts' gate and up, or down, projections of a layer, which transformers 5 stacks), what happens when the mean squares
of the deltas add up to less than 1e-6 (ours: nothing; mergekit: equal coefficients), and the arithmetic (float64;
float32). The references follow the equations of SCE; neither side's code is used.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from merge_models import bfloat16
from numpy.typing import NDArray

Array = NDArray[Any]
_EXPERT = re.compile(r"(?P<stem>.*\.mlp\.experts)\.(?P<number>\d+)\.(?P<kind>gate|up|down)_proj\.weight")
#: Sum of the mean squares below which mergekit weighs all experts alike.
UNIFORM_BELOW = 1e-6


def reference(base: Array, experts: list[Array], tau: float, uniform_below: float) -> Array:
    """Return SCE's merge of flat float64 arrays, unselected deltas zeroed, ties in the selection by lower index."""
    deltas = np.stack(experts) - base
    if tau < 1:
        variance = deltas.var(axis=0) if len(experts) > 2 else (deltas[0] - deltas[1]) ** 2
        kept = np.argsort(-variance, kind="stable")[: int(tau * np.count_nonzero(variance))]
        mask = np.zeros(base.size, dtype=bool)
        mask[kept] = True
        deltas *= mask
    squares = np.array([float(delta @ delta) for delta in deltas])
    few = squares.sum() == 0 or squares.sum() / base.size < uniform_below
    etas = np.full(len(experts), 1 / len(experts)) if few else squares / squares.sum()
    survives = (deltas != 0) & ((deltas > 0) == (deltas.sum(axis=0) >= 0))
    weights = survives * etas[:, None]
    divisor = weights.sum(axis=0)
    return base + (weights * deltas).sum(axis=0) / np.where(divisor == 0, 1, divisor)


def compare(inputs: list[Path], ours: Path, theirs: Path, tau: float) -> dict[str, Any]:
    """Return, for dense tensors and expert matrices, how many elements are equal in bfloat16, and to what.

    Memory: some ten float64 copies of a layer's experts.
    """
    models = [_Model(path) for path in (*inputs, ours, theirs)]
    groups: dict[str, list[str]] = {}
    for name in models[0].names:
        groups.setdefault(models[0].stack(name) or name, []).append(name)
    kinds: dict[str, dict[str, float]] = {}
    for group, names in sorted(groups.items()):
        sources = [np.concatenate([model.floats(name) for name in names]) for model in models[:3]]
        merged_ours = np.concatenate([models[3].bits(name) for name in names])
        merged_theirs = np.concatenate([models[4].bits(name) for name in names])
        places = np.cumsum([0] + [models[3].bits(name).size for name in names])
        own = np.concatenate(
            [reference(sources[0][a:b], [s[a:b] for s in sources[1:]], tau, 0) for a, b in pairwise(places)]
        )
        stacked = reference(sources[0], sources[1:], tau, UNIFORM_BELOW)
        kind = kinds.setdefault("dense tensors" if names == [group] else "expert matrices", _zero())
        kind["tensors"] += len(names)
        kind["elements"] += merged_ours.size
        kind["equal"] += int((merged_ours == merged_theirs).sum())
        kind["ours_by_rule"] += int((merged_ours == _round(own)).sum())
        kind["theirs_by_rule"] += int((merged_theirs == _round(stacked)).sum())
        kind["rules_equal"] += int((_round(own) == _round(stacked)).sum())
        kind["largest"] = max(kind["largest"], float(np.abs(_wide(merged_ours) - _wide(merged_theirs)).max()))
    return kinds


def _zero() -> dict[str, float]:
    names = ("tensors", "elements", "equal", "ours_by_rule", "theirs_by_rule", "rules_equal", "largest")
    return dict.fromkeys(names, 0)


def _round(values: Array) -> Array:
    return bfloat16(values.astype(np.float32))


def _wide(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Model:
    """Tensors by their names on disk, flat; those of stacked experts are cut out of the stack."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._places: dict[str, Any] = {}
        for file in sorted(folder.glob("*.safetensors")):
            handle = safe_open(file, framework="pt")
            self._places |= dict.fromkeys(handle.keys(), handle)
        self.names = sorted(self._places)

    @staticmethod
    def stack(name: str) -> str | None:
        """Return the name of the stack that a matrix of an expert belongs to."""
        found = _EXPERT.fullmatch(name)
        if found is None:
            return None
        return f"{found['stem']}.{'down' if found['kind'] == 'down' else 'gate_up'}_proj"

    def _tensor(self, name: str) -> Any:
        if name in self._places:
            return self._places[name].get_tensor(name)
        stack, found = self.stack(name), _EXPERT.fullmatch(name)
        if stack not in self._places or found is None:
            raise SystemExit(f"a merged model lacks {name}")
        matrix = self._places[stack].get_slice(stack)[int(found["number"])]
        half = matrix.shape[0] // 2
        return {"gate": matrix[:half], "up": matrix[half:], "down": matrix}[found["kind"]]

    def floats(self, name: str) -> Array:
        """Return a tensor's values in float64."""
        return self._tensor(name).double().flatten().numpy()  # type: ignore[no-any-return]

    def bits(self, name: str) -> Array:
        """Return the bits of a bfloat16 tensor as uint16."""
        import torch

        tensor = self._tensor(name)
        if tensor.dtype != torch.bfloat16:
            raise SystemExit(f"{name} is {tensor.dtype} in a merged model, bfloat16 was asked for")
        return tensor.contiguous().flatten().view(torch.int16).numpy().view(np.uint16)  # type: ignore[no-any-return]
