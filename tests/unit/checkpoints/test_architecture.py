"""What config.json says that a checkpoint holds: by the model itself, by counts, and what a loader does not miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from qwenlong.checkpoints.architecture import count_faults, expected, is_tied, name_faults
from qwenlong.checkpoints.weights import Entry


def config_of(models: Path, name: str) -> dict[str, Any]:
    return json.loads((models / name / "config.json").read_text())


def entries(*names: str) -> dict[str, Entry]:
    return {name: Entry(name, (2, 2), torch.float32) for name in names}


def test_model_of_the_config_has_the_tensors_of_the_saved_one(models: Path) -> None:
    for name in ("base", "tied"):
        built = expected(config_of(models, name))
        assert built is not None
        saved = load_file(models / name / "model.safetensors")
        plain = {key for key in saved if ".experts." not in key}
        assert {key for key in built if ".experts." not in key} == plain
        assert all(built[key].shape == tuple(saved[key].shape) for key in plain)
        assert built["model.layers.0.mlp.experts.gate_up_proj"].shape == (3, 32, 32)


def test_nothing_is_built_of_what_is_not_known_or_endless(models: Path) -> None:
    config = config_of(models, "base")
    for change in (
        {"architectures": ["OwnForCausalLM"]},
        {"architectures": ["AutoModel"]},
        {"architectures": "Qwen3MoeForCausalLM"},
        {"model_type": "own"},
        {"model_type": 5},
        {"hidden_size": "wide"},
        {"num_hidden_layers": 10**9},
    ):
        assert expected(config | change) is None, change
    assert count_faults(config | {"num_hidden_layers": 10**4}, entries("model.layers.0.x")) == [
        "config.json says 10000 layers, the tensors are of 1; layer 1 is the first"
    ]
    # Code that a config names is not fetched, and not run.
    assert expected(config | {"auto_map": {"AutoModelForCausalLM": "elsewhere/code--model.Model"}}) is not None


def test_ties_by_the_file_or_by_the_family() -> None:
    assert is_tied({"tie_word_embeddings": True}) and not is_tied({"tie_word_embeddings": False})
    assert not is_tied({"model_type": "qwen3_moe"}) and is_tied({"model_type": "gemma2"})
    assert not is_tied({})


def test_what_a_loader_does_not_miss() -> None:
    heads = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "num_hidden_layers": 61}
    whole = entries(*(f"model.layers.{n}.x" for n in range(61)))
    more = whole | entries("model.layers.61.shared_head.head.weight")
    for wanted, found in ((whole, more), (more, whole)):
        assert name_faults(heads, wanted, found, "it", "like") == []
    assert count_faults(heads, more) == count_faults(heads, whole) == []
    assert name_faults({}, whole, more, "it", "like") == [
        "it has model.layers.61.shared_head.head.weight, which like has not"
    ]
    tied = {"model_type": "qwen3_moe", "tie_word_embeddings": True}
    head = entries("lm_head.weight")
    assert name_faults(tied, whole | head, whole, "it", "like") == []
    assert name_faults(tied | {"tie_word_embeddings": False}, whole | head, whole, "it", "like") == [
        "it lacks lm_head.weight, which like has"
    ]
