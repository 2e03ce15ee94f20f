"""Damaged files: each kind has one sentence that names the file and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwenlong.checkpoints.convert import REPORT, convert
from qwenlong.checkpoints.integrity import examine
from qwenlong.checkpoints.verify import verify
from qwenlong.checkpoints.weights import INDEX

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with an index, whole."""
    path = tmp_path / "x"
    path.mkdir()
    save_file({"a": torch.ones(4, 3), "b": torch.ones(5)}, path / FIRST)
    save_file({"c": torch.ones(2, 2)}, path / SECOND)
    index = {
        "metadata": {"total_size": 84, "total_parameters": 21},
        "weight_map": {"a": FIRST, "b": FIRST, "c": SECOND},
    }
    (path / INDEX).write_text(json.dumps(index))
    (path / "config.json").write_text("{}")
    return path


def test_whole_files(folder: Path) -> None:
    found = examine(folder)
    assert (found.broken, found.faults, found.n_digests) == ([], [], 0)
    assert verify(folder)["faults"] == []


def edit_index(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = json.loads((path / INDEX).read_text())
        for key, value in changes.items():
            content[key] |= value
        (path / INDEX).write_text(json.dumps(content))

    return change


def edit_header(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Replace bytes of the first file by as many others."""
    assert len(old) == len(new)

    def change(path: Path) -> None:
        data = (path / FIRST).read_bytes()
        assert data.count(old) == 1
        (path / FIRST).write_bytes(data.replace(old, new))

    return change


def rewrite(file: str, make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path / file).write_bytes(make((path / file).read_bytes())) and None


def with_header(header: object, data: bytes = b"") -> Callable[[Path], None]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return rewrite(FIRST, lambda _: len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: (p / SECOND).unlink(), f"{INDEX} names {SECOND} for 1 tensors, and it is missing"),
        (edit_index(weight_map={"gone": FIRST}), f"{FIRST} lacks gone, which the index puts there"),
        (edit_index(weight_map={"c": FIRST}), f"{FIRST} lacks c, which the index puts there"),
        (edit_index(weight_map={"a": "../a.safetensors"}), "puts a into '../a.safetensors', which is not a plain file"),
        (lambda p: (p / INDEX).write_text("{}"), f"{INDEX} has no weight_map"),
        (lambda p: (p / INDEX).write_text('{"weight_map": '), f"{INDEX} is not JSON"),
        (lambda p: (p / INDEX).write_bytes(b"\xff\xfe"), f"{INDEX} is not UTF-8 (byte 0)"),
        (lambda p: save_file({"c": torch.ones(2, 2), "d": torch.ones(1)}, p / SECOND),
         f"{SECOND} has d, which the index has not"),
        (lambda p: save_file({"c": torch.ones(2, 2), "a": torch.ones(1)}, p / SECOND),
         f"a is in {FIRST} and in {SECOND}"),
        (rewrite(FIRST, lambda data: data[:-10]), f"{FIRST} is cut short: it holds 58 bytes of tensors where"),
        (rewrite(FIRST, lambda data: data + b"more"), f"{FIRST} has 4 bytes after its last tensor"),
        (rewrite(FIRST, lambda data: data[:5]), f"{FIRST} has 5 bytes, too few"),
        (rewrite(FIRST, lambda data: (10**6).to_bytes(8, "little") + data[8:]),
         f"{FIRST} says that its header has 1,000,000 bytes, more than the file holds"),
        (rewrite(FIRST, lambda data: data[:8] + b"?" + data[9:]), f"{FIRST} has a header that is not JSON"),
        (with_header([]), f"{FIRST} has a header that is no JSON object"),
        (with_header({"a": 5}), f"{FIRST} has no dtype, shape and byte range for a"),
        (with_header({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}), "has no dtype, shape and"),
        (edit_header(b"[0,48]", b"[8,56]"), f"{FIRST} puts a at byte 8 of its data instead of 0"),
        (edit_header(b"[4,3]", b"[4,2]"), f"{FIRST} gives a 48 bytes, where [4, 2] in F32 takes 32"),
        (edit_header(b'F32","shape":[5]', b'F99","shape":[5]'), f"{FIRST} has b in dtype F99, which is not known here"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_read(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    damage(folder)
    found = examine(folder)
    assert len(found.broken) == 1 and sentence in found.broken[0], found
    assert found.faults == []
    assert verify(folder)["faults"] == found.broken


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (edit_index(metadata={"total_size": 21}), f"{INDEX} says total_size 21, the files hold 84"),
        (edit_index(metadata={"total_parameters": 84}), f"{INDEX} says total_parameters 84, the files hold 21"),
        (lambda p: save_file({"z": torch.ones(1)}, p / "old.safetensors"), f"{INDEX} does not name old.safetensors"),
    ],
)
def test_faults_beside_which_the_weights_can_be_read(folder: Path, damage: Callable, sentence: str) -> None:
    damage(folder)
    report = verify(folder)
    assert len(report["faults"]) == 1 and sentence in report["faults"][0] and report["parameters"] == 21


def test_several_files_without_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    (fault,) = verify(folder)["faults"]
    assert f"there is no {INDEX} beside {FIRST}, {SECOND}" in fault


def test_digests_of_the_report_beside_the_weights(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(models / "base", out, max_file_bytes=30_000)
    report = verify(out, models / "base")
    assert report["faults"] == [] and report["digests"] == 3
    # One bit of one weight, which no other check can see.
    file = out / "model-00002-of-00003.safetensors"
    data = bytearray(file.read_bytes())
    data[-4] ^= 1
    file.write_bytes(data)
    assert verify(out, models / "base")["faults"] == [
        f"{file.name} is not the file that CONVERT.json tells of: its SHA-256 differs"
    ]
    content = json.loads((out / REPORT).read_text())
    content["files"]["model.safetensors"] = content["files"].pop(file.name)
    (out / REPORT).write_text(json.dumps(content))
    assert verify(out)["faults"] == [
        f"CONVERT.json is of other files: {file.name} is there, and not in it",
        "CONVERT.json is of other files: model.safetensors is in it, and not there",
    ]
    (out / REPORT).write_text("[]")
    assert verify(out)["faults"] == ["CONVERT.json has no digests of files"]
