"""The merge in the report: numbers of a real MERGE.json by layer and module, 48 layers of 128 experts, none."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qwenlong.audit import merge_figures, merges, tables
from qwenlong.audit.commands import app
from qwenlong.core import config_files, provenance, published
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import sha256_file, write_json

LAYERS, EXPERTS = 3, 4
ROWS = [{"name": "linear", "method": "linear", "weights": [1, 3]}, {"name": "ties", "method": "ties"}]


def config_of(results: Path) -> Config:
    """A configuration with two other merges."""
    run = {"name": "made-up", "results": str(results)}
    return Config.model_validate({"run": run, "tracking": {"enabled": False}, "ablations": {"merges": ROWS}})


def report(config: Path, out: Path) -> Path:
    """Write a report and return the page."""
    done = CliRunner().invoke(app, ["report", "--config", str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out / "report.html"


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of a small Qwen3-MoE by the names of files."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (20, 8), "lm_head.weight": (20, 8)}
    found["model.norm.weight"] = (8,)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm"):
            found[f"{prefix}{name}.weight"] = (8,)
        for name in "qkvo":
            found[f"{prefix}self_attn.{name}_proj.weight"] = (8, 8)
        found[f"{prefix}mlp.gate.weight"] = (EXPERTS, 8)
        for expert in range(EXPERTS):
            for name in ("gate", "up", "down"):
                found[f"{prefix}mlp.experts.{expert}.{name}_proj.weight"] = (6, 8)
    return found


def merge(root: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Merge two small models that differ from their base by layer, and return the report."""
    import torch
    from safetensors.torch import save_file

    from qwenlong.checkpoints.merge import merge_directories

    generator = torch.Generator().manual_seed(1)
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes().items()}
    models = {"base": base}
    for number, name in enumerate(("rl_3", "memory_rl"), 1):
        models[name] = {
            key: value + torch.randn(value.shape, generator=generator) * 1e-3 * number ** (merges.layer_of(key) or 0)
            for key, value in base.items()
        }
    for name, tensors in models.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, root / name / "model.safetensors", metadata={"format": "pt"})
        write_json(root / name / "config.json", {"dtype": "float32"})
    found = merge_directories(root / "base", [root / "rl_3", root / "memory_rl"], out, **settings)
    inputs = {"base": root / "base", "expert_1": root / "rl_3", "expert_2": root / "memory_rl"}
    provenance.sidecar(out, inputs=inputs, config={}, packages=("checkpoints",), seed=17)
    return found


def test_modules_and_layers_by_name() -> None:
    """Qwen3 dense and MoE, experts stacked or one by one, older names."""
    expected = {
        "model.embed_tokens.weight": ("embedding", None),
        "lm_head.weight": ("head", None),
        "model.norm.weight": ("norms", None),
        "model.layers.0.input_layernorm.weight": ("norms", 0),
        "model.layers.11.self_attn.q_norm.weight": ("norms", 11),
        "model.layers.11.self_attn.q_proj.weight": ("attention q", 11),
        "model.layers.11.self_attn.q_proj.bias": ("biases", 11),
        "model.layers.2.self_attn.o_proj.weight": ("attention o", 2),
        "model.layers.2.self_attn.qkv_proj.weight": ("attention qkv", 2),
        "model.layers.2.mlp.gate.weight": ("router", 2),
        "model.layers.2.mlp.gate_proj.weight": ("MLP gate", 2),
        "model.layers.47.mlp.experts.127.down_proj.weight": ("experts down", 47),
        "model.layers.47.mlp.experts.gate_up_proj": ("experts gate, up", 47),
        "model.layers.47.mlp.experts.down_proj": ("experts down", 47),
        "transformer.h.3.mlp.c_fc.weight": ("other", 3),
    }
    assert {name: (merges.module_of(name), merges.layer_of(name)) for name in expected} == expected
    assert {module for module, _ in expected.values()} <= set(merges.ORDER)


