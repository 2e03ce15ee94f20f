"""Keys of config.json by which transformers 4, and what was written for it, read a configuration of transformers 5.

transformers 5 renamed some settings and reads both names. transformers 4 takes its defaults for what it does not find,
without a word: 128 experts, a rotary base of 10,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def readable_by_older(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the older names beside the newer ones; what is there stays as it is."""
    added: dict[str, Any] = {}
    if "num_local_experts" in config:
        added["num_experts"] = config["num_local_experts"]
    if "dtype" in config:
        added["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    # One for all layers; per kind of layer transformers 4 had other names in each family.
    if isinstance(rope, dict) and "rope_theta" in rope:
        added["rope_theta"] = rope["rope_theta"]
        if "partial_rotary_factor" in rope:
            added["partial_rotary_factor"] = rope["partial_rotary_factor"]
        if rope.get("rope_type", "default") != "default":
            added["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return added | dict(config)
