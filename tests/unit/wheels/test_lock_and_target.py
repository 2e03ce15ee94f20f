"""Reading locks, choosing pins, tags of a platform, and the division into parts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from wheels import lock, parts, target
from wheels.common import Trouble

GPU = target.Target.parse("3.12", "2.34")


def pins(*texts: str) -> list[lock.Pin]:
    return [lock.parse_pin(text, "test") for text in texts]


@pytest.mark.parametrize(
    "line", ["foo>=1", "foo", "foo==1 ; python_version>'3'", "-r other.txt", "foo==1 bar==2", "foo=="]
)
def test_only_exact_pins(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(f"fine==1.0\n{line}\n")
    with pytest.raises(Trouble, match="line 2") as error:
        lock.read_lock(path)
    assert error.value.code == 2


def test_lock_errors_name_the_thing(tmp_path: Path) -> None:
    path = tmp_path / "lock.txt"
    path.write_text("a-b==1.0\na_B==2.0\n")
    with pytest.raises(Trouble, match=r"a-b is pinned twice, to 1\.0 and to 2\.0"):
        lock.read_lock(path)
    path.write_text("# nothing\n")
    with pytest.raises(Trouble, match="pins nothing"):
        lock.read_lock(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Trouble, match="cannot read"):
        lock.read_lock(path)


def test_torch_stands_for_its_libraries(root: Path) -> None:
    gpu = lock.read_lock(root / "requirements" / "gpu.txt")
    names = {pin.name for pin in gpu}
    assert names.issuperset(lock.TORCH)
    chosen = lock.select(gpu, ["torch,wandb"])
    assert {pin.name for pin in chosen.without} == {*lock.TORCH, "wandb"}
    assert chosen.named == {"torch", "wandb"}
    assert {pin.name for pin in chosen.taken} == names - {*lock.TORCH, "wandb"}


def test_words_of_a_selection(tmp_path: Path) -> None:
    frozen = tmp_path / "freeze.txt"
    frozen.write_text(
        "numpy==2.3.5\ntorch==2.11.0+cu130\nTransformers==5.17.0\nelsewhere==1.0\n-e git+file:///y#egg=y\nmine @ file:///x\n"
    )
    have = pins("numpy==2.3.5", "torch==2.11.0", "transformers==5.9.0", "nvidia-nccl==1", "nvidia-ml==2", "mine==1")
    chosen = lock.select(have, [f"@{frozen}", "nvidia-*"])
    assert list(map(str, chosen.taken)) == ["transformers==5.9.0"]
    assert list(map(str, lock.select(have, only=["torch", "nvidia-m*"]).taken)) == ["torch==2.11.0", "nvidia-ml==2"]
    with pytest.raises(Trouble, match="--without: 'jax' matches no pin"):
        lock.select(have, ["jax"])
    with pytest.raises(Trouble, match="leave nothing"):
        lock.select(have, ["*"])
    frozen.write_text("$(reboot)\n")
    with pytest.raises(Trouble, match="neither a name"):
        lock.select(have, [f"@{frozen}"])


@pytest.mark.parametrize(
    ("file", "glibc"),
    [
        ("a-1-py3-none-any.whl", (0, 0)),
        ("a-1-py2.py3-none-any.whl", (0, 0)),
        ("a-1-1-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", (2, 17)),
        ("a-1-cp38-abi3-manylinux_2_28_x86_64.whl", (2, 28)),
        ("a-1-py3-none-manylinux1_x86_64.whl", (2, 5)),
        ("a-1-cp312-cp312-linux_x86_64.whl", (0, 0)),
        ("a-1-cp311-none-any.whl", (0, 0)),
        ("a-1-cp312-cp312t-manylinux_2_28_x86_64.whl", None),
        ("a-1-cp313-abi3-manylinux_2_28_x86_64.whl", None),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", None),
        ("a-1-cp312-cp312-manylinux_2_35_x86_64.whl", None),
        ("a-1-cp312-cp312-musllinux_1_2_x86_64.whl", None),
        ("a-1-cp312-cp312-manylinux_2_28_aarch64.whl", None),
        ("a-1-py2-none-any.whl", None),
        ("a-1-py313-none-any.whl", None),
    ],
)
def test_tags(file: str, glibc: Any) -> None:
    assert GPU.need(target.parse_name(file)) == glibc


def test_platforms_agree_with_the_tags_that_fit() -> None:
    tags = GPU.platforms()
    assert tags[0] == "manylinux_2_34_x86_64" and "manylinux_2_18_x86_64" in tags and "manylinux2014_x86_64" in tags
    assert all(target.glibc_of(tag) is not None for tag in tags)
    for bad in (("3.8", "2.34"), ("3", "2.34"), ("3.12", "2.12"), ("3.12", "x")):
        with pytest.raises(Trouble):
            target.Target.parse(*bad)


LEAST = parts.MEMBER + parts.LINE + parts.SLIVER


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=12), st.integers(LEAST, 2_000_000))
def test_layout_covers_every_byte_once_and_keeps_the_limit(sizes: list[int], room: int) -> None:
    given_sizes = {f"f{number}": size for number, size in enumerate(sizes)}
    found = parts.layout(given_sizes, room)
    ends = dict.fromkeys(given_sizes, 0)
    for part in found:
        assert part and sum(piece.size + parts.MEMBER + parts.LINE for piece in part) <= room
        for piece in part:
            assert piece.offset == ends[piece.file]
            ends[piece.file] += piece.size
    assert ends == given_sizes
    full = sum(size + (parts.MEMBER + parts.LINE) for size in sizes)
    per_part = room - LEAST
    assert per_part <= 0 or len(found) <= 1 + full // per_part + len(sizes)
