"""What a pack brings back: the same bytes in order of time, weights bit by bit, damage and hostile names refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qwenlong.core.errors import DataError
from qwenlong.core.files import sha256_file, write_json, write_text
from qwenlong.replication import packing, plan, tensors

CONFIG = """\
run: {name: small, results: results/small, seed: 17, data_seed: 17}
base: {kind: nano, path: models/shipped, window: 2048}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine: plan, configuration, and the shipped model, whose weights are bfloat16 values."""
    home = tmp_path / "first"
    _machine(home)
    monkeypatch.chdir(home)
    return home


def _machine(home: Path) -> None:
    home.mkdir()
    write_text(home / "c.yaml", CONFIG)
    write_text(home / "plan.yaml", "runs: [{name: one, config: c.yaml, seeds: [17, 18], targets: [evaluate]}]")
    random = np.random.default_rng(0)
    (home / "models" / "shipped").mkdir(parents=True)
    weights = {name: random.normal(size=(64, 32)).astype(np.float32) for name in ("a", "b")}
    # The upper half of float32 is bfloat16.
    bits = {name: (w.view(np.uint32) >> 16).astype(np.uint16) for name, w in weights.items()}
    header, data = {}, b""
    for name, value in bits.items():
        begin = len(data)
        data += value.tobytes()
        header[name] = {"dtype": "BF16", "shape": [64, 32], "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (home / "models/shipped/model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def _results(home: Path, seed: int) -> Path:
    folder = home / f"results/small/seed_{seed}"
    shipped = (home / "models/shipped/model.safetensors").read_bytes()
    length = int.from_bytes(shipped[:8], "little")
    random = np.random.default_rng(seed)
    base = {}
    for name, entry in json.loads(shipped[8 : 8 + length]).items():
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(shipped[8 + length + begin : 8 + length + end], np.uint16)
        base[name] = (raw.astype(np.uint32) << 16).view(np.float32).reshape(64, 32)
    trained = {name: (w * (1 + 1e-4 * random.normal(size=w.shape))).astype(np.float32) for name, w in base.items()}
    for model, tensors_ in (("base", base), ("rl_1", trained)):
        (folder / "models" / model).mkdir(parents=True)
        save_file(tensors_, folder / "models" / model / "model.safetensors")
        write_json(folder / "models" / model / "config.json", {"model": model})
    write_text(folder / "evaluation/base/heldout/predictions.jsonl", '{"id": "1"}\n' * 500)
    write_json(folder / "evaluation/base/heldout/scores.json", {"value": 0.5})
    write_text(folder / "stages/rl_1/policy/.snakemake_timestamp", "")
    write_json(folder / "stages/rl_1/policy/stage.json", {"steps": 3})
    write_text(folder / "stages/rl_2/policy/.snakemake_timestamp", "")
    write_text(folder / "stages/rl_2/policy/metrics.jsonl", "{}\n")
    write_text(folder / "logs/rl_1.log", "hello\n")
    return folder


def _second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "second"
    _machine(home)
    monkeypatch.chdir(home)
    return home


def test_weights_come_back_bit_by_bit_and_take_less(place: Path, tmp_path: Path) -> None:
    folder, shipped = _results(place, 17), Path("models/shipped/model.safetensors")
    for model, share in (("base", 0.15), ("rl_1", 0.75)):
        file = folder / "models" / model / "model.safetensors"
        blob = tensors.encode(file, shipped)
        assert len(blob) < share * file.stat().st_size + 400
        tensors.decode(blob, tmp_path / "out.safetensors", shipped)
        assert sha256_file(tmp_path / "out.safetensors") == sha256_file(file)
    with pytest.raises(DataError, match="unpack that one first"):
        tensors.decode(blob, tmp_path / "other.safetensors", folder / "models/base/model.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
    bare = tensors.encode(file)
    tensors.decode(bare, tmp_path / "bare.safetensors")
    assert load_file(tmp_path / "bare.safetensors").keys() == {"a", "b"}


def test_a_pack_goes_to_another_machine_and_only_what_is_new_comes_back(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _results(place, 17)
    before = {p.relative_to(place): sha256_file(p) for p in (place / "results").rglob("*") if p.is_file()}
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "out")
    assert listed["omitted"] == [] and listed["runs"] == {"one-17": False, "one-18": False}

    home = _second(tmp_path, monkeypatch)
    done = packing.unpack([tmp_path / "out"])
    after = {p.relative_to(home): sha256_file(p) for p in (home / "results").rglob("*") if p.is_file()}
    after.pop(packing.KNOWN)
    # A policy without its model is trained again here: nothing says that it is whole.
    assert before.keys() - after.keys() == {Path("results/small/seed_17/stages/rl_2/policy/.snakemake_timestamp")}
    assert all(before[name] == digest for name, digest in after.items())
    assert done["files"] == len(after) and len(done["weights"]) == 2
    newest = max((home / "models").rglob("*"), key=lambda p: p.stat().st_mtime).stat().st_mtime
    folder = home / "results/small/seed_17"
    assert (folder / "evaluation/base/heldout/scores.json").stat().st_mtime > newest - 1
    order = ("models/base/config.json", "evaluation/base/heldout/predictions.jsonl", "stages/rl_1/policy/stage.json")
    times = [(folder / name).stat().st_mtime for name in order]
    assert times == sorted(times)

    write_json(folder / "evaluation/rl_1/heldout/scores.json", {"value": 0.75})
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "back")
    assert list(listed["files"]) == ["results/small/seed_17/evaluation/rl_1/heldout/scores.json"]
    # Unpacked once more, nothing changes, and it is known still.
    packing.KNOWN.unlink()
    assert packing.unpack([tmp_path / "out"])["files"] == 2
    assert list(packing.pack(plan.load("plan.yaml"), tmp_path / "back")["files"]) == list(listed["files"])
    everything = packing.pack(plan.load("plan.yaml"), tmp_path / "all", everything=True)
    assert len(everything["files"]) == len(after) + 1


def test_of_complete_runs_only_the_mark_travels_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _results(place, 17)
    _results(place, 18)
    runs = plan.load("plan.yaml")
    runs[1].finish()
    listed = packing.pack(runs, tmp_path / "out", unfinished=True, weights=False)
    names = set(listed["files"])
    assert "results/small/seed_18/state/replication/one-18.json" in names
    assert not any("seed_18/evaluation" in name for name in names)
    assert any("seed_17/evaluation" in name for name in names)
    _second(tmp_path, monkeypatch)
    packing.unpack([tmp_path / "out"])
    assert [run.complete() for run in plan.load("plan.yaml")] == [False, True]
    # Another configuration is another run.
    write_text("c.yaml", CONFIG + "training: {steps: 3}\n")
    assert not any(run.complete() for run in plan.load("plan.yaml"))


def test_what_has_no_room_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _results(place, 17)
    monkeypatch.setattr(packing, "PIECE", 300)
    monkeypatch.setattr(packing, "PIECES", 30)
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "out")
    assert listed["omitted"] == [str((folder / "models/rl_1/model.safetensors").relative_to(place))]
    assert listed["parts"] > 1 and listed["bytes"] <= 9000
    assert all(file.stat().st_size < 300 + 2**14 for file in (tmp_path / "out").glob("part-*"))


@pytest.mark.parametrize("fault", ["missing", "damaged", "mixed", "none"])
def test_parts_that_cannot_be_used_are_named(place: Path, tmp_path: Path, fault: str) -> None:
    _results(place, 17)
    out = tmp_path / "out"
    packing.PIECE, kept = 3000, packing.PIECE
    try:
        packing.pack(plan.load("plan.yaml"), out)
        if fault == "mixed":
            (place / "results/small/seed_17/logs/rl_1.log").write_text("changed")
            packing.pack(plan.load("plan.yaml"), tmp_path / "other")
    finally:
        packing.PIECE = kept
    first = sorted(out.glob("part-*"))[0]
    if fault == "missing":
        first.unlink()
    elif fault == "damaged":
        with tarfile.open(first) as archive:
            at = archive.getmember("piece").offset_data
        data = bytearray(first.read_bytes())
        data[at + 5] ^= 1
        first.write_bytes(data)
    elif fault == "none":
        out = tmp_path / "empty"
        out.mkdir()
    sources = [out, tmp_path / "other"] if fault == "mixed" else [out]
    words = {"missing": "part 1 of", "damaged": "damaged|no part of a pack", "mixed": "2 packs", "none": "no part-"}
    with pytest.raises(DataError, match=words[fault]):
        packing.unpack(sources)
    assert not packing.KNOWN.is_file()


def test_a_name_that_leaves_the_folder_is_refused(place: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("../outside")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"hi"))
    raw = stream.getvalue()
    with pytest.raises(DataError, match="leaves the working directory"):
        packing._restored(len(raw).to_bytes(8, "little") + pa.compress(raw, "zstd", asbytes=True))
    assert not (place.parent / "outside").exists()
