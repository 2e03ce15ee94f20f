"""What the first parts of a pack bring when the others did not come: whole files, and no model that is none."""

from __future__ import annotations

import json
import shutil
import tarfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json, sha256_file, write_json, write_text
from qwenlong.replication import commands, cutting, packing, plan

CONFIG = "run: {name: small, results: results/small, seed: 17}\nbase: {kind: smollm2, window: 2048}\n"
RESULTS = Path("results/small/seed_17")
STAGES = ("rl_1", "rl_2", "rl_3")
PIECE = 5000


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a base model, three stages trained from it, and an ablation row."""
    home = tmp_path / "first"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr(packing, "PIECE", PIECE)
    write_text("c.yaml", CONFIG)
    write_text("plan.yaml", "runs: [{name: one, config: c.yaml, targets: [evaluate]}]")
    random = np.random.default_rng(0)
    values = random.normal(size=10_000).astype(np.float32)
    folders = {RESULTS / "models/base": None}
    folders |= {RESULTS / "models" / name: RESULTS / "stages" / name / "policy" for name in STAGES}
    folders |= {RESULTS / "ablations/aepo/model": RESULTS / "ablations/aepo/policy"}
    for model, policy in folders.items():
        model.mkdir(parents=True)
        save_file({"w": values}, model / "model.safetensors")
        write_json(model / "config.json", {"model": model.name})
        if policy is not None:
            write_json(policy / "stage.json", {"steps": 3})
        values = (values * (1 + 1e-3 * random.normal(size=values.size))).astype(np.float32)
    write_json(RESULTS / "evaluation/base/heldout/scores.json", {"value": 0.5})
    return home


def _packed(out: Path, weights: bool = True) -> tuple[int, list[dict[str, Any]]]:
    """Pack, and return the number of parts and what is in them, each with where it ends."""
    listed = packing.pack(plan.load("plan.yaml"), out, weights=weights, pieces=1000)
    assert listed["omitted"] == []
    with tarfile.open(out / f"part-1-of-{listed['parts']}.tar") as archive:
        stream = archive.extractfile("part.json")
        assert stream is not None
        blobs = json.load(stream)["blobs"]
    ends = accumulate(blob["size"] for blob in blobs)
    return listed["parts"], [blob | {"end": end} for blob, end in zip(blobs, ends, strict=True)]


def _carry(out: Path, to: Path, numbers: list[int]) -> Path:
    to.mkdir()
    for file in out.glob("part-*"):
        if int(file.name.split("-")[1]) in numbers:
            shutil.copy(file, to)
    return to


def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "second") -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)


def _files(home: Path) -> dict[Path, str]:
    found = {p.relative_to(home): sha256_file(p) for p in (home / "results").rglob("*") if p.is_file()}
    found.pop(packing.KNOWN, None)
    return found


def test_whole_files_come_and_models_without_weights_do_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, before = tmp_path / "out", _files(place)
    of, blobs = _packed(out)
    weights = [blob for blob in blobs if blob["kind"] == "weights"]
    # Base and one more are whole, the third is cut in two.
    parts = weights[1]["end"] // PIECE + 1
    assert parts * PIECE < weights[2]["end"] and parts + 2 <= of
    some = _carry(out, tmp_path / "some", [*range(1, parts + 1), parts + 2])
    _elsewhere(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=f"part {parts + 1} of {of} is missing.*--partial"):
        packing.unpack([some])
    assert not Path("results").exists()

    done = packing.unpack([some], partial=True)
    assert f"part {parts + 1} of {of} is missing; ignored: {parts + 2}" in caplog.text
    assert done["weights"] == [blob["name"] for blob in weights[:2]]
    gone = [blob["name"] for blob in weights[2:]]
    assert done["cut"] == gone and len(gone) == 3
    after = _files(tmp_path / "second")
    assert after.items() <= before.items() and len(after) == done["files"]
    for name in (blob["name"] for blob in weights):
        model = Path(name).parent
        policy = model.parent / "policy" if model.name == "model" else RESULTS / "stages" / model.name / "policy"
        assert model.exists() == (name not in gone)
        assert policy.exists() == (name not in gone and model.name != "base")
    assert not set(gone) & read_json(packing.KNOWN).keys()

    # The rest comes later.
    assert packing.unpack([out])["cut"] == [] and _files(tmp_path / "second") == before
    # Where nothing goes on all records are wanted.
    _elsewhere(tmp_path, monkeypatch, "home")
    assert packing.unpack([some], partial=True, remember=False)["cut"] == gone
    assert before.keys() - _files(tmp_path / "home").keys() == {Path(name) for name in gone}


def test_weights_that_are_here_are_not_missed(place: Path, tmp_path: Path) -> None:
    before = _files(place)
    _, blobs = _packed(tmp_path / "out")
    base, *others = [blob for blob in blobs if blob["kind"] == "weights"]
    parts = base["end"] // PIECE + 1
    assert parts * PIECE < others[0]["end"]
    some = _carry(tmp_path / "out", tmp_path / "some", list(range(1, parts + 1)))
    shutil.rmtree(RESULTS / "stages")
    (RESULTS / "models/rl_2/model.safetensors").write_bytes(b"others")
    assert packing.unpack([some], partial=True)["cut"] == [blob["name"] for blob in others]
    found = {name for name in STAGES if (RESULTS / "stages" / name / "policy/stage.json").is_file()}
    assert found == {"rl_1", "rl_3"}
    packing.unpack([tmp_path / "out"])
    assert _files(place) == before


def test_groups_of_records_are_cut_and_a_tokenizer_is_not_halved(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_GROUP", 1)
    monkeypatch.setattr(packing, "PIECE", 50)
    for name in ("merges.txt", "tokenizer.json", "vocab.json"):
        write_json(RESULTS / "tokenizer" / name, name)
    _, blobs = _packed(tmp_path / "out", weights=False)
    ends = [blob["end"] for blob in blobs if blob["name"] == "records-1"]
    assert len(ends) == 3
    some = _carry(tmp_path / "out", tmp_path / "some", list(range(1, ends[1] // 50 + 2)))
    _elsewhere(tmp_path, monkeypatch)
    done = packing.unpack([some], partial=True)
    assert done["cut"] == ["records-1"] and done["weights"] == []
    assert (RESULTS / "evaluation/base/heldout/scores.json").is_file() and not (RESULTS / "tokenizer").exists()
    packing.unpack([some], partial=True, remember=False)
    assert sorted(file.name for file in (RESULTS / "tokenizer").iterdir()) == ["merges.txt", "tokenizer.json"]


@pytest.mark.parametrize("fault", ["first", "too little", "damaged"])
def test_parts_of_no_use_are_an_error_still(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "too little":
        monkeypatch.setattr(packing, "PIECE", 100)
    _packed(tmp_path / "out", weights=fault != "too little")
    some = _carry(tmp_path / "out", tmp_path / "some", [2, 3] if fault == "first" else [1])
    if fault == "damaged":
        (file,) = some.iterdir()
        with tarfile.open(file) as archive:
            at = archive.getmember("piece").offset_data
        data = bytearray(file.read_bytes())
        data[at + 5] ^= 1
        file.write_bytes(data)
    _elsewhere(tmp_path, monkeypatch)
    words = {"first": "part 1 of .* is missing; copy it, too$", "too little": "part 2 of .* is missing; copy it, too$"}
    with pytest.raises(DataError, match=words.get(fault, "damaged")):
        packing.unpack([some], partial=True)
    assert not Path("results").exists()


def test_weights_are_of_no_use_without_what_they_were_packed_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text("models/base/model.safetensors", "base")
    digest = sha256_file("models/base/model.safetensors")
    stage = {"kind": "weights", "name": "models/rl_1/model.safetensors", "reference": "models/base/model.safetensors"}
    base = {"kind": "weights", "name": "models/base/model.safetensors", "reference": None, "digest": digest}
    blobs = [one | {"size": 10} for one in ({"kind": "records", "name": "records-0"}, stage, base)]
    assert cutting.cut(blobs, 30) == []
    assert cutting.names(cutting.cut(blobs, 20)) == [base["name"]] and cutting.unusable(blobs[2:]) == []
    write_text("models/base/model.safetensors", "another")
    assert cutting.names(cutting.cut(blobs, 20)) == [stage["name"], base["name"]]
    assert cutting.unusable(blobs[1:]) == ["models/base", "stages/base/policy", "models/rl_1", "stages/rl_1/policy"]


def test_the_command_says_what_was_cut_off(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, _ = _packed(tmp_path / "out")
    some = _carry(tmp_path / "out", tmp_path / "some", list(range(1, of)))
    _elsewhere(tmp_path, monkeypatch)
    result = CliRunner().invoke(commands.app, ["unpack", str(some), "--partial"])
    assert result.exit_code == 0 and "; cut off: " in result.output and "model.safetensors" in result.output
    result = CliRunner().invoke(commands.app, ["unpack", str(some), "--partial", "--json"])
    assert len(json.loads(result.stdout)["cut"]) == 1
    assert CliRunner().invoke(commands.app, ["unpack", str(some)]).exit_code != 0
