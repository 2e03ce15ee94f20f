"""Verification: a whole checkpoint has no faults, each kind of damage has one that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlong.checkpoints.convert import convert
from qwenlong.checkpoints.verify import verify
from qwenlong.checkpoints.weights import Weights, plan_files
from qwenlong.core.errors import DataError


def directory(path: Path, tensors: dict[str, torch.Tensor], dtype: str = "float32") -> Path:
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"dtype": dtype}))
    return path


def whole() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(1.0, 13.0).reshape(4, 3), "b": torch.zeros(4), "c": torch.ones(2, 2)}


def test_whole_checkpoint_and_its_distance(tmp_path: Path) -> None:
    like = directory(tmp_path / "like", whole())
    changed = whole()
    changed["a"][0, 0] += 0.5
    report = verify(directory(tmp_path / "new", changed), like)
    assert report["faults"] == [] and report["parameters"] == 20 and report["dtypes"] == ["float32"]
    distance = report["distance"]
    norm = float(torch.cat([value.flatten() for value in whole().values()]).norm())
    assert distance["relative"] == pytest.approx(0.5 / norm, rel=1e-6)
    assert (distance["largest"], distance["unchanged_tensors"], distance["compared_tensors"]) == (0.5, 2, 3)
    assert distance["by_tensor"] == {"a": 0.5, "b": 0.0, "c": 0.0}


def _set(name: str, index: object, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][index] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set("a", (1, 2), float("nan")), "a has 1 values of 12 that are NaN or infinite, in 1 rows of 4"),
        (_set("a", (1, 2), float("inf")), "a has 1 values of 12 that are NaN or infinite"),
        (_set("a", 2, 0.0), "a has 1 rows of zeros where the reference has none"),
        (_set("c", slice(None), 0.0), "c is zero throughout"),
        (lambda tensors: tensors.pop("b"), "new lacks b, which like has"),
        (lambda tensors: tensors.update(d=torch.ones(1)), "new has d, which like has not"),
        (lambda tensors: tensors.update(b=torch.ones(5)), "b has shape [5] in new, [4] in like"),
        (lambda tensors: tensors.update(b=torch.ones(4).half()), "1 tensors are not float32, as config.json says"),
    ],
)
def test_each_damage_has_its_fault(tmp_path: Path, change: Callable, fault: str) -> None:
    tensors = whole()
    change(tensors)
    report = verify(directory(tmp_path / "new", tensors), directory(tmp_path / "like", whole()))
    assert len(report["faults"]) == 1 and fault in report["faults"][0]


def test_dtypes_against_config_and_option(tmp_path: Path) -> None:
    path = directory(tmp_path / "x", whole(), dtype="bfloat16")
    assert verify(path)["faults"] == ["config.json says bfloat16, the weights are float32"]
    assert verify(path, dtype=torch.float32)["faults"] == []
    assert "as the option asks for" in verify(path, dtype=torch.bfloat16)["faults"][0]


def test_directory_without_weights_or_config(tmp_path: Path) -> None:
    path = directory(tmp_path / "x", whole())
    (path / "model.safetensors").unlink()
    report = verify(path)
    assert report["faults"] == [f"{path} has no *.safetensors file"] and report["tensors"] == 0
    path = directory(tmp_path / "y", whole())
    (path / "config.json").unlink()
    with pytest.raises(DataError, match="config.json does not exist"):
        verify(path)


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a file; the old file, which they are mapped from, stays until the new one is written."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def causal(path: Path, tied: bool, **tensors: torch.Tensor) -> Path:
    """A directory of two tensors that says what ties them; no model type, so that nothing else is expected."""
    path.mkdir()
    save_file({name.replace("__", "."): value for name, value in tensors.items()}, path / "model.safetensors")
    config = {"dtype": "float32", "tie_word_embeddings": tied, "architectures": ["OwnForCausalLM"]}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_tied_weights(tmp_path: Path) -> None:
    embedding = torch.arange(1.0, 13.0).reshape(4, 3)
    other = embedding.clone()
    other[3, 2] += 1e-6 * 12
    both = {"model__embed_tokens__weight": embedding, "lm_head__weight": embedding.clone()}
    assert verify(causal(tmp_path / "a", True, **both))["faults"] == []
    assert verify(causal(tmp_path / "b", False, **both))["faults"] == []
    assert verify(causal(tmp_path / "c", True, model__embed_tokens__weight=embedding))["faults"] == []
    (fault,) = verify(causal(tmp_path / "d", True, **both | {"lm_head__weight": other}))["faults"]
    assert "lm_head.weight differs from model.embed_tokens.weight" in fault
    (fault,) = verify(causal(tmp_path / "e", False, model__embed_tokens__weight=embedding))["faults"]
    assert "lm_head.weight is missing, and config.json does not tie it" in fault


def test_counts_of_an_unknown_architecture(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.experts.{n}.up_proj.weight" for layer in (0, 2) for n in (0, 1, 3)]
    tensors = {name: torch.ones(2, 2) for name in names} | {"model.embed_tokens.weight": torch.ones(5, 2)}
    path = directory(tmp_path / "x", tensors)
    config = {"dtype": "float32", "num_hidden_layers": 3, "num_experts": 4, "vocab_size": 6}
    (path / "config.json").write_text(json.dumps(config))
    report = verify(path)
    assert report["checked_against"] == "counts"
    assert report["faults"] == [
        "config.json says 3 layers, the tensors are of 2; layer 1 is the first",
        "config.json says 4 experts, model.layers.0.mlp.experts has 3; number 2 is the first",
        "config.json says 4 experts, model.layers.2.mlp.experts has 3; number 2 is the first",
        "config.json says 6 words, model.embed_tokens.weight has shape [5, 2]",
    ]


def test_whole_model_against_its_own_config(models: Path, tmp_path: Path) -> None:
    report = verify(models / "base")
    assert (report["faults"], report["checked_against"], report["experts"]) == ([], "architecture", "split")
    path = shutil.copytree(models / "base", tmp_path / "x")
    rewrite(path / "model.safetensors", lambda tensors: tensors.pop("model.layers.1.mlp.experts.2.up_proj.weight"))
    (fault,) = verify(path)["faults"]
    assert "lacks model.layers.1.mlp.experts.2.up_proj.weight, which the model of its config.json has" in fault


@pytest.mark.parametrize("stacked_side", ["new", "like"])
def test_views_of_experts_do_not_matter(models: Path, tmp_path: Path, stacked_side: str) -> None:
    convert(models / "expert1", tmp_path / "stacked", view="stacked")
    pair = {"new": models / "expert1", "like": models / "base"}
    expected = verify(pair["new"], pair["like"])["distance"]
    convert(pair[stacked_side], tmp_path / "view", view="stacked")
    report = verify(**{"directory": pair["new"], "like": pair["like"]} | {
        {"new": "directory", "like": "like"}[stacked_side]: tmp_path / "view"
    })  # fmt: skip
    assert report["faults"] == [] and report["distance"] == expected and expected["largest"] > 0


def test_bad_values_are_found_expert_by_expert(models: Path, tmp_path: Path) -> None:
    convert(models / "base", tmp_path / "x", view="stacked")

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.experts.gate_up_proj"][1] = 0.0
        tensors["model.layers.1.mlp.experts.down_proj"][2, 3:5, 7] = float("nan")

    rewrite(tmp_path / "x/model.safetensors", damage)
    (tmp_path / "x/CONVERT.json").unlink()
    assert verify(tmp_path / "x", models / "base")["faults"] == [
        "model.layers.0.mlp.experts.1.gate_proj.weight is zero throughout",
        "model.layers.0.mlp.experts.1.up_proj.weight is zero throughout",
        "model.layers.1.mlp.experts.2.down_proj.weight has 2 values of 512 that are NaN or infinite, in 2 rows of 32",
    ]


def test_files_are_planned_by_size(tmp_path: Path) -> None:
    with Weights(directory(tmp_path / "x", whole())) as weights:
        entries = [weights.entries[name] for name in "abc"]
    assert [[entry.name for entry in group] for group in plan_files(entries, 64).values()] == [["a", "b"], ["c"]]
    assert list(plan_files(entries, 10)) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert list(plan_files(entries)) == ["model.safetensors"]
