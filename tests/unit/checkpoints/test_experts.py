"""The two views of experts: there and back is the identity, and both are what transformers itself writes and holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlong.checkpoints.convert import convert
from qwenlong.checkpoints.experts import NAMINGS, naming_of, split, stack, view_of
from qwenlong.checkpoints.weights import Entry
from qwenlong.core.errors import DataError, UsageError

SHAPE = {
    "vocab_size": 67, "hidden_size": 32, "intermediate_size": 24, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts_per_tok": 2, "pad_token_id": 0,
}  # fmt: skip
MLA = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "head_dim": 8,
}  # fmt: skip
#: Families of real models: what their configuration needs beside SHAPE. Eleven experts: number 10 sorts before 2.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"num_experts": 11, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"num_experts": 11, "mlp_only_layers": [1]},
    "olmoe": {"num_experts": 11},
    "mixtral": {"num_local_experts": 11},
    "deepseek_v3": {"n_routed_experts": 11, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
                    "first_k_dense_replace": 1, "num_key_value_heads": 2} | MLA,
    "glm4_moe": {"n_routed_experts": 11, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "lfm2_moe": {"num_experts": 11, "num_dense_layers": 0, "layer_types": ["full_attention", "conv"]},
}  # fmt: skip


def model_of(kind: str, folder: Path) -> Any:
    """A tiny model of a family, saved by transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | FAMILIES[kind]))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_views_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = model_of(kind, tmp_path / "saved").eval()
    tied = model.config.tie_word_embeddings
    memory = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    report = convert(tmp_path / "saved", tmp_path / "stacked", view="stacked")
    assert (report["experts"], report["checked_against"]) == ("stacked", "architecture")
    stacked = load_file(tmp_path / "stacked/model.safetensors")
    assert stacked.keys() == memory.keys()
    assert all(torch.equal(stacked[name], memory[name]) for name in memory)

    # And back: byte for byte what transformers wrote, and the same stack again.
    report = convert(tmp_path / "stacked", tmp_path / "split")
    assert report["experts"] == "split"
    assert _bytes(tmp_path / "split") == _bytes(tmp_path / "saved")
    convert(tmp_path / "split", tmp_path / "again", view="stacked")
    assert _bytes(tmp_path / "again") == _bytes(tmp_path / "stacked")

    # transformers reads the stacked view as well.
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "stacked").eval()
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def _bytes(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_identity_over_several_files_in_bfloat16(models: Path, tmp_path: Path) -> None:
    from qwenlong.core.files import digest_path

    (tmp_path / "x").mkdir()
    convert(models / "expert1", tmp_path / "bf16", dtype=torch.bfloat16)
    digests = {}
    source = tmp_path / "bf16"
    for step, view in enumerate(("stacked", "split", "stacked", "split")):
        convert(source, tmp_path / f"{step}", view=view, max_file_bytes=20_000)
        source = tmp_path / f"{step}"
        assert len(list(source.glob("*.safetensors"))) > 1
        (source / "CONVERT.json").unlink()
        digests.setdefault(view, set()).add(digest_path(source))
    assert len(digests["stacked"]) == len(digests["split"]) == 1


def test_table_of_families_is_that_of_transformers() -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    for kind, naming in NAMINGS.items():
        stacks, renames = {}, []
        for rule in get_checkpoint_conversion_mapping(kind):
            if hasattr(rule, "operations"):
                stacks[rule.target_patterns[0].rpartition(".")[2]] = [
                    pattern.removesuffix(".weight").rpartition(".")[2] for pattern in rule.source_patterns
                ]
            else:
                renames.append((rule.source_patterns[0], rule.target_patterns[0]))
        assert stacks == {"gate_up_proj": [naming.gate, naming.up], "down_proj": [naming.down]}, kind
        assert renames == ([naming.moved] if naming.moved else []), kind


def entries(**shapes: tuple[int, ...]) -> dict[str, Entry]:
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {name: Entry(name, shape, torch.float32) for name, shape in names.items()}


QWEN = NAMINGS["qwen3_moe"]
TWO = {f"l__mlp__experts__{n}__{p}_proj__weight": (4, 6) for n in (0, 1) for p in ("gate", "up")} | {
    f"l__mlp__experts__{n}__down_proj__weight": (6, 4) for n in (0, 1)
}


def test_pure_names_there_and_back() -> None:
    found = entries(**TWO, l__norm__weight=(6,), scale=())
    stacked = {name: part.entry for name, part in stack(found, QWEN).items()}
    assert {name: entry.shape for name, entry in stacked.items()} == {
        "l.mlp.experts.gate_up_proj": (2, 8, 6),
        "l.mlp.experts.down_proj": (2, 6, 4),
        "l.norm.weight": (6,),
        "scale": (),
    }
    assert {name: part.entry for name, part in split(stacked, QWEN).items()} == found
    assert (view_of(found.values()), view_of(stacked.values())) == ("split", "stacked")
    assert view_of(entries(x=(2, 2)).values()) is None


def test_lost_and_odd_experts_are_named() -> None:
    lost = entries(**TWO)
    del lost["l.mlp.experts.0.up_proj.weight"]
    with pytest.raises(DataError, match=r"l.mlp.experts.0.up_proj.weight is missing, though l.mlp.experts has 2"):
        stack(lost, QWEN)
    with pytest.raises(DataError, match=r"l.mlp.experts.1.down_proj.weight \[7, 4\] .* cannot be stacked"):
        stack(entries(**TWO | {"l__mlp__experts__1__down_proj__weight": (7, 4)}), QWEN)
    with pytest.raises(DataError, match="has 7 rows per expert"):
        split(entries(l__mlp__experts__gate_up_proj=(2, 7, 6)), QWEN)
    with pytest.raises(DataError, match="is there twice, stacked and by expert"):
        split(entries(**TWO, l__mlp__experts__down_proj=(2, 6, 4)), QWEN)
    with pytest.raises(DataError, match="is there twice, stacked and by expert"):
        stack(entries(**TWO, l__mlp__experts__down_proj=(2, 6, 4)), QWEN)


def test_naming_by_type_and_by_what_is_there() -> None:
    assert naming_of("mixtral") == NAMINGS["mixtral"]
    assert naming_of("own", entries(**TWO)) == QWEN
    w123 = {f"l.block_sparse_moe.experts.0.w{n}.weight": Entry("", (2, 2), torch.float32) for n in (1, 2, 3)}
    assert naming_of("own", w123) == NAMINGS["mixtral"]
    assert naming_of(None, {name.replace("block_sparse_moe", "mlp"): e for name, e in w123.items()}).moved is None
    assert naming_of("own", entries(x=(2, 2))) is None and naming_of(["a"]) is None


def test_views_of_an_unknown_family(models: Path, tmp_path: Path) -> None:
    import json

    convert(models / "base", tmp_path / "x", view="stacked")
    config = json.loads((tmp_path / "x/config.json").read_text()) | {"model_type": "own", "architectures": ["Own"]}
    (tmp_path / "x/config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="'own' has stacked experts whose names split are not known here; give --like"):
        convert(tmp_path / "x", tmp_path / "out")
    with pytest.raises(UsageError, match="--experts split: how model_type 'own'"):
        convert(tmp_path / "x", tmp_path / "out", view="split")
    assert convert(tmp_path / "x", tmp_path / "out", view="stacked")["checked_against"] == "counts"
    # A directory that shows the names tells enough, in whatever view that is wanted.
    like = shutil.copytree(models / "base", tmp_path / "like")
    (like / "config.json").write_text(json.dumps(config))
    assert convert(tmp_path / "x", tmp_path / "out", like=like)["experts"] == "split"
    assert _bytes(tmp_path / "out") == _bytes(models / "base")


def test_expert_lost_on_the_way_to_a_stack(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models / "base", tmp_path / "x")
    tensors = load_file(models / "base/model.safetensors")
    del tensors["model.layers.0.mlp.experts.1.gate_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    for view, message in (("stacked", "it is lost"), ("split", "the model that config.json describes has")):
        with pytest.raises(DataError, match=rf"model.layers.0.mlp.experts.1.gate_proj.weight.*{message}"):
            convert(folder, tmp_path / "out", view=view)
    # The last expert of every layer: only the configuration knows that it was there.
    for name in [name for name in tensors if ".experts.2." in name]:
        del tensors[name]
    tensors["model.layers.0.mlp.experts.1.gate_proj.weight"] = torch.ones(16, 32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks model.layers.0.mlp.experts.2.down_proj.weight"):
        convert(folder, tmp_path / "out", view="stacked")
    assert not (tmp_path / "out").exists()
