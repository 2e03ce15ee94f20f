"""Expert tensors: one per expert on disk and in vLLM, one stack per layer in transformers 5 models."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_EXPERT = re.compile(r"(?P<layer>.+\.experts)\.(?P<number>\d+)\.(?P<part>gate_proj|up_proj|down_proj)\.weight")


def fuse(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with per-expert matrices stacked: `gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I].

    Names that are fused already, and everything else, are left as they are. Raises ValueError naming a layer whose
    experts are not numbered 0..E−1 with all three parts.
    """
    fused: dict[str, Tensor] = {}
    layers: dict[str, dict[str, dict[int, Tensor]]] = {}
    for name, tensor in state.items():
        match = _EXPERT.fullmatch(name)
        if match is None:
            fused[name] = tensor
        else:
            layers.setdefault(match["layer"], {}).setdefault(match["part"], {})[int(match["number"])] = tensor
    for layer, parts in layers.items():
        count = max(len(experts) for experts in parts.values())
        wanted = list(range(count))
        if set(parts) != {"gate_proj", "up_proj", "down_proj"} or any(sorted(e) != wanted for e in parts.values()):
            found = {part: len(experts) for part, experts in parts.items()}
            raise ValueError(f"{layer}: experts are not whole ({found}); every expert needs gate, up and down")
        gate_up = [torch.cat([parts["gate_proj"][n], parts["up_proj"][n]], dim=0) for n in wanted]
        fused[f"{layer}.gate_up_proj"] = torch.stack(gate_up)
        fused[f"{layer}.down_proj"] = torch.stack([parts["down_proj"][n] for n in wanted])
    return fused
