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
from qwenlong.core.files import digest_value, sha256_file, write_json, write_text
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
    # Of a stage that did not end its curves travel, its checkpoints do not.
    write_text(folder / "state/stages/rl_3/0123/metrics.jsonl", '{"step": 1}\n')
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
    # A policy without its model is trained again here: a folder that is there would count as made.
    policy = Path("results/small/seed_17/stages/rl_2/policy")
    assert before.keys() - after.keys() == {policy / ".snakemake_timestamp", policy / "metrics.jsonl"}
    assert not policy.exists()
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
    assert packing.unpack([tmp_path / "out"])["files"] == 0
    assert list(packing.pack(plan.load("plan.yaml"), tmp_path / "back")["files"]) == list(listed["files"])
    everything = packing.pack(plan.load("plan.yaml"), tmp_path / "all", everything=True)
    assert len(everything["files"]) == len(after) + 1
    # At home it is read, where nothing goes on.
    home = tmp_path / "home"
    _machine(home)
    monkeypatch.chdir(home)
    packing.unpack([tmp_path / "out"], remember=False)
    assert (policy / "metrics.jsonl").is_file() and not packing.KNOWN.exists()


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


def _bfloat16(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    text = json.dumps({"w": {"dtype": "BF16", "shape": [values.size], "data_offsets": [0, len(data)]}}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    write_json(file.parent / "config.json", {"dtype": "bfloat16"})
    write_text(file.parent / ".snakemake_timestamp", "")


PRETRAINED = CONFIG.replace("kind: nano, path: models/shipped, window: 2048", "kind: smollm2, window: 2048")


def _pretrained(home: Path) -> Path:
    """A run from a pretrained model: base and two stages in bfloat16, and its base again under another seed."""
    write_text(home / "c.yaml", PRETRAINED)
    random = np.random.default_rng(0)
    base = random.normal(size=200_000, scale=0.1)
    for seed in (17, 18):
        _bfloat16(home / f"results/small/seed_{seed}/models/base/model.safetensors", base)
    folder = home / "results/small/seed_17"
    for stage in ("rl_1", "rl_2"):
        base = base + random.choice([-2e-5, 2e-5], size=base.size)
        _bfloat16(folder / "models" / stage / "model.safetensors", base)
        write_json(folder / "stages" / stage / "policy" / "stage.json", {"steps": 3})
        write_text(folder / "stages" / stage / "policy" / ".snakemake_timestamp", "")
    return folder


def test_a_pretrained_base_travels_whole_and_stages_as_differences_in_many_parts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretrained(place)
    monkeypatch.setattr(packing, "PIECE", 30_000)
    before = {p.relative_to(place): sha256_file(p) for p in (place / "results").rglob("*") if p.is_file()}
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "out", pieces=30)
    assert listed["omitted"] == [] and 4 < listed["parts"] <= 30
    again = packing.pack(plan.load("plan.yaml"), tmp_path / "again", pieces=30)
    assert again["id"] == listed["id"]
    with tarfile.open(tmp_path / "out" / f"part-1-of-{listed['parts']}.tar") as archive:
        stream = archive.extractfile("part.json")
        assert stream is not None
        sizes = {b["name"]: b["size"] for b in json.load(stream)["blobs"] if b["kind"] == "weights"}
    whole = sizes.pop("results/small/seed_17/models/base/model.safetensors")
    # The other seed's copy is nothing new, a stage's difference a tenth.
    assert sizes.pop("results/small/seed_18/models/base/model.safetensors") < 1000
    assert whole > 200_000 and len(sizes) == 2 and all(size < 0.2 * whole for size in sizes.values())

    # The parts come in two transfers, in another order.
    for number, file in enumerate(sorted((tmp_path / "out").glob("part-*"))):
        (tmp_path / f"round{number % 2}").mkdir(exist_ok=True)
        file.rename(tmp_path / f"round{number % 2}" / file.name)
    home = _second(tmp_path, monkeypatch)
    write_text("c.yaml", PRETRAINED)
    with pytest.raises(DataError, match="is missing"):
        packing.unpack([tmp_path / "round1"])
    assert not (home / "results").exists()
    done = packing.unpack([tmp_path / "round1", tmp_path / "round0"])
    after = {p.relative_to(home): sha256_file(p) for p in (home / "results").rglob("*") if p.is_file()}
    after.pop(packing.KNOWN)
    assert after == before and len(done["weights"]) == 4
    # What came is not packed again; another stage takes the base that lies on both sides, in a small pack.
    stage = home / "results/small/seed_17/models/rl_3/model.safetensors"
    _bfloat16(stage, np.random.default_rng(0).normal(size=200_000, scale=0.1) + 2e-5)
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "back", pieces=3)
    name = str(stage.relative_to(home))
    assert name in listed["files"] and listed["omitted"] == [] and not any("base" in file for file in listed["files"])
    monkeypatch.chdir(place)
    packing.unpack([tmp_path / "back"])
    assert sha256_file(name) == sha256_file(stage)


