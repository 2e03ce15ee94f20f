"""Conversion of a checkpoint to a Hugging Face directory, piece by piece: memory is bounded by one expert's matrix."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints import architecture, experts
from qwenlong.checkpoints.architecture import EMBEDDING, HEAD
from qwenlong.checkpoints.compat import readable_by_older
from qwenlong.checkpoints.experts import Naming, Part, Parts
from qwenlong.checkpoints.preflight import check_out
from qwenlong.checkpoints.sources import FSDP, Source, find
from qwenlong.checkpoints.weights import (
    INDEX,
    MAX_FILE_BYTES,
    Entry,
    Weights,
    carry,
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
#: Elements read at a time.
PIECE = 1 << 20


def convert(
    source: Path,
    out: Path,
    *,
    like: Path | None = None,
    dtype: torch.dtype | None = None,
    view: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    on_tensor: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Convert the checkpoint at or under `source` into the directory `out`, whole or absent; return the report.

    Args:
        source: what `sources.find` takes: verl's shards or a directory above them, or a Hugging Face directory.
        out: directory to write; one that is there is replaced.
        like: a Hugging Face directory of the same architecture, such as the base model, in either view of experts.
            Names, shapes and parameter count are checked against it, and config, tokenizer and templates come from
            it. Without it they come from the checkpoint, and names and shapes are those of the model that
            config.json describes, or its counts of layers, experts and words where transformers does not know it.
        dtype: of the floating weights written. None: float32 from shards, as stored from a Hugging Face directory.
        view: "split" (one tensor per expert and projection) or "stacked" (one per layer). None: that of `like`,
            else "split".
        max_file_bytes: size of a weight file.
        on_tensor: called with the name of each tensor written.

    Memory: the input is memory-mapped; `PIECE` elements or one expert's matrix are held at a time. What a conversion
    to `out` that was killed left there is removed.

    Raises DataError naming the file or tensor: ranks missing, a shard that cannot be read or holds anything but
    tensors, shards that do not add up to the tensor's shape, NaN or infinite values, names or shapes unlike those
    wanted; UsageError for an output that is an input, and for a view that the family has not.
    """
    source, out = Path(source), Path(out)
    check_out(out, {}, "OUT")
    found = find(source)
    inputs = {found.folder.resolve(), source.resolve(), *([like.resolve()] if like else [])}
    if out.resolve() in inputs or any(out.resolve() in path.parents for path in inputs):
        raise UsageError(f"{out} is an input of the conversion, or holds one; write to another directory")
    folders = [path for path in (like, found.model) if path is not None and path.is_dir()]
    config = _config(folders)
    with ExitStack() as stack:
        partial = stack.enter_context(atomic_directory(out))
        # Of no use when it is read, and gone with the rest when this process is killed.
        merged = partial / ".merged"
        stack.callback(shutil.rmtree, merged, ignore_errors=True)
        tensors, world_size = stack.enter_context(found.open(merged))
        reference: dict[str, Entry] | None = None
        if like is not None:
            reference = dict(stack.enter_context(Weights(like)).entries)
        tied = architecture.is_tied(config)
        parts, shown = plan(tensors, config, reference, view, tied)
        against = check(parts, tensors.entries, config, reference, "the checkpoint", str(like))
        wanted = torch.float32 if dtype is None and found.kind == FSDP else dtype
        entries = [part.entry.typed(wanted) for _, part in sorted(parts.items())]
        files = plan_files(entries, max_file_bytes)

        def produce(entry: Entry) -> Iterator[Tensor]:
            yield from pieces(tensors, parts[entry.name], entry.dtype)
            if on_tensor is not None:
                on_tensor(entry.name)

        digests = {file: write_file(partial / file, group, produce) for file, group in files.items()}
        carry(folders, partial, wanted)
        _keep_readable(partial / "config.json", wanted)
        index = index_of(files)
        if index is not None:
            (partial / INDEX).write_text(dump_json(index), encoding="utf-8")
        report = {
            "format": found.kind,
            "world_size": world_size,
            "dtypes": sorted({dtype_name(entry.dtype) for entry in entries}),
            "experts": shown,
            "tensors": len(entries),
            "parameters": sum(entry.elements for entry in entries),
            "tied": tied,
            "checked_against": against,
            "files": digests,
        }
        (partial / REPORT).write_text(dump_json(report), encoding="utf-8")
    return report


