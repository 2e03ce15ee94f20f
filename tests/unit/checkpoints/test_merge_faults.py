"""Damaged inputs, other architectures and impossible outputs of `qwenlong checkpoint merge`, as a user meets them.

Every refusal is one error line with exit code 1 or 2, and leaves nothing at --out.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_cases import CONFIG, contents, make_inputs, nothing_at, one_error, words, write
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def merge(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: its exit code and what it prints."""
    from qwenlong.cli import main

    def run(*more: object, expert2: Path | None = None, out: Path | None = None) -> tuple[int, str]:
        # The log's handler keeps the stderr of the test before.
        root = logging.getLogger()
        root.handlers = [handler for handler in root.handlers if not hasattr(handler, "_qwenlong")]
        with pytest.raises(SystemExit) as ended:
            main(words(inputs, out or tmp_path / "out", *more, expert2=expert2))
        captured = capsys.readouterr()
        code = ended.value.code
        return int(code or 0), captured.out + captured.err  # type: ignore[arg-type]

    return run


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
LOST = "model.layers.0.mlp.experts.2.up_proj.weight"


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], config: dict[str, Any] = CONFIG) -> None:
    tensors = {name: value for file in (FIRST, SECOND) for name, value in load_file(folder / file).items()}
    edit(tensors)
    write(folder, tensors, config)


def cut(folder: Path, size: int) -> None:
    os.truncate(folder / SECOND, size if size >= 0 else (folder / SECOND).stat().st_size + size)


def index(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / INDEX).read_text())
    edit(content)
    (folder / INDEX).write_text(json.dumps(content))


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors[LOST][0, 0] = float("nan")


def rename_layers(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".mlp.experts." in name]:
        tensors[name.replace(".mlp.experts.", ".block_sparse_moe.experts.")] = tensors.pop(name)


