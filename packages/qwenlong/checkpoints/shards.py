"""The shards that verl's FSDP engine writes, read by rows; nothing in a shard is executed.

What verl 0.9.1 writes (utils/checkpoint/fsdp_checkpoint_manager.py): `actor/model_world_size_N_rank_R.pt`, the state
dict of each rank with DTensor values; `actor/fsdp_config.json` with the world size; `actor/huggingface/` with config
and tokenizer. Names are those of the model in memory.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints.weights import Entry
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json

_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def has_shards(folder: Path) -> bool:
    """Whether a directory holds shards of a model."""
    return any(_SHARD.fullmatch(path.name) for path in folder.glob("*.pt"))


@dataclass(frozen=True)
class Node:
    """A tensor over one dimension of the mesh: `dim` is that of the tensor which is cut, None for copies."""

    dim: int | None
    children: tuple[Node | Tensor, ...]


class Shards:
    """The state dicts of all ranks, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Open the shards of all ranks and see that they add up. Raises DataError naming the file or tensor."""
        self.folder = folder
        self.world_size = self._world_size()
        self._ranks = [
            _load(folder / f"model_world_size_{self.world_size}_rank_{rank}.pt") for rank in range(self.world_size)
        ]
        names = self._ranks[0].keys()
        for rank, state in enumerate(self._ranks):
            if state.keys() != names:
                name = sorted(state.keys() ^ names)[0]
                raise DataError(f"{folder}: {name} is on rank 0 or rank {rank} only; the shards are not of one step")
        adapters = sorted(name for name in names if ".lora_" in name or ".base_layer." in name)
        if adapters:
            raise DataError(f"{folder} holds LoRA adapters ({adapters[0]}); merge them into the model first")
        self.entries = {
            name: Entry(name, tuple(value.shape), value.dtype) for name, value in sorted(self._ranks[0].items())
        }
        self._nodes = {name: self._node(entry) for name, entry in self.entries.items()}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of a tensor (a scalar whole): a view of a shard where they lie in one.

        Raises DataError when replicas differ there.
        """
        found = rows_of(self._nodes[name], start, stop)
        if found is None:
            raise DataError(f"the copies of {name} in {self.folder} differ; the shards are not of one step")
        return found

    def tensor(self, name: str) -> Tensor:
        """Return a whole tensor."""
        shape = self.entries[name].shape
        return self.rows(name, 0, shape[0] if shape else 1)

    def _world_size(self) -> int:
        matches = [match for path in self.folder.glob("*.pt") if (match := _SHARD.fullmatch(path.name))]
        sizes = sorted({int(match[1]) for match in matches})
        config = self.folder / "fsdp_config.json"
        if config.is_file():
            content = read_json(config)
            size = content.get("world_size") if isinstance(content, dict) else None
            if not isinstance(size, int) or size < 1:
                raise DataError(f"{config}: world_size = {size!r}; it must be the number of ranks")
        elif len(sizes) == 1:
            size = sizes[0]
        else:
            raise DataError(f"{self.folder} has shards of world sizes {sizes} and no fsdp_config.json; keep one set")
        present = {int(match[2]) for match in matches if int(match[1]) == size}
        missing = sorted(set(range(size)) - present)
        if missing:
            raise DataError(f"{self.folder} lacks rank {missing[0]} of {size}; copy the shards of all machines there")
        return size

    def _node(self, entry: Entry) -> Node | Tensor:
        """Return how a tensor lies on the ranks. Raises DataError when its shards do not make one."""
        from torch.distributed.tensor import DTensor

        name = entry.name
        values = [state[name] for state in self._ranks]
        node: Node | Tensor
        if not any(isinstance(value, DTensor) for value in values):
            node = Node(None, tuple(values))
        else:
            spec = [
                (value.placements, value.device_mesh.mesh.tolist()) if isinstance(value, DTensor) else None
                for value in values
            ]
            if spec[0] is None or any(other != spec[0] for other in spec):
                raise DataError(f"{name} is sharded differently on different ranks of {self.folder}; it is damaged")
            placements, mesh = spec[0]
            ranks = values[0].device_mesh.mesh
            if sorted(ranks.flatten().tolist()) != list(range(self.world_size)) or ranks.dim() != len(placements):
                raise DataError(f"{name} lies on ranks {mesh}, not on {self.world_size} of them; it is damaged")
            node = self._arrange(name, mesh, placements, [value.to_local() for value in values])
        shape = _shape(node)
        if shape != entry.shape or any(value.dtype != entry.dtype for value in values):
            raise DataError(
                f"the shards of {name} make up {'no tensor' if shape is None else list(shape)}, "
                f"not its shape {list(entry.shape)}; the shards in {self.folder} are not of one step"
            )
        return node

    def _arrange(self, name: str, mesh: Any, placements: Sequence[Any], local: list[Tensor]) -> Node | Tensor:
        """Arrange local tensors over a device mesh, outer dimension first. `mesh` is nested lists of ranks."""
        if not placements:
            return local[mesh]
        placement = placements[0]
        children = tuple(self._arrange(name, part, placements[1:], local) for part in mesh)
        if placement.is_replicate():
            return Node(None, children)
        # Exactly Shard: a strided shard (FSDP over tensor parallelism) interleaves and would be joined wrongly.
        if type(placement).__name__ != "Shard":
            raise DataError(f"{name} is placed as {placement}, which is not supported; save without tensor parallelism")
        return Node(placement.dim % max(local[0].dim(), 1), children)


