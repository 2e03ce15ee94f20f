"""Conversion of verl's FSDP shards to a Hugging Face directory, tensor by tensor; nothing in a shard is executed.

What verl 0.9.1 writes (utils/checkpoint/fsdp_checkpoint_manager.py): `actor/model_world_size_N_rank_R.pt`, the state
dict of each rank with DTensor values; `actor/fsdp_config.json` with the world size; `actor/huggingface/` with config
and tokenizer. Names are those of the model in memory, where transformers 5 stacks the experts of a layer into one
tensor; on disk it keeps one tensor per expert and projection, and so does this module.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints.weights import (
    MAX_FILE_BYTES,
    Entry,
    Weights,
    carry,
    compare_names,
    dtype_name,
    index_of,
    plan_files,
    refuse,
    write_file,
)
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import atomic_directory, dump_json, read_json

#: Written into the converted directory: counts and digests of the weight files.
REPORT = "CONVERT.json"
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_STACK = re.compile(r"(?P<layer>.*\.mlp\.experts)\.(?P<kind>gate_up_proj|down_proj)")
#: Model types whose experts transformers stores one by one, stacked as `_split` undoes. For others --like decides.
_SPLIT_TYPES = {"qwen2_moe", "qwen3_moe", "qwen3_next", "olmoe", "deepseek_v2", "deepseek_v3", "glm4_moe"}
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def convert(
    source: Path,
    out: Path,
    *,
    like: Path | None = None,
    dtype: torch.dtype = torch.float32,
    max_file_bytes: int = MAX_FILE_BYTES,
    on_tensor: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Convert the shards under `source` into the Hugging Face directory `out`, whole or absent; return the report.

    Args:
        source: a directory of shards, or one that holds it (`actor`, or verl's `global_step_N/actor`: the last one).
        out: directory to write; one that is there is replaced.
        like: a Hugging Face directory of the same architecture, such as the base model. Names, shapes and parameter
            count are checked against it, and config, tokenizer and templates come from it. Without it they come
            from the shards' `huggingface/`, and only the shards' own consistency is checked.
        dtype: of the floating weights written.
        max_file_bytes: size of a weight file.
        on_tensor: called with the name of each tensor written.

    Memory: the shards are memory-mapped, one assembled tensor is held at a time.

    Raises DataError naming the file or tensor: ranks missing, a shard that cannot be read or holds anything but
    tensors, shards that do not add up to the tensor's shape, NaN or infinite values, names or shapes unlike `like`.
    """
    folder = find_shards(Path(source))
    if Path(out).resolve() in {folder.resolve(), *([like.resolve()] if like else [])}:
        raise UsageError(f"{out} is an input of the conversion; write to another directory")
    shards = Shards(folder)
    sources = [path for path in (like, folder / "huggingface") if path is not None and path.is_dir()]
    config = _config(sources)
    tied = bool(config.get("tie_word_embeddings"))
    reference: dict[str, Entry] | None = None
    if like is not None:
        with Weights(like) as weights:
            reference = dict(weights.entries)
    elif config.get("model_type") not in _SPLIT_TYPES and any(map(_STACK.fullmatch, shards.shapes)):
        raise DataError(
            f"model_type {config.get('model_type')!r} has stacked experts whose names on disk are not known here; "
            "give --like, the directory of the model that was trained"
        )
    parts = _Parts(shards, tied, reference)
    if reference is not None:
        refuse(
            compare_names(reference, parts.entries, "the checkpoint", str(like)),
            "give as --like the model that the training started from",
        )
    entries = [
        Entry(entry.name, entry.shape, dtype if entry.dtype.is_floating_point else entry.dtype)
        for entry in parts.entries.values()
    ]

    def produce(entry: Entry) -> Tensor:
        tensor = parts.tensor(entry.name)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{entry.name} has NaN or infinite values; resume the training from an earlier checkpoint")
        converted = tensor.to(entry.dtype)
        if tensor.is_floating_point() and not bool(torch.isfinite(converted).all()):
            raise DataError(f"{entry.name} overflows {dtype_name(entry.dtype)}; convert to float32 or bfloat16")
        if on_tensor is not None:
            on_tensor(entry.name)
        return converted

    files = plan_files(entries, max_file_bytes)
    with atomic_directory(out) as partial:
        digests = {file: write_file(partial / file, group, produce) for file, group in files.items()}
        carry(sources, partial, dtype)
        index = index_of(files)
        if index is not None:
            (partial / "model.safetensors.index.json").write_text(dump_json(index), encoding="utf-8")
        report = {
            "format": "verl-fsdp",
            "world_size": shards.world_size,
            "dtype": dtype_name(dtype),
            "tensors": len(entries),
            "parameters": sum(entry.elements for entry in entries),
            "tied": tied,
            "checked_against_reference": like is not None,
            "files": digests,
        }
        (partial / REPORT).write_text(dump_json(report), encoding="utf-8")
    return report


def find_shards(source: Path) -> Path:
    """Return the directory of shards at or under `source`. Raises DataError when there is none."""
    if not source.is_dir():
        raise DataError(f"{source} is not a directory; give the checkpoint directory that verl wrote")

    def has_shards(folder: Path) -> bool:
        return any(_SHARD.fullmatch(path.name) for path in folder.glob("*.pt"))

    for folder in (source, source / "actor"):
        if has_shards(folder):
            return folder
    # verl writes this file after a whole checkpoint; a later folder without it may be half-written.
    tracker = source / "latest_checkpointed_iteration.txt"
    if tracker.is_file():
        text = tracker.read_text(encoding="utf-8").strip()
        if not text.isdigit():
            raise DataError(f"{tracker} says {text!r}, which is no step; give the global_step_N directory itself")
        steps = [int(text)]
    else:
        found = (re.fullmatch(r"global_step_(\d+)", path.name) for path in source.iterdir())
        steps = sorted((int(match[1]) for match in found if match), reverse=True)
    for step in steps:
        folder = source / f"global_step_{step}" / "actor"
        if has_shards(folder):
            return folder
    raise DataError(f"{source} holds no model_world_size_N_rank_R.pt, nor does an actor folder below it; train first")