def test_groups_are_medians_ranges_and_means_of_the_file(results: Path, tmp_path: Path) -> None:
    """Each group against the tensors of MERGE.json, found again by their names."""
    written = merge(tmp_path / "models", results / "models" / "sce_merge", select_top=0.5)
    found = merges.read(results, "models/sce_merge")
    assert found is not None and found.experts == ("rl_3", "memory_rl")
    assert (found.method, found.settings) == ("sce", {"select_mode": "reference", "select_top": 0.5})
    assert found.total["coefficients"] == written["total"]["coefficients"]
    groups = {(group.module, group.layer): group for group in found.by_layer()}
    assert len(groups) == LAYERS * 9 and sum(group.elements for group in found.by_module()) == sum(
        math.prod(shape) for shape in shapes().values()
    )
    tensors = written["tensors"]
    one = tensors["model.layers.1.self_attn.k_proj.weight"]
    assert groups["attention k", 1].coefficients == tuple((c, c, c) for c in one["coefficients"])
    assert groups["attention k", 1].shares == {name: one[name] for name in merges.SHARES}
    stacked = [tensors[f"model.layers.2.mlp.experts.{n}.up_proj.weight"] for n in range(EXPERTS)]
    second = sorted(part["coefficients"][1] for part in stacked)
    assert groups["experts up", 2].coefficients[1] == (second[0], statistics.median(second), second[-1])
    assert groups["experts up", 2].shares["erased"] == pytest.approx(sum(part["erased"] for part in stacked) / EXPERTS)
    # In later layers the second expert moved further: it weighs more.
    assert groups["attention q", 0].coefficients[1][1] < groups["attention q", 2].coefficients[1][1]


def test_stacked_experts_and_kept_tensors(tmp_path: Path) -> None:
    """A stack counts a part per matrix; what is not floating is counted, not grouped."""
    part = {"elements": 6, "coefficients": [0.25, 0.75], "selected": 1.0, "erased": 0.5, "reverted": 0.0}
    other = part | {"coefficients": [0.75, 0.25], "erased": 0.25}
    total = part | {"tensors": 2, "matrices": 2, "parameters": 13}
    stack = {"elements": 12, "matrices": [part, other]}
    tensors = {"model.layers.0.mlp.experts.down_proj": stack, "steps": {"elements": 1, "kept": True}}
    value = {"method": "sce", "experts": 2, "tensors": tensors, "total": total, "files": {}}
    write_json(tmp_path / "models/sce_merge/MERGE.json", value)
    found = merges.read(tmp_path, "models/sce_merge")
    assert found is not None and found.kept == 1 and found.experts == ("expert 1", "expert 2")
    (group,) = found.by_module()
    assert (group.module, group.parts, group.elements) == ("experts down", 2, 12)
    assert group.coefficients == ((0.25, 0.5, 0.75), (0.25, 0.5, 0.75)) and group.shares["erased"] == 0.375
    # One layer, one module: drawn all the same.
    assert merge_figures.coefficients(found) and merge_figures.shares(found) is None


def test_the_page_shows_the_merge_and_where_its_numbers_stand(results: Path, tmp_path: Path) -> None:
    """Table, two figures, the file's digest; other merges with theirs, or with the command that makes them."""
    merge(tmp_path / "models", results / "models" / "sce_merge")
    merge(tmp_path / "models", results / "ablations" / "linear" / "model", method="linear", weights=[1, 3])
    (tmp_path / "c.yaml").write_text(config_files.dump(config_of(results)))
    file = report(tmp_path / "c.yaml", tmp_path / "audit")
    text = " ".join(file.read_text().split())
    section = text.partition('id="merge"')[2].partition("<h2")[0]
    assert section.count("data:image/svg+xml;base64,") == 2
    digest = sha256_file(results / "models/sce_merge/MERGE.json")
    assert digest[:12] in section and "select top 1.0" in section and ">memory rl<" in section
    found = merges.read(results, "models/sce_merge")
    assert found is not None
    for group in [*found.by_module(), *found.by_layer()]:
        assert f">{group.module}<" in section
        assert f"{group.coefficients[1][1]:.4f}" in section and f">{100 * group.shares['erased']:.2f}%<" in section
    assert "linear, weights 1.0 3.0, normalize yes, from base" in section and "0.2500 0.7500" in section
    assert f"{results}/ablations/ties/model" in section and "ties, density 0.2, scale 1.0, from base" in section
    values = json.loads((tmp_path / "audit" / "tables.json").read_text())
    assert values["merge"]["sha256"] == digest and list(values["merges"]) == ["linear"]
    assert len(values["merge"]["modules"]) == 11
    # The sidecar of the page names the files that these numbers are read from.
    inputs = provenance.read(file)["inputs"]
    assert {"models/sce_merge/MERGE.json", "ablations/linear/model/MERGE.json"} <= inputs.keys()
    again = report(tmp_path / "c.yaml", tmp_path / "again")
    assert again.read_bytes() == file.read_bytes()


