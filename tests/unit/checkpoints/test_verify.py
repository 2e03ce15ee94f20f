"""Verification: a whole checkpoint has no faults, each kind of damage has one that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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
        (_set("a", (1, 2), float("nan")), "a has 1 values of 12 that are NaN or infinite"),
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


def test_index_and_files_must_agree(tmp_path: Path) -> None:
    path = directory(tmp_path / "x", whole())
    index = path / "model.safetensors.index.json"
    names = dict.fromkeys(whole(), "model.safetensors")
    index.write_text(json.dumps({"weight_map": names | {"gone": "model-2.safetensors"}}))
    with pytest.raises(DataError, match="model-2.safetensors is missing"):
        verify(path)
    index.write_text(json.dumps({"weight_map": names | {"gone": "model.safetensors"}}))
    with pytest.raises(DataError, match="disagree about gone"):
        verify(path)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(DataError, match="not a plain file name"):
        verify(path)
    index.unlink()
    (path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="has no \\*.safetensors"):
        verify(path)


def test_files_are_planned_by_size(tmp_path: Path) -> None:
    with Weights(directory(tmp_path / "x", whole())) as weights:
        entries = [weights.entries[name] for name in "abc"]
    assert [[entry.name for entry in group] for group in plan_files(entries, 64).values()] == [["a", "b"], ["c"]]
    assert list(plan_files(entries, 10)) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert list(plan_files(entries)) == ["model.safetensors"]
