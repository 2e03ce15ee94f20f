"""Refusal of settings, for functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenlong.core.config.merging import setting_faults


def require(settings: Mapping[str, Any], n_experts: int) -> None:
    """Raise ValueError naming the first setting whose value makes no sense for a merge of `n_experts`."""
    for name, text in setting_faults(settings, n_experts).items():
        raise ValueError(f"{name} = {settings[name]!r}: {text}")
