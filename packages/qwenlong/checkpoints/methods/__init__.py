"""The merge methods by name: each a pure function of tensors in a file of its own, and the settings it reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints import sce
from qwenlong.checkpoints.methods import dare_ties, linear, task_arithmetic, ties
from qwenlong.core.config.merging import setting_faults
from qwenlong.core.errors import UsageError

Merge = Callable[[str, Tensor, Sequence[Tensor], torch.dtype | None], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class Method:
    """A merge method: `merge(base, experts, **settings, dtype=...)` returns the merged tensor and its statistics."""

    merge: Callable[..., tuple[Tensor, dict[str, Any]]]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the method reads, with their defaults."""
        parameters = inspect.signature(self.merge).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "dtype"}

    @property
    def is_named(self) -> bool:
        """Whether the result depends on the tensor's name, through random numbers."""
        return "name" in inspect.signature(self.merge).parameters


METHODS: dict[str, Method] = {
    "sce": Method(sce.merge_tensor),
    "linear": Method(linear.merge_tensor),
    "task_arithmetic": Method(task_arithmetic.merge_tensor),
    "ties": Method(ties.merge_tensor),
    "dare_ties": Method(dare_ties.merge_tensor),
}


def resolve(method: str, settings: Mapping[str, Any], n_experts: int) -> dict[str, Any]:
    """Return all settings of a method, defaults filled in.

    Raises UsageError for fewer than two experts, an unknown method, a setting that the method does not read, and a
    value that makes no sense.
    """
    if n_experts < 2:
        raise UsageError(f"{n_experts} --expert given; a merge needs at least two")
    if method not in METHODS:
        raise UsageError(f"--method {method}: choose one of {', '.join(METHODS)}")
    known = METHODS[method].settings
    for name in settings:
        if name not in known:
            read = ", ".join(map(option, known))
            raise UsageError(f"{option(name)} is not read by --method {method}, which reads {read}; leave it out")
    values = known | dict(settings)
    for name, text in setting_faults(values, n_experts).items():
        shown = " ".join(map(str, values[name])) if isinstance(values[name], list | tuple) else values[name]
        raise UsageError(f"{option(name)} {shown}: {text}")
    if values.get("weights") is not None:
        values["weights"] = [float(weight) for weight in values["weights"]]
    return values


def option(setting: str) -> str:
    """Return the command's option for a setting."""
    return "--weight" if setting == "weights" else f"--{setting.replace('_', '-')}"


def function(method: str, settings: Mapping[str, Any]) -> Merge:
    """Return the merge of a tensor from (name, base, experts, dtype) under resolved settings."""
    chosen = METHODS[method]

    def merge(
        name: str, base: Tensor, experts: Sequence[Tensor], dtype: torch.dtype | None
    ) -> tuple[Tensor, dict[str, Any]]:
        named = {"name": name} if chosen.is_named else {}
        return chosen.merge(base, experts, **named, **settings, dtype=dtype)

    return merge
