"""What a conversion reads: verl's FSDP shards, its Megatron checkpoints, Hugging Face directories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from qwenlong.checkpoints import megatron
from qwenlong.checkpoints.shards import Shards, has_shards
from qwenlong.checkpoints.weights import Entry, Weights
from qwenlong.core.errors import DataError

FSDP, MEGATRON, HUGGING_FACE = "verl-fsdp", "verl-megatron", "hugging-face"


class Source(Protocol):
    """Tensors by name, read by rows."""

    @property
    def entries(self) -> dict[str, Entry]:
        """Names, shapes and dtypes."""

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of a tensor, a scalar whole."""


@dataclass(frozen=True)
class Found:
    """A checkpoint: its kind, its directory, and the directory of its config and tokenizer (which may not be there)."""

    kind: str
    folder: Path
    model: Path

    @contextmanager
    def open(self, scratch: Path) -> Iterator[tuple[Source, int]]:
        """Yield the tensors and the number of ranks that wrote them. `scratch` is where a directory may be made."""
        if self.kind == FSDP:
            shards = Shards(self.folder)
            yield shards, shards.world_size
            return
        folder = self.folder
        if self.kind == MEGATRON:
            folder = scratch
            folder.mkdir()
            megatron.merge(self.folder, folder)
        with Weights(folder) as weights:
            yield weights, 1


def find(source: Path) -> Found:
    """Return the checkpoint at or under `source`: itself, its `actor`, or that of verl's last whole step.

    Raises DataError when there is none.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a directory; give the checkpoint directory that verl wrote")
    for folder in (source, source / "actor"):
        if found := _at(folder):
            return found
    # verl writes this file after a whole checkpoint; a later folder without it may be half-written.
    tracker = source / "latest_checkpointed_iteration.txt"
    if tracker.is_file():
        text = tracker.read_text(encoding="utf-8").strip()
        if not text.isdigit():
            raise DataError(f"{tracker} says {text!r}, which is no step; give the global_step_N directory itself")
        steps = [int(text)]
    else:
        numbers = (re.fullmatch(r"global_step_(\d+)", path.name) for path in source.iterdir())
        steps = sorted((int(match[1]) for match in numbers if match), reverse=True)
    for step in steps:
        if found := _at(source / f"global_step_{step}" / "actor"):
            return found
    raise DataError(
        f"{source} holds no model_world_size_N_rank_R.pt, no model/dist_ckpt and no *.safetensors, nor does an actor "
        "folder below it; train first"
    )


def _at(folder: Path) -> Found | None:
    if has_shards(folder):
        return Found(FSDP, folder, folder / "huggingface")
    if megatron.is_checkpoint(folder):
        model = megatron.model_folder(folder)
        # With mbridge verl writes the weights there in Hugging Face's format already.
        if any(model.glob("*.safetensors")):
            return Found(HUGGING_FACE, model, model)
        return Found(MEGATRON, folder, model)
    if any(folder.glob("*.safetensors")):
        return Found(HUGGING_FACE, folder, folder)
    return None
