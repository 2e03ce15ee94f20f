"""Checkpoints of a tiny Qwen3-MoE with per-expert names, and `qwenlong checkpoint merge` in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DRIVER = Path(__file__).with_name("merge_driver.py")
PACKAGES = Path(__file__).parents[3] / "packages"
EXPERTS, HIDDEN, WIDTH, WORDS = 4, 32, 16, 40
#: Six weight files of the output.
FILE_SIZE = "5KB"
CONFIG = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "dtype": "bfloat16", "head_dim": 16,
          "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1, "num_experts": EXPERTS,
          "tie_word_embeddings": False}  # fmt: skip


def names() -> dict[str, tuple[int, ...]]:
    at = "model.layers.0."
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, HIDDEN),
        "lm_head.weight": (WORDS, HIDDEN),
    }
    found |= {f"{at}self_attn.{kind}_proj.weight": (HIDDEN, HIDDEN) for kind in "qo"}
    found |= {"model.norm.weight": (HIDDEN,), f"{at}mlp.gate.weight": (EXPERTS, HIDDEN)}
    for number in range(EXPERTS):
        for kind, shape in {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}.items():
            found[f"{at}mlp.experts.{number}.{kind}_proj.weight"] = shape
    return found


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] = CONFIG) -> Path:
    """Write a checkpoint of two weight files and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered, half = sorted(tensors), len(tensors) // 2
    files = {"model-00001-of-00002.safetensors": ordered[:half], "model-00002-of-00002.safetensors": ordered[half:]}
    for file, group in files.items():
        save_file({name: tensors[name] for name in group}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, group in files.items() for name in group}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {"model": {"type": "BPE", "vocab": {f"w{n}": n for n in range(WORDS)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    return folder


def make_inputs(root: Path) -> Path:
    """Write `base`, `expert1` and `expert2` under `root`."""
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in names().items()}
    for number, folder in enumerate(("base", "expert1", "expert2")):
        moved = {n: v + number * 3e-3 * torch.randn(v.shape, generator=generator) for n, v in base.items()}
        write(root / folder, {name: value.bfloat16() for name, value in moved.items()})
    return root


def words(inputs: Path, out: Path, *more: object, expert2: Path | None = None) -> list[str]:
    given = ["checkpoint", "merge", "--base", inputs / "base", "--expert", inputs / "expert1", "--expert",
             expert2 or inputs / "expert2", "--out", out, "--select-top", 0.5, "--max-shard-size",
             FILE_SIZE, *more]  # fmt: skip
    return [str(word) for word in given]


class Command:
    """The command in a process of its own; with `hold` it stands still at that point when the constructor returns."""

    def __init__(
        self,
        arguments: list[str],
        hold: str = "",
        reached: Path | None = None,
        *,
        prefix: tuple[str, ...] = (),
        limit: int = 0,
        wait: bool = True,
    ) -> None:
        out = Path(arguments[arguments.index("--out") + 1])
        self.reached = reached or out.with_name(f"reached-{time.monotonic_ns()}")
        self.log = self.reached.with_suffix(".log")
        env = {**os.environ, "PYTHONPATH": str(PACKAGES), "MERGE_HOLD": hold,
               "MERGE_REACHED": str(self.reached)}  # fmt: skip
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(DRIVER), *arguments],
                env=env,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
            )
        while hold and wait and not self.reached.exists():
            assert self.process.poll() is None, f"ended before {hold}: {self.text}"
            time.sleep(0.02)

    @property
    def text(self) -> str:
        return self.log.read_text()

    def send(self, number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)

    def go_on(self) -> int:
        self.reached.unlink(missing_ok=True)
        return self.process.wait(300)


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes by name, without the sidecar, which alone holds times."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "provenance.json"}


def one_error(text: str, *parts: str) -> None:
    """The output has one error line, which says all this, and no traceback."""
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in text, text
    for part in parts:
        assert part in errors[0], errors[0]


def nothing_at(out: Path) -> None:
    assert not out.exists()
    assert not [path.name for path in out.parent.iterdir() if path.name.endswith(".partial")]


def finished(state: Path) -> dict[str, int]:
    """Weight files that the state vouches for, and when each was written."""
    records = [path for path in state.rglob("*.safetensors.json") if not path.name.startswith(".")]
    files = [path.with_suffix("") for path in records]
    return {path.name: path.stat().st_mtime_ns for path in files}
