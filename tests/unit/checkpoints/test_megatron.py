"""Megatron checkpoints: found, handed to verl's merger, and what comes of it is checked as any other.

The merger itself needs megatron-core and a GPU; what stands in for it below is a program of the same command line.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from qwenlong.checkpoints import megatron
from qwenlong.checkpoints.convert import convert
from qwenlong.checkpoints.sources import HUGGING_FACE, MEGATRON, find
from qwenlong.core.errors import DataError, QwenlongError


@pytest.fixture
def checkpoint(models: Path, tmp_path: Path) -> Path:
    """The layout of verl: model/dist_ckpt beside model/huggingface with config and tokenizer."""
    actor = tmp_path / "global_step_3" / "actor"
    (actor / "model/dist_ckpt").mkdir(parents=True)
    shutil.copytree(models / "base", actor / "model/huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path


def test_found_by_its_layout(models: Path, checkpoint: Path) -> None:
    actor = checkpoint / "global_step_3/actor"
    found = find(checkpoint)
    assert (found.kind, found.folder, found.model) == (MEGATRON, actor, actor / "model/huggingface")
    # With mbridge the weights are there already.
    shutil.copy(models / "base/model.safetensors", actor / "model/huggingface")
    found = find(checkpoint)
    assert (found.kind, found.folder) == (HUGGING_FACE, actor / "model/huggingface")
    assert convert(checkpoint, checkpoint / "out", like=models / "base")["tensors"] == 39


def test_layout_before_0_9_is_refused(tmp_path: Path) -> None:
    (tmp_path / "actor/dist_ckpt").mkdir(parents=True)
    with pytest.raises(DataError, match="of a verl before 0.9.*migrate_megatron_checkpoint_layout"):
        find(tmp_path)


def test_what_is_not_installed_is_named(checkpoint: Path) -> None:
    import importlib.util

    # Here for real: the locked environment has no megatron-core. Where it has, a GPU decides.
    absent = megatron.missing()
    if importlib.util.find_spec("megatron") is None:
        assert absent == ["megatron.core"]
    if absent:
        with pytest.raises(QwenlongError, match=f"is a Megatron checkpoint.* needs {absent[0]}"):
            convert(checkpoint, checkpoint / "out")
        assert not (checkpoint / "out").exists() and not list(checkpoint.glob(".*partial"))


def test_command_line_is_that_of_verl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of verl takes it: its imports of the heavy parts are all that is left out."""
    import argparse
    import ast
    import importlib.util

    spec = importlib.util.find_spec("verl")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).with_name("model_merger") / "base_model_merger.py"
    functions = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)]
    parser = next(node for node in functions if node.name == "parse_args")
    space: dict = {"argparse": argparse}
    exec(compile(ast.Module([parser], []), str(source), "exec"), space)
    words = megatron.command(tmp_path / "a", tmp_path / "b", tied=True)
    assert words[1:3] == ["-m", "verl.model_merger"]
    monkeypatch.setattr(sys, "argv", words[2:])
    options = space["parse_args"]()
    assert (options.operation, options.backend, options.local_dir) == ("merge", "megatron", str(tmp_path / "a"))
    assert options.target_dir == str(tmp_path / "b") and options.tie_word_embedding and options.use_cpu_initialization
    assert "--tie-word-embedding" not in megatron.command(tmp_path, tmp_path, tied=False)


def stand_in(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in the place of verl's merger, and let it pass for installed."""
    (folder / "merger.py").write_text(body)
    monkeypatch.setattr(megatron, "_MODULE", "merger")
    monkeypatch.setattr(megatron, "missing", lambda: [])
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_the_merger_writes_is_checked_and_finished(
    models: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = models / "base/model.safetensors"
    copy = f"import shutil, sys\nshutil.copy({str(weights)!r}, sys.argv[sys.argv.index('--target_dir') + 1])"
    stand_in(checkpoint, copy, monkeypatch)
    report = convert(checkpoint, checkpoint / "out", like=models / "base")
    assert (report["format"], report["checked_against"]) == (MEGATRON, "reference")
    out = checkpoint / "out"
    assert (out / "model.safetensors").read_bytes() == weights.read_bytes()
    assert json.loads((out / "CONVERT.json").read_text()) == report and (out / "tokenizer.json").exists()
    # A merger that writes another model is found out.
    copy = copy.replace("/base/", "/tied/")
    stand_in(checkpoint, copy, monkeypatch)
    with pytest.raises(DataError, match="lacks lm_head.weight"):
        convert(checkpoint, checkpoint / "out2", like=models / "base")
    assert not (checkpoint / "out2").exists() and not list(checkpoint.glob(".*partial"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit('no such tensor')", "verl's merger gave 1 for .*: no such tensor; run it by hand"),
        ("", r"ended well for .* and wrote no \*.safetensors"),
    ],
)
def test_merger_that_fails(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str) -> None:
    stand_in(checkpoint, body, monkeypatch)
    with pytest.raises(QwenlongError, match=message):
        convert(checkpoint, checkpoint / "out")
    assert not (checkpoint / "out").exists() and not list(checkpoint.glob(".*partial"))