def plan(
    source: Source,
    config: Mapping[str, Any],
    reference: Mapping[str, Entry] | None,
    view: str | None,
    tied: bool,
) -> tuple[Parts, str | None]:
    """Return the tensors to write and the view of experts that they are in, None without experts.

    A tied output layer is left out, unless `reference` has it. Raises DataError when it differs from the embedding,
    UsageError for a view that cannot be made.
    """
    entries = dict(source.entries)
    if tied and HEAD in entries and EMBEDDING in entries and (reference is None or HEAD not in reference):
        # Stored once on disk. Were they different, the model in memory was not tied after all.
        if not _equal(source, entries[HEAD], entries[EMBEDDING]):
            raise DataError(f"{HEAD} differs from {EMBEDDING}, though the config ties them; mend the config")
        del entries[HEAD]
    there = experts.view_of(entries.values())
    naming = experts.naming_of(config.get("model_type"), *([reference] if reference else []), entries)
    wanted = view
    if wanted is None:
        wanted = (experts.view_of(reference.values()) if reference is not None else None) or experts.SPLIT
    if naming is not None:
        make = experts.stack if wanted == experts.STACKED else experts.split
        return make(entries, naming), wanted if there else None
    if there is None or there == wanted:
        return experts.as_is(entries), there
    kind = config.get("model_type")
    if view is not None:
        raise UsageError(f"--experts {view}: how model_type {kind!r} names its experts {view} is not known here")
    raise DataError(
        f"model_type {kind!r} has {there} experts whose names {wanted} are not known here; give --like, the directory "
        f"of the model that was trained, or --experts {there}"
    )


def check(
    parts: Parts,
    stored: Mapping[str, Entry],
    config: Mapping[str, Any],
    reference: Mapping[str, Entry] | None,
    where: str,
    like: str,
) -> str:
    """Refuse parts whose names or shapes are not those wanted; return what they were held against.

    That is "reference", else "architecture" (the model that config.json describes), else "counts". Views of experts do
    not matter: both sides are compared expert by expert.
    """
    naming = experts.naming_of(config.get("model_type"), *([reference] if reference else []), stored)
    found = by_expert({name: part.entry for name, part in parts.items()}, naming)
    against, remedy = "reference", "give as --like the model that the training started from"
    wanted = reference
    if wanted is None:
        wanted = architecture.expected(config)
        against, like = "architecture", "the model that config.json describes"
        remedy = "give the model that was trained as --like"
    if wanted is None:
        refuse(architecture.count_faults(config, found), "the checkpoint is not whole, or config.json not its own")
        return "counts"
    refuse(architecture.name_faults(config, by_expert(wanted, naming), found, where, like), remedy)
    return against


def by_expert(entries: Mapping[str, Entry], naming: Naming | None) -> dict[str, Entry]:
    """Return the entries expert by expert, under the names on disk; as they are where the naming is not known."""
    if naming is None:
        return dict(entries)
    return {name: part.entry for name, part in experts.split(entries, naming).items()}


def pieces(source: Source, part: Part, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield a part in row-major order, in pieces of `dtype`. Raises DataError for values that are not finite in it."""
    name = part.entry.name
    for segment in part.segments:
        for piece in _read(source, segment):
            if piece.is_floating_point() and not bool(torch.isfinite(piece).all()):
                raise DataError(f"{name} has NaN or infinite values; resume the training from an earlier checkpoint")
            converted = piece.to(dtype)
            if piece.is_floating_point() and piece.dtype != dtype and not bool(torch.isfinite(converted).all()):
                raise DataError(f"{name} overflows {dtype_name(dtype)}; convert to float32 or bfloat16")
            yield converted


def _read(source: Source, segment: experts.Segment) -> Iterator[Tensor]:
    if segment.expert is not None:
        yield source.rows(segment.origin, segment.expert, segment.expert + 1)[0, segment.start : segment.stop]
        return
    entry = source.entries[segment.origin]
    height = max(1, PIECE // max(1, entry.elements // max(1, entry.shape[0] if entry.shape else 1)))
    for start in range(segment.start, segment.stop, height):
        yield source.rows(segment.origin, start, min(start + height, segment.stop))


def _equal(source: Source, left: Entry, right: Entry) -> bool:
    if left.shape != right.shape:
        return False
    whole = [experts.Segment(entry.name, 0, entry.shape[0]) for entry in (left, right)]
    return all(torch.equal(a, b) for a, b in zip(_read(source, whole[0]), _read(source, whole[1]), strict=True))


def _keep_readable(file: Path, dtype: torch.dtype | None) -> None:
    config = read_json(file)
    if dtype is not None:
        # Where both names are, both must say it.
        config |= {key: dtype_name(dtype) for key in ("dtype", "torch_dtype") if key in config}
    file.write_text(dump_json(readable_by_older(config)), encoding="utf-8")


def _config(folders: Sequence[Path]) -> dict[str, Any]:
    for folder in folders:
        if (folder / "config.json").is_file():
            config = read_json(folder / "config.json")
            if isinstance(config, dict):
                return config
    raise DataError("no config.json beside the checkpoint; give --like, the directory of the model that was trained")