def test_what_was_carried_away_is_left_out_once_it_is_unpacked_where_it_was_packed(place: Path, tmp_path: Path) -> None:
    folder = _pretrained(place)
    packing.pack(plan.load("plan.yaml"), tmp_path / "out")
    times = {file: file.stat().st_mtime_ns for file in (place / "results").rglob("*")}
    assert packing.unpack([tmp_path / "out"])["files"] == 0
    assert all(file.stat().st_mtime_ns == time for file, time in times.items() if file.is_file())
    write_json(folder / "evaluation/rl_1/heldout/scores.json", {"value": 0.75})
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "next")
    assert list(listed["files"]) == ["results/small/seed_17/evaluation/rl_1/heldout/scores.json"]


@pytest.mark.parametrize("carried", ["no room", "no weights"])
def test_models_whose_weights_stay_are_made_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carried: str
) -> None:
    folder = _pretrained(place)
    monkeypatch.setattr(packing, "PIECE", 30_000)
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "out", pieces=2, weights=carried == "no room")
    names = [f"results/small/seed_{s}/models/{m}/model.safetensors" for s, m in
             ((17, "base"), (17, "rl_1"), (17, "rl_2"), (18, "base"))]  # fmt: skip
    # Differences to a base that stays behind would be of no use.
    assert sorted(listed["omitted"]) == (names if carried == "no room" else [])
    assert f"{folder.relative_to(place)}/stages/rl_1/policy/stage.json" in listed["files"]
    home = _second(tmp_path, monkeypatch)
    write_text("c.yaml", PRETRAINED)
    packing.unpack([tmp_path / "out"])
    assert not list(home.rglob("models/base")) and not list(home.rglob("stages"))
    packing.unpack([tmp_path / "out"], remember=False)
    assert len(list(home.rglob("models/base/config.json"))) == 2 and len(list(home.rglob("stage.json"))) == 2


def test_a_base_that_nothing_reads_any_more_comes_before_stages_that_are_packed_against_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _pretrained(place)
    for model in ("naive_grpo", "sce_merge"):
        (folder / "models" / model).mkdir()
    for benchmark in ("heldout", "heldout_long"):
        write_text(folder / f"evaluation/base/{benchmark}/predictions.jsonl", "{}\n")
    listed = packing.pack(plan.load("plan.yaml"), tmp_path / "out")
    assert len([name for name in listed["files"] if name.endswith(".safetensors")]) == 4
    _second(tmp_path, monkeypatch)
    assert len(packing.unpack([tmp_path / "out"])["weights"]) == 4


def test_weights_packed_before_blocks_are_read_still(place: Path, tmp_path: Path) -> None:
    file = _results(place, 17) / "models/rl_1/model.safetensors"
    blob = tensors.encode(file, Path("models/shipped/model.safetensors"))
    n_text = int.from_bytes(blob[4:12], "little")
    said = json.loads(blob[20 : 20 + n_text])
    assert len(said.pop("blocks")) == 1 and said.pop("block") > said["size"]
    text = json.dumps(said, sort_keys=True).encode()
    earlier = b"QLW1" + len(text).to_bytes(8, "little") + blob[12:20] + text + blob[20 + n_text :]
    tensors.decode(earlier, tmp_path / "out.safetensors", Path("models/shipped/model.safetensors"))
    assert sha256_file(tmp_path / "out.safetensors") == sha256_file(file)


def test_blocks_and_threads_decide_nothing_about_the_bytes_that_come_back(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    folder = _pretrained(place)
    file, base = (folder / "models" / model / "model.safetensors" for model in ("rl_2", "base"))
    monkeypatch.setattr(tensors, "_BLOCK", 2**16)
    monkeypatch.setattr(tensors, "_LARGE", 2**16)
    blobs = []
    for cores in (1, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        blobs.append(tensors.encode(file, base))
    assert blobs[0] == blobs[1]
    monkeypatch.undo()
    tensors.decode(blobs[0], tmp_path / "out.safetensors", base)
    assert sha256_file(tmp_path / "out.safetensors") == sha256_file(file)
    damaged = bytearray(blobs[0])
    damaged[-5] ^= 1
    with pytest.raises((DataError, OSError)):
        tensors.decode(bytes(damaged), tmp_path / "bad.safetensors", base)
    assert not (tmp_path / "bad.safetensors").exists()


def test_a_plan_stays_complete_whatever_came_to_be_chosen_since(place: Path) -> None:
    first = plan.load("plan.yaml")[0]
    values = first.config.model_dump(mode="json", exclude={"resources", "tracking"})
    assert values["run"].pop("weights_dtype") == "float32" and values["run"].pop("scale") is None
    assert first.digest == digest_value([values, first.seed, first.targets])
    write_text("c.yaml", CONFIG.replace("{name: small,", "{name: small, scale: other,"))
    assert plan.load("plan.yaml")[0].digest == first.digest
    write_text("c.yaml", CONFIG.replace("{name: small,", "{name: small, weights_dtype: bfloat16,"))
    assert plan.load("plan.yaml")[0].digest != first.digest


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