def rows_of(node: Node | Tensor, start: int, stop: int) -> Tensor | None:
    """Return rows [start, stop) of what lies in a node (a scalar whole); None where copies of it differ."""
    if isinstance(node, Tensor):
        return node[start:stop] if node.dim() else node
    ranges = [(start, stop)] * len(node.children)
    children = list(node.children)
    if node.dim == 0:
        sizes = [(_shape(child) or (0,))[0] for child in children]
        offsets = list(accumulate(sizes, initial=0))[:-1]
        inside = [
            (max(start - offset, 0), min(stop - offset, size)) for offset, size in zip(offsets, sizes, strict=True)
        ]
        # A range without rows is taken from the first: of the right shape, and empty.
        chosen = [number for number, (low, high) in enumerate(inside) if low < high] or [0]
        children = [children[number] for number in chosen]
        ranges = [inside[number] if inside[number][0] < inside[number][1] else (0, 0) for number in chosen]
    pieces = [rows_of(child, low, high) for child, (low, high) in zip(children, ranges, strict=True)]
    whole = [piece for piece in pieces if piece is not None]
    if len(whole) < len(pieces):
        return None
    if node.dim is not None:
        return whole[0] if len(whole) == 1 else torch.cat(whole, dim=node.dim)
    return whole[0] if all(_same(piece, whole[0]) for piece in whole[1:]) else None


def _shape(node: Node | Tensor) -> tuple[int, ...] | None:
    """The shape that the shards make up, None where they do not fit together."""
    if isinstance(node, Tensor):
        return tuple(node.shape)
    shapes = [_shape(child) for child in node.children]
    first = shapes[0]
    if first is None or any(shape is None or len(shape) != len(first) for shape in shapes):
        return None
    if node.dim is None:
        return first if all(shape == first for shape in shapes) else None
    if node.dim >= len(first):
        return None
    rest = {shape[: node.dim] + shape[node.dim + 1 :] for shape in shapes if shape is not None}
    total = sum(shape[node.dim] for shape in shapes if shape is not None)
    return (*first[: node.dim], total, *first[node.dim + 1 :]) if len(rest) == 1 else None


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same bytes; torch.equal finds NaN unlike itself."""
    views = (value.contiguous().reshape(-1).view(torch.uint8) for value in (left, right))
    return torch.equal(*views)


def _load(path: Path) -> dict[str, Tensor]:
    # Registers the DTensor classes as safe to load; everything else in a pickle stays refused.
    import torch.distributed.tensor

    # A warning meant for torch.compile, printed for every file: no process group is needed to read a mesh.
    mesh_logger = logging.getLogger("torch.distributed.device_mesh")
    level = mesh_logger.level
    mesh_logger.setLevel(logging.ERROR)
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors here
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} cannot be read as tensors ({reason}); copy the shard again") from error
    finally:
        mesh_logger.setLevel(level)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} is not a state dict of tensors; give verl's model shards")
    return state
