"""The section about merging: methods, the settings that each reads, and what their values may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from qwenlong.core.config.section import Section, plain_name

MergeMethod = Literal["sce", "linear", "task_arithmetic", "ties", "dare_ties"]
SelectMode = Literal["reference", "mergekit"]
#: What each method reads of `MergeConfig`, besides the base. dare_ties also reads a seed.
MERGE_SETTINGS: dict[str, tuple[str, ...]] = {
    "sce": ("select_top", "select_mode"),
    "linear": ("weights", "normalize"),
    "task_arithmetic": ("weights",),
    "ties": ("density", "scale"),
    "dare_ties": ("density", "scale"),
}
#: Densities of the methods' own papers, for a merge that names none.
MERGE_DENSITIES = {"ties": 0.2, "dare_ties": 0.1}
#: The models that the recipe merges, in the order in which weights are given.
MERGED_MODELS = ("rl_3", "memory_rl")


class MergeConfig(Section):
    """Merging: SCE (SPEC section 5), or another method in its place."""

    method: MergeMethod = "sce"
    """sce; linear: weighted average; task_arithmetic: weighted differences from the base, added to it; ties: trimmed,
    signs elected, disjoint mean; dare_ties: dropped at random instead of trimmed."""
    select_top: Annotated[float, Field(gt=0, le=1)] = 1.0
    """sce: share of elements selected (tau). [assumed: not published]"""
    select_mode: SelectMode = "reference"
    """sce: whether the mask is used for the coefficients only, or also on what is merged."""
    weights: tuple[float, ...] | None = None
    """linear, task_arithmetic: weights of rl_3 and memory_rl. none: equal parts; in task_arithmetic 1 each."""
    normalize: bool = True
    """linear: whether weights are divided by their sum."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """ties: share of each expert's differences kept, the largest; none: 0.2. dare_ties: probability that one is kept;
    none: 0.1."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """ties, dare_ties: factor of what is added to the base (lambda)."""
    base: Literal["base", "rl_3"] = "base"
    """Model the deltas are taken from. [assumed: not published]"""

    @model_validator(mode="after")
    def _settings_fit(self) -> MergeConfig:
        read = MERGE_SETTINGS[self.method]
        fields = type(self).model_fields
        for name in sorted({name for names in MERGE_SETTINGS.values() for name in names} - set(read)):
            if getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} is not read by method {self.method}, which reads {', '.join(read)}; leave it out"
                )
        for name, text in setting_faults(self.settings(), len(MERGED_MODELS)).items():
            raise ValueError(f"{name} = {getattr(self, name)!r}: {text}")
        return self

    def settings(self) -> dict[str, Any]:
        """Return what the method reads; weights only where some are given."""
        values = {name: getattr(self, name) for name in MERGE_SETTINGS[self.method]}
        if values.get("density", 1) is None:
            values["density"] = MERGE_DENSITIES[self.method]
        return {name: value for name, value in values.items() if value is not None}


class MergeRow(MergeConfig):
    """A row of Table 10's merge under other settings: the same models merged, evaluated beside the recipe's merge."""

    name: Annotated[str, AfterValidator(plain_name)]
    """Name of the row; its files are under ablations/<name>."""


def setting_faults(settings: Mapping[str, Any], n_experts: int) -> dict[str, str]:
    """Return what is wrong with the settings of one method, by setting; empty when nothing is."""
    found = {name: _fault(name, value, n_experts) for name, value in settings.items()}
    weights = settings.get("weights")
    if settings.get("normalize") is True and weights is not None and found["weights"] is None:
        whole = math.fsum(weights)
        # Divided by a negative sum all weights would change their sign.
        found["weights"] = None if whole > 0 else f"their sum is {whole}; normalised weights need one above 0"
    return {name: text for name, text in found.items() if text is not None}


def _fault(name: str, value: Any, n_experts: int) -> str | None:
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
    if not isinstance(value, list | tuple) or not all(_is_number(weight) for weight in value):
        return "give finite numbers, one per expert"
    if len(value) != n_experts:
        return f"{len(value)} weights for {n_experts} experts; give one per expert, in their order"
    return None if any(value) else "all are 0; nothing would be merged"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
