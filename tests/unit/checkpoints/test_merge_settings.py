"""Settings of the merge methods, by function, name and configuration, and directories merged by each method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from qwenlong.checkpoints import methods
from qwenlong.checkpoints.merge import merge_directories
from qwenlong.checkpoints.methods import dare_ties
from qwenlong.core.config import MERGE_SETTINGS, Config, MergeConfig
from qwenlong.core.errors import UsageError


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("linear", {"weights": [1.0]}, "1 weights for 2 experts"),
        ("linear", {"weights": [1.0, math.nan]}, "finite"),
        ("linear", {"weights": [1.0, -1.0]}, "their sum is 0.0"),
        ("linear", {"weights": [0.0, 0.0], "normalize": False}, "all are 0"),
        ("linear", {"weights": "11"}, "finite numbers"),
        ("linear", {"normalize": 1}, "true or false"),
        ("task_arithmetic", {"weights": [1.0, 2.0, 3.0]}, "3 weights for 2 experts"),
        ("task_arithmetic", {"weights": [1.0, math.inf]}, "finite"),
        ("ties", {"density": 0.0}, r"share in \(0, 1\]"),
        ("ties", {"density": 1.01}, r"share in \(0, 1\]"),
        ("ties", {"density": math.nan}, r"share in \(0, 1\]"),
        ("ties", {"scale": 0}, "above 0"),
        ("ties", {"scale": math.inf}, "above 0"),
        ("dare_ties", {"density": -0.5}, r"share in \(0, 1\]"),
        ("dare_ties", {"seed": 1.5}, "integer"),
    ],
)
def test_settings_are_checked_by_function_and_by_name(method: str, values: dict[str, Any], message: str) -> None:
    name = next(iter(values))
    chosen = methods.METHODS[method]
    named = {"name": "w"} if chosen.is_named else {}
    with pytest.raises(ValueError, match=f"{name} = .*{message}"):
        chosen.merge(torch.zeros(2), [torch.zeros(2)] * 2, **named, **values)
    with pytest.raises(UsageError, match=f"{methods.option(name)} .*{message}"):
        methods.resolve(method, values, 2)


def test_the_table_of_methods_is_that_of_the_configuration() -> None:
    assert methods.METHODS.keys() == MERGE_SETTINGS.keys()
    for name, method in methods.METHODS.items():
        assert set(method.settings) - {"seed"} == set(MERGE_SETTINGS[name])
        section = MergeConfig(method=name)
        # What a section leaves to the method is what the method does by itself.
        assert methods.resolve(name, section.settings(), 2) == methods.resolve(name, {}, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "linear", "density": 0.5}, "density is not read by method linear, which reads weights, normalize"),
        ({"density": 0.5}, "density is not read by method sce"),
        ({"method": "ties", "select_top": 0.5}, "select_top is not read by method ties"),
        ({"method": "linear", "weights": [1, 2, 3]}, "3 weights for 2 experts"),
        ({"method": "linear", "weights": [1, -2]}, "their sum is -1.0"),
        ({"method": "ties", "density": 0}, "greater than 0"),
        ({"method": "ties", "scale": math.inf}, "finite number above 0"),
        ({"method": "slerp"}, "'sce', 'linear', 'task_arithmetic', 'ties' or 'dare_ties'"),
    ],
)
def test_the_section_is_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MergeConfig(**values)


def test_merges_have_names_of_their_own() -> None:
    rows = [{"name": "grpo", "tables": ["table2"]}]
    for names in (["sce_merge"], ["grpo"], ["a", "a"]):
        merges = [{"name": name} for name in names]
        with pytest.raises(ValidationError, match=f"'{names[-1]}' is the name of a model or another row"):
            Config.model_validate({"ablations": {"rows": rows, "merges": merges}})
    config = Config.model_validate({"ablations": {"merges": [{"name": "a", "method": "linear", "weights": [1, 3]}]}})
    assert config.merge_row("a").settings() == {"weights": (1.0, 3.0), "normalize": True}


def test_settings_are_filled_in_and_foreign_ones_refused() -> None:
    assert methods.resolve("sce", {}, 2) == {"select_top": 1.0, "select_mode": "reference"}
    assert methods.resolve("linear", {"weights": (1, 2)}, 2) == {"weights": [1.0, 2.0], "normalize": True}
    assert methods.resolve("dare_ties", {"density": 0.5}, 3) == {"density": 0.5, "scale": 1.0, "seed": 0}
    with pytest.raises(UsageError, match="--density is not read by --method linear, which reads --weight, --normalize"):
        methods.resolve("linear", {"density": 0.5}, 2)
    with pytest.raises(UsageError, match="--method slerp: choose one of sce, linear, task_arithmetic, ties, dare_ties"):
        methods.resolve("slerp", {}, 2)


def directories(tmp_path: Path, models: list[dict[str, torch.Tensor]]) -> list[Path]:
    """Write checkpoint directories of given tensors."""
    paths = []
    for number, tensors in enumerate(models):
        paths.append(tmp_path / f"model{number}")
        paths[-1].mkdir()
        save_file(tensors, paths[-1] / "model.safetensors", metadata={"format": "pt"})
        (paths[-1] / "config.json").write_text('{"dtype": "float32"}')
    return paths


@pytest.mark.parametrize("method", methods.METHODS)
def test_directories_by_any_number_of_cores_are_the_same_bytes(tmp_path: Path, method: str) -> None:
    torch.manual_seed(7)
    base = {f"model.layers.{n}.w": torch.randn(30, 20) for n in range(12)} | {"steps": torch.tensor(3)}
    moved = [
        {name: value + torch.randn(value.shape) * 1e-3 if value.dim() else value for name, value in base.items()}
        for _ in range(3)
    ]
    paths = directories(tmp_path, [base, *moved])
    found = []
    for cores in (1, 3):
        out = tmp_path / f"out{cores}"
        report = merge_directories(paths[0], paths[1:], out, method=method, cores=cores, max_file_bytes=6000)
        assert report["tensors"]["steps"] == {"elements": 1, "kept": True} and report["total"]["matrices"] == 12
        found.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert found[0] == found[1] and len(found[0]) > 4


def test_each_matrix_of_a_stack_has_a_mask_of_its_own(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    base, one = torch.zeros(3, 20, 10), torch.ones(3, 20, 10)
    paths = directories(tmp_path, [{name: base}, {name: one}, {name: one}])
    options: dict[str, Any] = {"density": 0.5, "seed": 4}
    merge_directories(paths[0], paths[1:], tmp_path / "out", method="dare_ties", **options)
    merged = load_file(tmp_path / "out" / "model.safetensors")[name]
    for n in range(3):
        expected, _ = dare_ties.merge_tensor(base[n], [one[n], one[n]], name=f"{name}[{n}]", **options)
        assert torch.equal(merged[n], expected)
    assert not torch.equal(merged[0], merged[1])


def test_finished_files_of_other_settings_are_not_taken_up(tmp_path: Path) -> None:
    torch.manual_seed(8)
    base = {f"w{n}": torch.randn(40, 40) for n in range(4)}
    moved = [{name: value + torch.randn(40, 40) for name, value in base.items()} for _ in range(2)]
    paths = directories(tmp_path, [base, *moved])
    options: dict[str, Any] = {"method": "ties", "max_file_bytes": 8000, "cores": 1}
    seen: list[str] = []

    def stop(name: str) -> None:
        seen.append(name)
        if len(seen) == 3:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        merge_directories(paths[0], paths[1:], tmp_path / "out", density=0.2, state=state, on_tensor=stop, **options)
    assert list(state.rglob("*.safetensors"))
    merge_directories(paths[0], paths[1:], tmp_path / "out", density=0.6, state=state, **options)
    merge_directories(paths[0], paths[1:], tmp_path / "whole", density=0.6, **options)
    for file in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
