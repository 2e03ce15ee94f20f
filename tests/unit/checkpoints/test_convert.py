"""Conversion of real FSDP2 shards: the converted model is the trained one, and damage is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwenlong.checkpoints.convert import convert
from qwenlong.checkpoints.shards import Shards
from qwenlong.checkpoints.sources import find
from qwenlong.checkpoints.weights import Weights
from qwenlong.core.errors import DataError, UsageError

TOKENS = torch.arange(40).reshape(2, 20)


def logits(directory: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize(
    ("name", "original", "like"),
    [
        ("one", "base", True),
        ("two", "base", True),
        ("two", "base", False),
        ("replicated", "tied", True),
        ("replicated", "tied", False),
    ],
)
def test_converted_model_computes_the_same(
    models: Path, shards: Path, tmp_path: Path, name: str, original: str, like: bool
) -> None:
    out = tmp_path / "out"
    report = convert(shards / name, out, like=models / original if like else None)
    # From disk as it is, without transformers' own renaming: the names of the original, nothing twice.
    expected, found = load_file(models / original / "model.safetensors"), load_file(out / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert report["parameters"] == sum(value.numel() for value in expected.values())
    assert ("lm_head.weight" in found) == (original == "base")
    assert torch.equal(logits(out), logits(models / original))


def test_several_files_and_the_same_bytes_each_time(models: Path, shards: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        convert(shards / "two", tmp_path / name, like=models / "base", max_file_bytes=30_000)
    files = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert sum(file.endswith(".safetensors") for file in files) > 2
    assert {"model.safetensors.index.json", "tokenizer.json", "chat_template.jinja", "config.json"} <= set(files)
    for file in files:
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()
    assert max((tmp_path / "x" / f).stat().st_size for f in files if f.startswith("model-")) < 30_000 + 5_000
    assert torch.equal(logits(tmp_path / "x"), logits(models / "base"))


def test_bfloat16_on_request_and_said_in_the_config(models: Path, shards: Path, tmp_path: Path) -> None:
    convert(shards / "two", tmp_path / "out", like=models / "base", dtype=torch.bfloat16)
    expected, found = (
        load_file(models / "base" / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert all(torch.equal(expected[key].bfloat16(), found[key]) for key in expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_shard_of_fewer_rows_than_ranks(shards: Path) -> None:
    found = Shards(shards / "two" / "narrow")
    assert torch.equal(found.tensor("weight"), torch.arange(4.0)[None])


def test_last_whole_step_is_taken(shards: Path, tmp_path: Path) -> None:
    for step in (2, 10, 12):
        shutil.copytree(shards / "one" / "actor", tmp_path / f"global_step_{step}" / "actor")
    assert find(tmp_path).folder == tmp_path / "global_step_12" / "actor"
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10")
    assert find(tmp_path).folder == tmp_path / "global_step_10" / "actor"
    with pytest.raises(DataError, match="train first"):
        find(shards)


def broken(shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(shards / "two" / "actor", tmp_path / "actor")
    return tmp_path / "actor"


def refused(source: Path, tmp_path: Path, message: str, like: Path | None = None) -> None:
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / "out", like=like)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*partial"))


def test_missing_rank(shards: Path, tmp_path: Path) -> None:
    actor = broken(shards, tmp_path)
    (actor / "model_world_size_2_rank_1.pt").unlink()
    refused(actor, tmp_path, "lacks rank 1 of 2")


def test_truncated_shard(shards: Path, tmp_path: Path) -> None:
    actor = broken(shards, tmp_path)
    file = actor / "model_world_size_2_rank_1.pt"
    file.write_bytes(file.read_bytes()[:-5000])
    refused(actor, tmp_path, "rank_1.pt cannot be read")


def test_code_in_a_shard_is_not_run(shards: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    actor = broken(shards, tmp_path)
    torch.save({"weight": Bomb()}, actor / "model_world_size_2_rank_0.pt")
    refused(actor, tmp_path, "rank_0.pt cannot be read")
    (actor / "model_world_size_2_rank_0.pt").write_bytes(pickle.dumps({"weight": Bomb()}))
    refused(actor, tmp_path, "rank_0.pt cannot be read")
    assert not (tmp_path / "ran").exists()


def test_ranks_of_different_steps(shards: Path, tmp_path: Path) -> None:
    actor = broken(shards, tmp_path)
    shutil.copy(actor / "model_world_size_2_rank_0.pt", actor / "model_world_size_2_rank_1.pt")
    refused(actor, tmp_path, r"make up .*, not its shape")


def test_replicas_that_differ(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards / "replicated" / "actor", tmp_path / "actor")
    file = tmp_path / "actor" / "model_world_size_2_rank_1.pt"
    state = torch.load(file, weights_only=True)
    state["model.norm.weight"].to_local()[0] += 1
    torch.save(state, file)
    refused(tmp_path / "actor", tmp_path, "the copies of model.norm.weight .* differ")


def test_not_finite(shards: Path, tmp_path: Path) -> None:
    actor = broken(shards, tmp_path)
    file = actor / "model_world_size_2_rank_1.pt"
    state = torch.load(file, weights_only=True)
    state["model.layers.1.mlp.experts.down_proj"].to_local()[0, 0, 0] = float("nan")
    torch.save(state, file)
    refused(actor, tmp_path, r"layers.1.mlp.experts.2.down_proj.weight has NaN")


def test_unlike_the_reference(models: Path, shards: Path, tmp_path: Path) -> None:
    from fsdp_shards import tiny_model

    tiny_model(vocabulary=71).save_pretrained(tmp_path / "wide")
    refused(shards / "two", tmp_path, r"vocabulary mismatch: lm_head.weight has shape \[67, 32\]", tmp_path / "wide")
    refused(shards / "two", tmp_path, "lm_head.weight differs .* though the config ties them", models / "tied")
    refused(
        shards / "replicated", tmp_path, "the checkpoint has lm_head.weight, which", untied_config(models, tmp_path)
    )


def untied_config(models: Path, tmp_path: Path) -> Path:
    directory = shutil.copytree(models / "tied", tmp_path / "untied")
    config = json.loads((directory / "config.json").read_text()) | {"tie_word_embeddings": False}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_other_stacked_experts_need_a_reference(shards: Path, tmp_path: Path) -> None:
    actor = broken(shards, tmp_path)
    config = actor / "huggingface" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gpt_oss"}))
    refused(actor, tmp_path, "'gpt_oss' has stacked experts")


def test_output_is_not_an_input(models: Path, shards: Path) -> None:
    with pytest.raises(UsageError, match="is an input"):
        convert(shards / "one", models / "base", like=models / "base")
    with Weights(models / "base") as weights:
        assert len(weights.entries) == 39
