"""What the settings of the merge methods may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from qwenlong.checkpoints.sce import SelectMode


def fault(name: str, value: Any, n_experts: int) -> str | None:
    """Return what is wrong with the value of a setting for a merge of `n_experts`, None when nothing is."""
    if name in ("select_top", "density"):
        return None if _is_number(value) and 0 < value <= 1 else "give a share in (0, 1]"
    if name == "select_mode":
        return None if value in get_args(SelectMode) else f"choose {' or '.join(get_args(SelectMode))}"
    if name == "scale":
        return None if _is_number(value) and value > 0 else "give a finite number above 0"
    if name == "seed":
        return None if isinstance(value, int) and not isinstance(value, bool) else "give an integer"
    if name == "normalize":
        return None if isinstance(value, bool) else "give true or false"
    assert name == "weights", name
    if value is None:
        return None
    if isinstance(value, str | bytes) or not all(_is_number(weight) for weight in value):
        return "give finite numbers, one per expert"
    if len(value) != n_experts:
        return f"{len(value)} weights for {n_experts} experts; give one per expert, in their order"
    return None if any(value) else "all are 0; nothing would be merged"


def faults(settings: Mapping[str, Any], n_experts: int) -> dict[str, str]:
    """Return what is wrong with the settings of one method, by setting; empty when nothing is."""
    found = {name: fault(name, value, n_experts) for name, value in settings.items()}
    weights = settings.get("weights")
    if settings.get("normalize") is True and weights is not None and found["weights"] is None:
        whole = math.fsum(weights)
        # Divided by a negative sum all weights would change their sign.
        found["weights"] = None if whole > 0 else f"their sum is {whole}; normalised weights need one above 0"
    return {name: text for name, text in found.items() if text is not None}


def require(settings: Mapping[str, Any], n_experts: int) -> None:
    """Raise ValueError naming the first setting that is wrong."""
    for name, text in faults(settings, n_experts).items():
        raise ValueError(f"{name} = {settings[name]!r}: {text}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