class Shards:
    """The state dicts of all ranks, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Open the shards of all ranks. Raises DataError naming the file."""
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
        self.shapes = {name: tuple(value.shape) for name, value in self._ranks[0].items()}
        self.dtypes = {name: value.dtype for name, value in self._ranks[0].items()}

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

    def tensor(self, name: str) -> Tensor:
        """Return the whole tensor of a name. Raises DataError when its shards do not make one."""
        from torch.distributed.tensor import DTensor

        values = [state[name] for state in self._ranks]
        whole: Tensor
        if not isinstance(values[0], DTensor):
            if any(isinstance(value, DTensor) or not torch.equal(value, values[0]) for value in values):
                raise DataError(f"{name} is not sharded and differs between ranks of {self.folder}; it is damaged")
            whole = values[0]
        else:
            spec = [(value.placements, value.device_mesh.mesh.tolist()) for value in values]
            if any(other != spec[0] for other in spec):
                raise DataError(f"{name} is sharded differently on different ranks of {self.folder}; it is damaged")
            placements, mesh = spec[0]
            whole = self._assemble(name, mesh, placements, [value.to_local() for value in values])
        if tuple(whole.shape) != self.shapes[name]:
            raise DataError(
                f"the shards of {name} make up {list(whole.shape)}, not its shape {list(self.shapes[name])}; "
                f"the shards in {self.folder} are not of one step"
            )
        return whole

    def _assemble(self, name: str, mesh: Any, placements: Sequence[Any], local: list[Tensor]) -> Tensor:
        """Join local tensors over a device mesh, outer dimension first. `mesh` is nested lists of ranks."""
        if not placements:
            return local[mesh]
        placement = placements[0]
        pieces = [self._assemble(name, part, placements[1:], local) for part in mesh]
        if placement.is_replicate():
            if any(not torch.equal(piece, pieces[0]) for piece in pieces[1:]):
                raise DataError(f"the replicas of {name} in {self.folder} differ; the shards are not of one step")
            return pieces[0]
        # Exactly Shard: a strided shard (FSDP over tensor parallelism) interleaves and would be joined wrongly.
        if type(placement).__name__ != "Shard":
            raise DataError(f"{name} is placed as {placement}, which is not supported; save without tensor parallelism")
        return torch.cat(pieces, dim=placement.dim) if len(pieces) > 1 else pieces[0]


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


def _config(sources: Sequence[Path]) -> dict[str, Any]:
    for source in sources:
        if (source / "config.json").is_file():
            config = read_json(source / "config.json")
            if isinstance(config, dict):
                return config
    raise DataError("no config.json beside the shards; give --like, the directory of the model that was trained")


class _Parts:
    """The tensors to write, in order, each from one tensor of the shards."""

    def __init__(self, shards: Shards, tied: bool, reference: dict[str, Entry] | None) -> None:
        self._shards = shards
        self._origin: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {}
        self._last: tuple[str, Tensor] | None = None
        self.entries: dict[str, Entry] = {}
        for name in sorted(shards.shapes):
            drop = name == _HEAD and tied and (reference is None or _HEAD not in reference)
            if drop and _EMBEDDING in shards.shapes:
                # Stored once on disk. Were they different, the model in memory was not tied after all.
                if not torch.equal(shards.tensor(_HEAD), shards.tensor(_EMBEDDING)):
                    raise DataError(f"{_HEAD} differs from {_EMBEDDING}, though the config ties them; mend the config")
                continue
            for part, shape, take in _split(name, shards.shapes[name], reference):
                self.entries[part] = Entry(part, shape, shards.dtypes[name])
                self._origin[part] = name, take

    def tensor(self, name: str) -> Tensor:
        origin, take = self._origin[name]
        # The parts of a stack follow each other: it is assembled once.
        if self._last is None or self._last[0] != origin:
            self._last = None
            self._last = origin, self._shards.tensor(origin)
        return take(self._last[1])


def _split(
    name: str, shape: tuple[int, ...], reference: dict[str, Entry] | None
) -> Iterator[tuple[str, tuple[int, ...], Callable[[Tensor], Tensor]]]:
    """Yield (name on disk, shape, how to take it) for a tensor in memory: itself, or one per expert and projection.

    [experts, 2 x width, hidden] is gate over up, as transformers' own conversion stacks them.
    """
    match = _STACK.fullmatch(name)
    if match is None or len(shape) != 3 or (reference is not None and name in reference):
        yield name, shape, lambda tensor: tensor
        return
    n_experts, rows, columns = shape
    for expert in range(n_experts):
        if match["kind"] == "down_proj":
            yield f"{match['layer']}.{expert}.down_proj.weight", (rows, columns), _taker(expert, 0, rows)
        else:
            half = rows // 2
            yield f"{match['layer']}.{expert}.gate_proj.weight", (half, columns), _taker(expert, 0, half)
            yield f"{match['layer']}.{expert}.up_proj.weight", (half, columns), _taker(expert, half, rows)


def _taker(expert: int, start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[expert, start:stop]
