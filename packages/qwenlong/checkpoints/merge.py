"""Merge of whole checkpoint directories: tensor by tensor, resumable file by file, whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from qwenlong.checkpoints import methods
from qwenlong.checkpoints.merge_state import State
from qwenlong.checkpoints.merge_work import Merger
from qwenlong.checkpoints.shard_file import ShardFile
from qwenlong.checkpoints.weights import (
    INDEX,
    MAX_FILE_BYTES,
    Entry,
    Weights,
    carry,
    compare_names,
    dtype_name,
    index_of,
    link_or_copy,
    plan_files,
    refuse,
)
from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.files import atomic_directory, atomic_file, dump_json, read_json, sha256_file

#: Written into the merged directory: coefficients and shares of every tensor, totals, digests of the weight files.
REPORT = "MERGE.json"


def merge_directories(
    base: Path,
    experts: Sequence[Path],
    out: Path,
    *,
    method: str = "sce",
    dtype: torch.dtype | None = None,
    state: Path | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    cores: int | None = None,
    device: str = "cpu",
    on_tensor: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Merge Hugging Face directories into `out`, which is whole or absent, and return the report.

    Args:
        base: directory the deltas are taken from; config, tokenizer and templates come from it too.
        experts: two or more directories with the same tensor names and shapes and the same vocabulary.
        out: directory to write; one that is there is replaced.
        method: one of `methods.METHODS`.
        dtype: of the merged weights; None keeps each tensor's dtype in `base`. It does not touch the arithmetic.
        state: directory for finished weight files, so that a killed merge of the same inputs and settings goes on
            after the last of them. One merge at a time per state directory. None: nothing is kept.
        max_file_bytes: size of a weight file.
        cores: threads; None: as many as this process may use. The bytes do not depend on it.
        device: "cpu", or where torch shall do the arithmetic ("cuda"): the same arithmetic, in float64.
        on_tensor: called with each tensor's name when it is merged or found finished.
        settings: of the method, see its `merge_tensor`.

    Memory: the inputs are memory-mapped and read in pieces, the output is written in pieces; on the CPU it does not
    grow with the model (methods other than SCE hold one merged tensor). Time grows linearly with the parameters.

    Tensors `experts.gate_up_proj` and `experts.down_proj` of three dimensions hold one matrix per expert of the MoE:
    each matrix is merged for itself, with its own coefficients. Tensors that are not floating must be equal
    everywhere and are kept.

    Raises DataError naming the tensor for missing, unexpected, misshapen or not finite tensors, and for vocabularies
    that differ; UsageError for settings that make no sense.
    """
    base, experts, out = Path(base), [Path(expert) for expert in experts], Path(out)
    settings = _check_settings(base, experts, out, method, settings)
    with ExitStack() as stack:
        models = [stack.enter_context(Weights(path)) for path in (base, *experts)]
        _check_models(models)
        merger = Merger(models, method, settings, cores=cores, device=device, on_tensor=on_tensor)
        entries = [entry.typed(dtype) for _, entry in sorted(models[0].entries.items())]
        files = plan_files(entries, max_file_bytes)
        named = {"method": method} | settings
        work = None if state is None else State(state, models, named, entries, max_file_bytes)
        known = {file: done for file in files if work is not None and (done := work.finished(file)) is not None}
        _check_space(
            out if work is None else work.folder, [e for f, group in files.items() if f not in known for e in group]
        )
        with atomic_directory(out) as partial:
            tensors: dict[str, Any] = {}
            digests: dict[str, str] = {}
            for file, group in files.items():
                done = known.get(file)
                if done is None:
                    target = partial / file if work is None else work.folder / file
                    with atomic_file(target) as unfinished:
                        with ShardFile(unfinished, group) as shard:
                            stats = merger.write(group, shard)
                        done = {"sha256": sha256_file(unfinished), "tensors": stats}
                    if work is not None:
                        work.finish(file, done)
                elif on_tensor is not None:
                    for entry in group:
                        on_tensor(entry.name)
                if work is not None:
                    link_or_copy(work.folder / file, partial / file)
                digests[file] = done["sha256"]
                tensors |= done["tensors"]
            main_dtype = next((entry.dtype for entry in entries if entry.dtype.is_floating_point), torch.float32)
            carry([base], partial, main_dtype)
            index = index_of(files)
            if index is not None:
                (partial / INDEX).write_text(dump_json(index), encoding="utf-8")
            report = _report(named, entries, len(experts), tensors, digests)
            (partial / REPORT).write_text(dump_json(report), encoding="utf-8")
        if work is not None:
            work.remove()
    return report