def other_config(**values: object) -> Callable[[Path], None]:
    return lambda folder: change(folder, lambda tensors: None, CONFIG | values)


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "cut by a byte": (lambda f: cut(f, -1), (SECOND, "cannot be read")),
    "cut in half": (lambda f: cut(f, (f / SECOND).stat().st_size // 2), (SECOND, "cannot be read")),
    "cut inside the header": (lambda f: cut(f, 20), (SECOND, "cannot be read")),
    "empty file": (lambda f: cut(f, 0), (SECOND, "cannot be read")),
    "longer than its header says": (lambda f: (f / SECOND).open("ab").write(b"x"), (SECOND, "cannot be read")),
    "header of 2^60 bytes": (lambda f: (f / SECOND).write_bytes((1 << 60).to_bytes(8, "little") + b"{}"), (SECOND,)),
    "file gone": (lambda f: (f / SECOND).unlink(), (SECOND, "is missing")),
    "expert tensor lost": (lambda f: change(f, lambda t: t.pop(LOST)), (LOST, "lacks")),
    "expert too many": (lambda f: change(f, lambda t: t.update({LOST.replace(".2.", ".4."): t[LOST] + 0})), (".4.up",)),
    "other names": (lambda f: change(f, rename_layers), ("lacks", "model.layers.0.mlp.experts.0.down_proj.weight")),
    "other shape": (lambda f: change(f, lambda t: t.update({LOST: torch.zeros(8, 32)})), (LOST, "[8, 32]", "[16, 32]")),
    "other vocabulary": (lambda f: change(f, lambda t: t.update({"lm_head.weight": torch.zeros(41, 32)})),
                         ("vocabulary mismatch", "lm_head.weight")),
    "other model type": (other_config(model_type="qwen2_moe"), ("model_type", "qwen2_moe", "qwen3_moe")),
    "other heads": (other_config(num_attention_heads=1, head_dim=32), ("num_attention_heads",)),
    "NaN": (lambda f: change(f, poison), (LOST, "NaN")),
    "index is no JSON": (lambda f: (f / INDEX).write_text('{"weight_map": {'), (INDEX, "not JSON")),
    "index is no UTF-8": (lambda f: (f / INDEX).write_bytes(b'{"weight_map": "\xff"}'), (INDEX, "UTF-8")),
    "index is a list": (lambda f: (f / INDEX).write_text("[]"), (INDEX, "weight_map")),
    "index is empty": (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), (INDEX, "weight_map")),
    "index names a missing file": (
        lambda f: index(f, lambda c: c["weight_map"].update({LOST: "model-00003-of-00003.safetensors"})),
        ("model-00003-of-00003.safetensors", "is missing")),
    "index maps to the wrong file": (
        lambda f: index(f, lambda c: c["weight_map"].update({"lm_head.weight": SECOND})), ("lm_head.weight",)),
    "index lacks a tensor": (lambda f: index(f, lambda c: c["weight_map"].pop(LOST)), (LOST, "disagree")),
    "index leads out of the folder": (
        lambda f: index(f, lambda c: c["weight_map"].update({LOST: f"../base/{FIRST}"})), (LOST, "plain file name")),
    "index leads to the root": (
        lambda f: index(f, lambda c: c["weight_map"].update({LOST: "/etc/passwd"})), (LOST, "plain file name")),
    "index maps to a number": (lambda f: index(f, lambda c: c["weight_map"].update({LOST: 7})), (LOST, "7")),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ("config.json", "not JSON")),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ("config.json",)),
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json",)),
    "tokenizer is no JSON": (lambda f: (f / "tokenizer.json").write_text("{"), ("tokenizer.json", "not JSON")),
    "tokenizer is a list": (lambda f: (f / "tokenizer.json").write_text("[]"), ("tokenizer.json",)),
    "tokenizer without words": (lambda f: (f / "tokenizer.json").write_text('{"model": 3}'), ("tokenizer.json",)),
    "no weights": (lambda f: [path.unlink() for path in f.glob("model*")], ("no *.safetensors file",)),
    "folder is empty": (lambda f: [path.unlink() for path in f.iterdir()], ("config.json",)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_expert(inputs: Path, tmp_path: Path, merge: Callable[..., tuple[int, str]], fault: str) -> None:
    damage, parts = FAULTS[fault]
    expert = tmp_path / "damaged"
    shutil.copytree(inputs / "expert2", expert)
    damage(expert)
    code, text = merge("--state", tmp_path / "state", expert2=expert)
    assert code == 1, text
    one_error(text, *parts)
    nothing_at(tmp_path / "out")


def test_out_is_a_file(tmp_path: Path, merge: Callable[..., tuple[int, str]]) -> None:
    (tmp_path / "out").write_text("mine")
    code, text = merge()
    assert code == 2, text
    one_error(text, "--out", str(tmp_path / "out"), "is a file")
    assert (tmp_path / "out").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_out_below_a_file(tmp_path: Path, merge: Callable[..., tuple[int, str]]) -> None:
    (tmp_path / "file").write_text("mine")
    code, text = merge(out=tmp_path / "file" / "out")
    assert code == 2, text
    one_error(text, "--out", f"{tmp_path / 'file'}, which is a file")


def test_out_where_nobody_may_write(merge: Callable[..., tuple[int, str]]) -> None:
    # Nobody can make a folder there, the superuser included, for whom permissions would not count.
    code, text = merge(out=Path("/sys/kernel/merged"))
    assert code == 1, text
    one_error(text, "cannot write /sys/kernel/merged", "choose another folder")


def test_state_is_a_file(tmp_path: Path, merge: Callable[..., tuple[int, str]]) -> None:
    (tmp_path / "state").write_text("mine")
    code, text = merge("--state", tmp_path / "state")
    assert code == 2, text
    one_error(text, "--state", str(tmp_path / "state"), "is a file")
    nothing_at(tmp_path / "out")
    assert (tmp_path / "state").read_text() == "mine"


@pytest.mark.parametrize("where", ["above the inputs", "inside an input", "an input"])
def test_out_never_replaces_an_input(
    inputs: Path, tmp_path: Path, merge: Callable[..., tuple[int, str]], where: str
) -> None:
    copy = tmp_path / "models" / "expert2"
    shutil.copytree(inputs / "expert2", copy)
    out = {"above the inputs": copy.parent, "inside an input": copy / "out", "an input": copy}[where]
    before = contents(copy)
    code, text = merge(expert2=copy, out=out)
    assert code == 2, text
    one_error(text, "--out", str(out))
    assert contents(copy) == before


def test_out_without_a_name(
    tmp_path: Path, merge: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (".", "..", "/"):
        code, text = merge(out=Path(out))
        assert code == 2, text
        one_error(text, f"--out {out}")
    assert not list(tmp_path.iterdir())


def test_state_in_the_working_directory_keeps_what_is_there(
    tmp_path: Path, merge: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "merge-notes").mkdir(parents=True)
    (here / "merge-notes" / "mine.txt").write_text("mine")
    monkeypatch.chdir(here)
    code, text = merge("--state", ".")
    assert code == 0, text
    assert (tmp_path / "out" / "MERGE.json").exists()
    assert (here / "merge-notes" / "mine.txt").read_text() == "mine"
