"""Megatron checkpoints of verl, read by verl's own merger (`python -m verl.model_merger`) in a process of its own.

What verl 0.9.1 writes: `actor/model/dist_ckpt/`, Megatron's distributed checkpoint, and `actor/model/huggingface/`,
config and tokenizer. The merger builds the whole model in memory in bfloat16 on one rank, so what comes of it has the
precision of bfloat16 whatever the training had, and memory is not bounded as with FSDP shards.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.network import free_port

_MODULE = "verl.model_merger"


def is_checkpoint(folder: Path) -> bool:
    """Whether a directory is a Megatron checkpoint. Raises DataError for verl's layout before 0.9."""
    if (folder / "model" / "dist_ckpt").is_dir() or any((folder / "model" / "huggingface").glob("*.safetensors")):
        return True
    if (folder / "dist_ckpt").is_dir():
        raise DataError(
            f"{folder} is a Megatron checkpoint of a verl before 0.9, dist_ckpt beside huggingface; "
            "migrate it with verl's scripts/migrate_megatron_checkpoint_layout.py"
        )
    return False


def model_folder(folder: Path) -> Path:
    """Return where config, tokenizer and, with mbridge, weights in Hugging Face's format lie."""
    return folder / "model" / "huggingface"


def command(folder: Path, out: Path, tied: bool, python: str = sys.executable) -> list[str]:
    """Return the command line of verl's merger for a checkpoint."""
    words = [python, "-m", _MODULE, "merge", "--backend", "megatron", "--local_dir", str(folder)]
    words += ["--target_dir", str(out), "--use_cpu_initialization"]
    return [*words, "--tie-word-embedding"] if tied else words


def missing() -> list[str]:
    """Return what the merger needs and this environment has not."""
    absent = [name for name in ("verl", "megatron.core") if not _has(name)]
    if not absent:
        import torch

        if not torch.cuda.is_available():
            absent.append("a GPU")
    return absent


def merge(folder: Path, out: Path) -> None:
    """Merge a Megatron checkpoint into the Hugging Face directory `out`, unchecked.

    Raises QwenlongError that names what is not installed, or tells the last of what the merger said.
    """
    from qwenlong.checkpoints.architecture import is_tied
    from qwenlong.core.files import read_json

    absent = missing()
    if absent:
        raise QwenlongError(
            f"{folder} is a Megatron checkpoint, and verl's merger of those needs {' and '.join(absent)}, which "
            "is not here; convert it where it was trained, or save hf_model in verl's checkpoint contents"
        )
    config = read_json(model_folder(folder) / "config.json")
    words = command(folder, out, is_tied(config))
    done = subprocess.run(words, capture_output=True, text=True, env=_environment())
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise QwenlongError(
            f"verl's merger gave {done.returncode} for {folder}: {' | '.join(said[-3:])[:600]}; "
            f"run it by hand to see all: {' '.join(words)}"
        )
    if not any(out.glob("*.safetensors")):
        raise QwenlongError(f"verl's merger ended well for {folder} and wrote no *.safetensors; run it by hand")


def _environment() -> dict[str, str]:
    # One rank. The merger has a fixed port of its own, which another may use.
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    ranks["MASTER_PORT"] = str(free_port("127.0.0.1"))
    return {**os.environ, **ranks, "HF_HUB_OFFLINE": "1"}


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
