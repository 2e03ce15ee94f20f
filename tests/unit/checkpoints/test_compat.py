"""Older names in config.json: added where they are wanted, read alike by transformers 5, never changed."""

from __future__ import annotations

import json
from pathlib import Path

from qwenlong.checkpoints.compat import readable_by_older
from qwenlong.checkpoints.convert import convert


def test_older_names_stand_beside_the_newer() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    config = {"num_local_experts": 4, "dtype": "float32", "rope_parameters": yarn, "hidden_size": 8}
    assert readable_by_older(config) == config | {
        "num_experts": 4,
        "torch_dtype": "float32",
        "rope_theta": 1e6,
        "partial_rotary_factor": 0.5,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5},
    }
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
    assert readable_by_older(plain) == plain | {"rope_theta": 5.0}


def test_nothing_is_changed_and_nothing_invented() -> None:
    older = {"num_experts": 8, "torch_dtype": "bfloat16", "rope_theta": 1e7, "rope_scaling": None}
    assert readable_by_older(older) == older
    layers = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1.0}}}
    assert readable_by_older(layers) == layers
    both = {"num_local_experts": 4, "num_experts": 5, "rope_theta": 2.0, "rope_parameters": {"rope_theta": 3.0}}
    assert readable_by_older(both) == both


def test_transformers_reads_the_same_configuration(models: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    source = tmp_path / "source"
    convert(models / "base", source)
    file = source / "config.json"
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 512}
    raw = json.loads((models / "base/config.json").read_text()) | {"rope_parameters": yarn}
    file.write_text(json.dumps(raw))
    before = AutoConfig.from_pretrained(source).to_dict()
    file.write_text(json.dumps(readable_by_older(raw)))
    after = AutoConfig.from_pretrained(source).to_dict()
    ours = set(readable_by_older(raw)) - set(raw)
    assert ours == {"num_experts", "torch_dtype", "rope_theta", "rope_scaling"}
    assert {key: value for key, value in after.items() if key not in ours} == before