def test_without_a_merge_the_page_names_the_command(results: Path, tmp_path: Path) -> None:
    """Blank and the command; a file that is something else is refused by name."""
    file = results / "models" / "sce_merge" / "MERGE.json"
    file.unlink()
    (tmp_path / "c.yaml").write_text(config_files.dump(config_of(results)))
    text = report(tmp_path / "c.yaml", tmp_path / "audit").read_text()
    section = text.partition('id="merge"')[2].partition("<h2")[0]
    assert "No merge yet" in section and " merge</code>" in section and "<img" not in section
    assert json.loads((tmp_path / "audit" / "tables.json").read_text())["merge"] is None
    for broken in ({"method": "sce"}, {"method": "sce", "experts": 2, "tensors": {"w": {"elements": 1}}}, [1]):
        write_json(file, broken)
        with pytest.raises(DataError, match=r"MERGE.json is no report of .*merge again"):
            merges.read(results, "models/sce_merge")
    part = {"elements": 1, "coefficients": [1.0], "selected": 1.0, "erased": 0.0, "reverted": 0.0}
    write_json(file, {"method": "sce", "experts": 2, "tensors": {"w": part}, "total": {}})
    with pytest.raises(DataError, match="w has 1 coefficients for 2 experts"):
        merges.read(results, "models/sce_merge")


def test_a_model_of_48_layers_and_128_experts_stays_a_page(tmp_path: Path) -> None:
    """Experts become a median and a range: size and content of the figures follow layers, not matrices."""
    tensors = {}
    for layer in range(48):
        for n in range(128):
            for name in ("gate", "up", "down"):
                share = (layer + n / 128) / 48
                tensors[f"model.layers.{layer}.mlp.experts.{n}.{name}_proj.weight"] = {
                    "elements": 768 * 2048,
                    "coefficients": [1 - share, share],
                    "selected": 1.0,
                    "erased": 0.2 * share,
                    "reverted": 0.0,
                }
    total = {"tensors": len(tensors), "matrices": len(tensors), "parameters": len(tensors) * 768 * 2048}
    total |= {"coefficients": [0.5, 0.5], "selected": 1.0, "erased": 0.1, "reverted": 0.0}
    value = {"method": "sce", "experts": 2, "tensors": tensors, "total": total, "files": {}}
    write_json(tmp_path / "models/sce_merge/MERGE.json", value)
    found = merges.read(tmp_path, "models/sce_merge")
    assert found is not None and len(found.parts) == 48 * 128 * 3 and len(found.by_layer()) == 48 * 3
    assert found.by_layer()[0].coefficients[1] == (0.0, pytest.approx(63.5 / 128 / 48), pytest.approx(127 / 128 / 48))
    for drawn in (merge_figures.coefficients(found), merge_figures.shares(found)):
        assert drawn is not None and drawn.startswith("<?xml") and len(drawn) < 300_000
    shutil.rmtree(tmp_path / "models")
    assert merges.read(tmp_path, "models/sce_merge") is None


def test_other_merges_stand_beside_the_recipes_own(results: Path) -> None:
    """Inputs, the recipe's merge with the paper's numbers, then the rows; full-context and through the agent."""
    folder = results / "ablations" / "linear" / "evaluation"
    shutil.copytree(results / "evaluation" / "rl_2", folder)
    config = config_of(results)
    (made,) = tables.ablations(tables.Evaluations(results, config, "configs/x.yaml"), config, published.load())
    assert made.name == "merges" and [row.name for row in made.rows] == [
        "rl_3", "memory_rl", "sce_merge", "linear", "ties",
    ]  # fmt: skip
    rows = {row.name: row for row in made.rows}
    assert rows["sce_merge"].paper == {"avg": 71.18, "memory_agent": 21.68} and not rows["linear"].paper
    assert rows["sce_merge"].note == "sce, select_top 1.0, select_mode reference, from base"
    assert rows["linear"].cells["avg"].value is not None and rows["linear"].cells["memory_agent"].n == 100
    command = rows["ties"].cells["memory_agent"].command
    assert command is not None and command.endswith("/ablations/ties/evaluation/heldout_long/scores.json")
    assert "| linear (linear, weights 1.0 3.0, normalize yes, from base) |" in tables.markdown(made)
