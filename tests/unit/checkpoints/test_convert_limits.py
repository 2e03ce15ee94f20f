"""What a conversion costs and what it leaves: bounded memory, nothing half-written, refusals that name the thing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlong.checkpoints.convert import convert
from qwenlong.core.errors import DataError, UsageError


def plain_shards(folder: Path, **tensors: torch.Tensor) -> Path:
    """One rank's shards of whole tensors, of a model that transformers does not know."""
    (folder / "huggingface").mkdir(parents=True)
    state = {name.replace("__", "."): value for name, value in tensors.items()}
    torch.save(state, folder / "model_world_size_1_rank_0.pt")
    (folder / "huggingface/config.json").write_text(json.dumps({"model_type": "qwen3_moe", "dtype": "float32"}))
    return folder


MEASURED = """\
import sys, threading, time
from pathlib import Path
import torch
from qwenlong.checkpoints.convert import convert

def anonymous():
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon"))

torch.set_num_threads(1)
source, small, out, view = sys.argv[1:]
convert(Path(small), Path(out), dtype=torch.bfloat16, view=view)  # whatever is loaded once
before, peak, done = anonymous(), [0], threading.Event()

def sample():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)

thread = threading.Thread(target=sample)
thread.start()
report = convert(Path(source), Path(out), dtype=torch.bfloat16, view=view)
done.set()
thread.join()
print((peak[0] - before) // 1024, report["parameters"])
"""


def test_memory_is_bounded_by_a_piece(tmp_path: Path) -> None:
    stack = torch.rand(48, 1024, 512)
    tensors = {
        "model__embed_tokens__weight": torch.rand(50_000, 512),
        "model__layers__0__mlp__experts__gate_up_proj": stack,
        "model__layers__0__mlp__experts__down_proj": stack.transpose(1, 2)[:, :, :512].contiguous(),
    }
    big = plain_shards(tmp_path / "big", **tensors)
    small = plain_shards(tmp_path / "small", **{name: value[:2].clone() for name, value in tensors.items()})

    def growth(source: Path, small: Path, view: str) -> int:
        words = [sys.executable, "-c", MEASURED, *map(str, (source, small, tmp_path / view, view))]
        megabytes, parameters = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        assert int(parameters) == sum(value.numel() for value in tensors.values())
        return int(megabytes)

    # 102 MB of embedding, 101 and 101 MB of stacks; a piece has 4 MB, and what is made of it.
    assert growth(big, small, "split") < 48
    convert(small, tmp_path / "small_split", view="split")
    assert growth(tmp_path / "split", tmp_path / "small_split", "stacked") < 48
    made = load_file(tmp_path / "stacked/model.safetensors")
    assert torch.equal(made["model.layers.0.mlp.experts.gate_up_proj"], stack.bfloat16())


KILLED = """\
import os, signal, sys
from pathlib import Path
from qwenlong.checkpoints import convert as module

source, out, like, moment = sys.argv[1:]
count = 0

def on_tensor(name):
    global count
    count += 1
    if str(count) == moment:
        os.kill(os.getpid(), signal.SIGKILL)

carry = module.carry
def killed_after(*words):
    carry(*words)
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "carried":
    module.carry = killed_after
module.convert(Path(source), Path(out), like=Path(like), max_file_bytes=20_000, on_tensor=on_tensor)
"""


@pytest.mark.parametrize("moment", ["1", "20", "39", "carried"])
@pytest.mark.parametrize("before", ["nothing", "older"])
def test_killed_anywhere(models: Path, shards: Path, tmp_path: Path, moment: str, before: str) -> None:
    out = tmp_path / "out"
    if before == "older":
        convert(models / "expert1", out)
    old = (out / "model.safetensors").read_bytes() if before == "older" else None
    words = [sys.executable, "-c", KILLED, *map(str, (shards / "two", out, models / "base", moment))]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    # What was there is whole still, or nothing is.
    if old is None:
        assert not out.exists()
    else:
        assert (out / "model.safetensors").read_bytes() == old and not (
            out / "model-00001-of-00005.safetensors"
        ).exists()
    assert len(list(tmp_path.glob(".out.*.partial"))) == 1
    convert(shards / "two", out, like=models / "base", max_file_bytes=20_000)
    convert(shards / "two", tmp_path / "unbroken", like=models / "base", max_file_bytes=20_000)
    assert not list(tmp_path.glob(".*partial"))
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "unbroken").iterdir())
    assert all((out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes() for name in names)


def test_disk_full(models: Path, shards: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: both fail in write()."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from qwenlong.checkpoints.convert import convert\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]), like=Path(sys.argv[3]))"
    )
    words = [sys.executable, "-c", code, *map(str, (shards / "two", tmp_path / "out", models / "base"))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def refused(source: Path, tmp_path: Path, message: str, **options: object) -> None:
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


def test_adapters_are_refused(tmp_path: Path) -> None:
    name = "base_model__model__model__layers__0__self_attn__q_proj__lora_A__default__weight"
    refused(plain_shards(tmp_path / "x", **{name: torch.ones(2, 2)}), tmp_path, "holds LoRA adapters .*merge them")


def test_overflow_is_named(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models / "base", tmp_path / "x")
    tensors = load_file(models / "base/model.safetensors")
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, folder / "model.safetensors")
    refused(folder, tmp_path, "model.norm.weight overflows float16", dtype=torch.float16)
    assert convert(folder, tmp_path / "out", dtype=torch.bfloat16)["dtypes"] == ["bfloat16"]


def test_tensors_of_another_model_than_the_config_describes(models: Path, shards: Path, tmp_path: Path) -> None:
    actor = shutil.copytree(shards / "two/actor", tmp_path / "actor")
    file = actor / "huggingface/config.json"
    config = json.loads(file.read_text())
    for change, message in (
        ({"num_hidden_layers": 3}, "lacks model.layers.2.input_layernorm.weight, which the model that config.json"),
        ({"vocab_size": 71}, r"vocabulary mismatch: lm_head.weight has shape \[67, 32\] in the checkpoint, \[71, 32\]"),
        ({"num_local_experts": 4, "num_experts": 4}, "lacks model.layers.0.mlp.experts.3.down_proj.weight"),
    ):
        file.write_text(json.dumps(config | change))
        refused(actor, tmp_path, message)
        # And where transformers knows no such model, by count.
        file.write_text(json.dumps(config | change | {"architectures": ["OwnForCausalLM"]}))
        refused(actor, tmp_path, "config.json says (3 layers|71 words|4 experts)")


def test_ranks_that_do_not_exist(shards: Path, tmp_path: Path) -> None:
    """One rank's shards under the name of two: the mesh tells."""
    folder = tmp_path / "x"
    folder.mkdir()
    for rank in (0, 1):
        shutil.copy(shards / "one/actor/model_world_size_1_rank_0.pt", folder / f"model_world_size_2_rank_{rank}.pt")
    refused(folder, tmp_path, "no config.json beside the checkpoint")
    shutil.copytree(shards / "one/actor/huggingface", folder / "huggingface")
    refused(folder, tmp_path, r"lies on ranks \[0\], not on 2 of them")


def test_output_over_an_input(models: Path, shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shards / "one", tmp_path / "x")
    for out in (folder, folder / "actor", tmp_path):
        with pytest.raises(UsageError, match="is an input of the conversion, or holds one"):
            convert(folder, out)
    assert os.listdir(folder / "actor")
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"OUT .* (is a file|which is a file)"):
            convert(folder, out)
    assert (tmp_path / "file").read_text() == "kept"
