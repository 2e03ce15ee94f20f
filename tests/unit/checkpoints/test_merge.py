"""Merging directories: the same as merging each tensor, resumable, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlong.checkpoints import merge_work, sce_stream
from qwenlong.checkpoints.merge import REPORT, merge_directories
from qwenlong.checkpoints.sce import BLOCK, merge_tensor
from qwenlong.core.errors import DataError, QwenlongError, UsageError


def inputs(models: Path) -> tuple[Path, list[Path]]:
    return models / "base", [models / "expert1", models / "expert2"]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(directory.glob("*.safetensors")) for name, value in load_file(file).items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def directory(path: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({"dtype": "float32"} | config))
    return path


def test_merged_directory_is_the_merge_of_each_tensor_and_loads(models: Path, tmp_path: Path) -> None:
    base, experts = inputs(models)
    report = merge_directories(base, experts, tmp_path / "out", select_top=0.5)
    merged, sources = weights(tmp_path / "out"), [weights(path) for path in (base, *experts)]
    assert merged.keys() == sources[0].keys()
    for name, value in merged.items():
        expected, stats = merge_tensor(sources[0][name], [source[name] for source in sources[1:]], 0.5)
        assert torch.equal(value, expected), name
        assert report["tensors"][name] == stats
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report
    total = report["total"]
    assert sum(total["coefficients"]) == pytest.approx(1.0) and total["coefficients"][1] > 0.7
    assert (tmp_path / "out" / "chat_template.jinja").exists() and (tmp_path / "out" / "tokenizer.json").exists()

    from transformers import AutoModelForCausalLM

    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(loaded.lm_head.weight, merged["lm_head.weight"])


@pytest.mark.parametrize("options", [{}, {"select_top": 0.3, "select_mode": "mergekit"}, {"dtype": torch.bfloat16}])
def test_cores_and_pieces_change_no_byte(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    base, experts = inputs(models)
    merge_directories(base, experts, tmp_path / "one", cores=1, **options)
    merge_directories(base, experts, tmp_path / "three", cores=3, **options)
    # Every tensor is shared by the cores, in pieces of one block.
    monkeypatch.setattr(merge_work, "SHARED", 0)
    monkeypatch.setattr(sce_stream, "PIECE", BLOCK)
    merge_directories(base, experts, tmp_path / "pieces", cores=3, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "three") == contents(tmp_path / "pieces")


def test_double_precision_is_merged_as_a_whole(tmp_path: Path) -> None:
    torch.manual_seed(1)
    values = torch.randn(5, 7, dtype=torch.float64)
    base = directory(tmp_path / "base", {"w": values}, dtype="float64")
    changed = [values + 1e-12 * n * torch.randn(5, 7, dtype=torch.float64) for n in (1, 2)]
    experts = [directory(tmp_path / f"e{n}", {"w": value}) for n, value in enumerate(changed)]
    report = merge_directories(base, experts, tmp_path / "out", select_top=0.5)
    expected, stats = merge_tensor(values, changed, 0.5)
    assert torch.equal(weights(tmp_path / "out")["w"], expected) and report["tensors"]["w"] == stats


def test_too_little_space_is_told_before_the_work(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = inputs(models)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(QwenlongError, match=r"out needs .* GB, 0.0 GB are free there; free space"):
        merge_directories(base, experts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_killed_merge_goes_on_after_the_finished_files_with_the_same_bytes(models: Path, tmp_path: Path) -> None:
    base, experts = inputs(models)
    options = {"max_file_bytes": 20_000, "select_top": 0.9}
    merge_directories(base, experts, tmp_path / "whole", **options)  # type: ignore[arg-type]

    calls = []

    def stop(name: str) -> None:
        calls.append(name)
        if len(calls) == 25:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        merge_directories(base, experts, tmp_path / "out", state=state, on_tensor=stop, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    finished = sorted(path.name for path in state.rglob("*.safetensors"))
    assert finished and not list(state.rglob("*.partial"))
    times = {path.name: path.stat().st_mtime_ns for path in state.rglob("*.safetensors")}

    linked: dict[str, int] = {}

    def note(name: str) -> None:
        linked.update({path.name: path.stat().st_mtime_ns for path in state.rglob("*.safetensors")})

    merge_directories(base, experts, tmp_path / "out", state=state, on_tensor=note, **options)  # type: ignore[arg-type]
    assert {name: linked[name] for name in times} == times, "finished files were written again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(state.iterdir())


def test_state_of_another_merge_or_damaged_is_not_used(models: Path, tmp_path: Path) -> None:
    base, experts = inputs(models)

    def stop_after(count: int):
        names: list[str] = []

        def note(name: str) -> None:
            names.append(name)
            if len(names) == count:
                raise KeyboardInterrupt

        return note

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        merge_directories(base, experts, tmp_path / "x", state=state, on_tensor=stop_after(25), max_file_bytes=20_000)
    merge_directories(base, experts, tmp_path / "half", select_top=0.5, state=state, max_file_bytes=20_000)
    merge_directories(base, experts, tmp_path / "fresh", select_top=0.5, max_file_bytes=20_000)
    assert contents(tmp_path / "half") == contents(tmp_path / "fresh")

    with pytest.raises(KeyboardInterrupt):
        merge_directories(base, experts, tmp_path / "x", state=state, on_tensor=stop_after(25), max_file_bytes=20_000)
    file = sorted(state.rglob("*.safetensors"))[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    merge_directories(base, experts, tmp_path / "x", state=state, max_file_bytes=20_000)
    merge_directories(base, experts, tmp_path / "y", max_file_bytes=20_000)
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def test_stacked_experts_get_a_coefficient_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    base = torch.randn(3, 8, 4)
    one, two = base.clone(), base.clone()
    one[0] += 0.3
    two[0] += 0.1
    two[1] += 0.1
    paths = [
        directory(tmp_path / str(n), {name: value, "count": torch.tensor(3)})
        for n, value in enumerate((base, one, two))
    ]
    report = merge_directories(paths[0], paths[1:], tmp_path / "out")
    found = [part["coefficients"] for part in report["tensors"][name]["matrices"]]
    assert [pytest.approx(expected, abs=1e-5) for expected in ([0.9, 0.1], [0.0, 1.0], [0.5, 0.5])] == found
    merged = weights(tmp_path / "out")
    assert torch.equal(merged[name], torch.stack([merge_tensor(base[n], [one[n], two[n]])[0] for n in range(3)]))
    assert report["tensors"]["count"] == {"elements": 1, "kept": True} and merged["count"].item() == 3


def test_base_dtype_is_kept_unless_asked(tmp_path: Path) -> None:
    values = torch.randn(6, 5)
    base = directory(tmp_path / "base", {"w": values.bfloat16()}, dtype="bfloat16")
    experts = [directory(tmp_path / f"e{n}", {"w": values + n * 1e-3}) for n in (1, 2)]
    merge_directories(base, experts, tmp_path / "kept")
    assert weights(tmp_path / "kept")["w"].dtype == torch.bfloat16
    merge_directories(base, experts, tmp_path / "wide", dtype=torch.float32)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    expected, _ = merge_tensor(values.bfloat16().float(), [values + 1e-3, values + 2e-3])
    assert torch.equal(weights(tmp_path / "wide")["w"], expected)


def refused(base: Path, experts: list[Path], tmp_path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        merge_directories(base, experts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_shapes_values_and_kinds_are_checked(tmp_path: Path) -> None:
    whole = {"model.embed_tokens.weight": torch.ones(4, 2), "w": torch.ones(3)}
    base = directory(tmp_path / "base", whole)
    good = directory(tmp_path / "good", whole)
    for number, (change, message) in enumerate(
        [
            (
                {"model.embed_tokens.weight": torch.ones(5, 2)},
                r"vocabulary mismatch: model.embed_tokens.weight has shape \[5, 2\]",
            ),
            ({"w": torch.ones(4)}, r"w has shape \[4\] in expert 2"),
            ({"extra": torch.ones(1)}, "has extra, which base"),
            ({"w": torch.tensor([1.0, float("nan"), 1.0])}, "w: expert 2 has NaN"),
            ({"w": torch.ones(3, dtype=torch.int64)}, "w has dtype torch.int64"),
        ]
    ):
        refused(base, [good, directory(tmp_path / f"bad{number}", whole | change)], tmp_path, message)
    fewer = directory(tmp_path / "fewer", {"w": torch.ones(3)})
    refused(base, [good, fewer], tmp_path, "lacks model.embed_tokens.weight")
    (fewer / "model.safetensors").write_bytes(b"no tensors")
    refused(base, [good, fewer], tmp_path, "cannot be read")


def test_other_words_under_the_same_sizes_are_refused(models: Path, tmp_path: Path) -> None:
    base, experts = inputs(models)
    shutil.copytree(experts[1], tmp_path / "other")
    tokenizer = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"a": 1, "b": 0}
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(base, [experts[0], tmp_path / "other"], tmp_path, "vocabulary mismatch .* token 'a' is 0 in one and 1")


def test_settings_are_checked(models: Path, tmp_path: Path) -> None:
    base, experts = inputs(models)
    with pytest.raises(UsageError, match="at least two"):
        merge_directories(base, experts[:1], tmp_path / "out")
    with pytest.raises(UsageError, match="--select-top 0"):
        merge_directories(base, experts, tmp_path / "out", select_top=0)
    with pytest.raises(UsageError, match="--select-mode ties"):
        merge_directories(base, experts, tmp_path / "out", select_mode="ties")
    with pytest.raises(UsageError, match="one of the inputs"):
        merge_directories(base, experts, base)
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UsageError, match=f"--device {device} cannot be used here"):
            merge_directories(base, experts, tmp_path / "out", device=device)