def _check_settings(
    base: Path, experts: Sequence[Path], out: Path, method: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    resolved = methods.resolve(method, settings, len(experts))
    if out.resolve() in {path.resolve() for path in (base, *experts)}:
        raise UsageError(f"--out {out} is one of the inputs; write to another directory")
    return resolved


def _check_space(target: Path, entries: Sequence[Entry]) -> None:
    """Refuse what cannot end well before it begins. Others may write meanwhile: a full disk is still told of later."""
    folder = next(path for path in (target, *target.absolute().parents) if path.is_dir())
    wanted, free = sum(entry.nbytes for entry in entries), shutil.disk_usage(folder).free
    if wanted > free:
        raise QwenlongError(
            f"{target} needs {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there; "
            "free space on that file system or choose another, and run the same command again"
        )


def _check_models(models: Sequence[Weights]) -> None:
    base = models[0]
    tied = bool(base.config().get("tie_word_embeddings"))
    for number, model in enumerate(models[1:], 1):
        where, like = f"expert {number} ({model.directory.name})", f"base ({base.directory.name})"
        if tied and "lm_head.weight" not in base.entries:
            # A copy of the embedding that some writers store although the config ties them.
            model.entries.pop("lm_head.weight", None)
        refuse(
            compare_names(base.entries, model.entries, where, like)
            + [
                f"{name} has dtype {model.entries[name].dtype} in {where}, {entry.dtype} in {like}"
                for name, entry in base.entries.items()
                if name in model.entries
                and entry.dtype != model.entries[name].dtype
                and not (entry.dtype.is_floating_point and model.entries[name].dtype.is_floating_point)
            ],
            "merge checkpoints of one architecture and one vocabulary",
        )
        fault = vocabulary_fault(base.directory, model.directory)
        if fault:
            raise DataError(f"vocabulary mismatch between {like} and {where}: {fault}; merge models of one tokenizer")


def vocabulary_fault(first: Path, second: Path) -> str | None:
    """Return how the vocabularies of two directories differ, None when they do not or one has no tokenizer.json."""
    if not ((first / "tokenizer.json").exists() and (second / "tokenizer.json").exists()):
        return None
    left, right = _vocabulary(first / "tokenizer.json"), _vocabulary(second / "tokenizer.json")
    for word in sorted(left.keys() | right.keys()):
        if left.get(word) != right.get(word):
            return f"token {word!r} is {left.get(word, 'absent')} in one and {right.get(word, 'absent')} in the other"
    return None


def _vocabulary(path: Path) -> dict[str, int]:
    content = read_json(path)
    try:
        words = content["model"].get("vocab", {})
        table = {entry[0]: number for number, entry in enumerate(words)} if isinstance(words, list) else dict(words)
        for token in content.get("added_tokens", []):
            table[token["content"]] = token["id"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no tokenizer ({error!r}); copy it from the model that was trained") from error
    return table


def _report(
    settings: dict[str, Any], entries: Sequence[Entry], n_experts: int, tensors: dict[str, Any], digests: dict[str, str]
) -> dict[str, Any]:
    parts = [part for stats in tensors.values() for part in stats.get("matrices", [stats]) if "coefficients" in part]
    elements = sum(part["elements"] for part in parts)

    def mean(values: Sequence[float]) -> float:
        weighted = (part["elements"] * value for part, value in zip(parts, values, strict=True))
        return sum(weighted) / elements if elements else 0.0

    return settings | {
        "experts": n_experts,
        "tensors": {name: tensors[name] for name in sorted(tensors)},
        "total": {
            "tensors": len(entries),
            "matrices": len(parts),
            "parameters": sum(entry.elements for entry in entries),
            "dtypes": sorted({dtype_name(entry.dtype) for entry in entries}),
            "coefficients": [mean([part["coefficients"][number] for part in parts]) for number in range(n_experts)],
            "selected": mean([part["selected"] for part in parts]),
            "erased": mean([part["erased"] for part in parts]),
            "reverted": mean([part["reverted"] for part in parts]),
        },
        "files": digests,
    }
