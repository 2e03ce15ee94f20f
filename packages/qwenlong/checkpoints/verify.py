"""Verification of a checkpoint directory: files, names, shapes, dtypes, values, and the distance to a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.checkpoints import architecture, experts, integrity
from qwenlong.checkpoints.architecture import EMBEDDING, HEAD
from qwenlong.checkpoints.distance import Distance
from qwenlong.checkpoints.experts import Part, Parts
from qwenlong.checkpoints.merge import vocabulary_fault
from qwenlong.checkpoints.weights import Entry, Weights, dtype_name

#: Elements read at a time.
PIECE = 1 << 20


def verify(
    directory: Path,
    like: Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    on_tensor: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return what a checkpoint holds and what is wrong with it.

    Args:
        directory: a Hugging Face directory.
        like: a directory of the same architecture, in either view of experts: names, shapes, vocabulary and the
            distance are taken against it. Without it names and shapes are held against the model that config.json
            describes, or against its counts where transformers does not know that model.
        dtype: that all floating weights must have; None: they must have one dtype, that of config.json if it says so
            (a tensor may have the dtype that it has in a `like` of mixed dtypes).
        on_tensor: called with the name of each tensor read.

    The report: `faults` (sentences; empty when all is well), `tensors`, `parameters`, `dtypes`, `experts` (the view),
    `checked_against` (reference, architecture or counts), `digests` (weight files whose SHA-256 was held against
    CONVERT.json or MERGE.json), `zero_rows` (rows of matrices that are all zero), and with `like` `distance`: relative
    L2 norm and largest absolute difference of all weights, the number of tensors that are unchanged, and the L2 norm
    of the difference by tensor. Tensors are read expert by expert, in pieces of `PIECE` elements.

    Faults are: files that are cut short, mislaid or not those of the report beside them; missing, unexpected or
    misshapen tensors; an output layer that is missing, or is tied and differs; NaN or infinite values; matrices that
    are all zero; rows of zeros where the reference has none; dtypes other than wanted; another vocabulary. With files
    that cannot be read the other checks are left out. Raises DataError when config.json or `like` cannot be read.
    """
    files = integrity.examine(directory)
    if files.broken:
        return {"faults": files.broken + files.faults, "tensors": 0, "parameters": 0, "dtypes": [], "experts": None,
                "checked_against": None, "digests": files.n_digests, "zero_rows": 0}  # fmt: skip
    with ExitStack() as stack:
        weights = stack.enter_context(Weights(directory))
        config = weights.config()
        reference = stack.enter_context(Weights(like)) if like is not None else None
        others = reference.entries if reference is not None else None
        naming = experts.naming_of(config.get("model_type"), *([others] if others else []), weights.entries)

        def parts_of(entries: Mapping[str, Entry]) -> Parts:
            return experts.as_is(entries) if naming is None else experts.split(entries, naming)

        # By name, whichever file a tensor lies in.
        mine = parts_of(dict(sorted(weights.entries.items())))
        theirs = parts_of(others) if others is not None else None
        faults = list(files.faults)
        if theirs is not None and like is not None:
            against = "reference"
            names = architecture.name_faults(config, _entries(theirs), _entries(mine), directory.name, like.name)
            fault = vocabulary_fault(like, directory)
            names += [f"vocabulary differs from {like.name}: {fault}"] if fault else []
        else:
            built = architecture.expected(config)
            against = "counts" if built is None else "architecture"
            names = []
            if built is not None:
                wanted, described = _entries(parts_of(built)), "the model of its config.json"
                names = architecture.name_faults(config, wanted, _entries(mine), directory.name, described)
        faults += names or architecture.count_faults(config, _entries(mine))
        faults += _dtype_faults(weights.entries, config, dtype, others)
        faults += _tied_faults(weights, config, mine, theirs)
        values = _Values(weights, reference)
        for number, (name, part) in enumerate(last := list(mine.items()), 1):
            values.examine(part, None if theirs is None else theirs.get(name))
            origin = part.segments[0].origin
            if on_tensor is not None and (number == len(last) or last[number][1].segments[0].origin != origin):
                on_tensor(origin)
        report: dict[str, Any] = {
            "faults": faults + values.faults,
            "tensors": len(weights.entries),
            "parameters": weights.n_parameters,
            "dtypes": sorted({dtype_name(entry.dtype) for entry in weights.entries.values()}),
            "experts": experts.view_of(weights.entries.values()),
            "checked_against": against,
            "digests": files.n_digests,
            "zero_rows": values.zero_rows,
        }
        return report if reference is None else report | {"distance": values.distance.report()}


def _entries(parts: Parts) -> dict[str, Entry]:
    return {name: part.entry for name, part in parts.items()}


def _dtype_faults(
    entries: Mapping[str, Entry],
    config: Mapping[str, Any],
    dtype: torch.dtype | None,
    others: Mapping[str, Entry] | None,
) -> list[str]:
    floats = {name: entry.dtype for name, entry in entries.items() if entry.dtype.is_floating_point}
    if dtype is not None:
        wanted, source = dtype, "the option asks for"
    else:
        stated = config.get("dtype", config.get("torch_dtype"))
        known = {dtype_name(value): value for value in floats.values()}
        if isinstance(stated, str) and floats:
            if stated not in known:
                return [f"config.json says {stated}, the weights are {', '.join(sorted(known))}"]
            wanted, source = known[stated], "config.json says"
        elif len(known) > 1:
            return [f"the weights mix dtypes ({', '.join(sorted(known))}) and config.json names none"]
        else:
            return []
    wrong = sorted(name for name, value in floats.items() if value != wanted)
    if dtype is None and others is not None and len({entry.dtype for entry in others.values()}) > 1:
        # Some families keep a few tensors, such as biases of the router, in float32 always.
        wrong = [name for name in wrong if name not in others or others[name].dtype != floats[name]]
    if not wrong:
        return []
    return [f"{len(wrong)} tensors are not {dtype_name(wanted)}, as {source}; the first is {wrong[0]}"]


def _tied_faults(weights: Weights, config: Mapping[str, Any], mine: Parts, theirs: Parts | None) -> list[str]:
    if config.get("tie_word_embeddings") is None and not config.get("model_type"):
        return []
    tied = architecture.is_tied(config)
    if tied and HEAD in mine and EMBEDDING in mine:
        head, embedding = mine[HEAD], mine[EMBEDDING]
        same = head.entry.shape == embedding.entry.shape and all(
            torch.equal(left, right.to(left.dtype))
            for left, right in zip(_pieces(weights, head), _pieces(weights, embedding), strict=True)
        )
        return [] if same else [f"{HEAD} differs from {EMBEDDING}, though config.json ties them: loaders drop one"]
    causal = any("ForCausalLM" in str(name) for name in config.get("architectures") or ())
    told = theirs is not None and HEAD in theirs
    if not tied and causal and HEAD not in mine and EMBEDDING in mine and not told:
        return [f"{HEAD} is missing, and config.json does not tie it to {EMBEDDING}: loaders would draw it at random"]
    return []


def _pieces(weights: Weights, part: Part) -> Iterator[Tensor]:
    """Yield a part of one segment by rows, in pieces that depend on its shape alone."""
    (segment,) = part.segments
    shape = part.entry.shape
    n_rows = shape[0] if shape else 1
    height = max(1, PIECE // max(1, part.entry.elements // max(1, n_rows)))
    for start in range(0, n_rows, height):
        low, high = segment.start + start, segment.start + min(start + height, n_rows)
        if segment.expert is None:
            yield weights.rows(segment.origin, low, high)
        else:
            yield weights.rows(segment.origin, segment.expert, segment.expert + 1)[0, low:high]


class _Values:
    """Reads tensors beside those of the reference: faults of values, rows of zeros, the distance."""

    def __init__(self, weights: Weights, reference: Weights | None) -> None:
        self._weights, self._reference = weights, reference
        self.faults: list[str] = []
        self.zero_rows = 0
        self.distance = Distance()

    def examine(self, part: Part, other: Part | None) -> None:
        """Read a tensor, and that of the reference if there is one of this shape."""
        entry = part.entry
        name = entry.name
        if not entry.dtype.is_floating_point or not entry.elements:
            return
        theirs: Iterator[Tensor] | None = None
        if self._reference is not None and other is not None and other.entry.shape == entry.shape:
            theirs = _pieces(self._reference, other)
        bad = bad_rows = zero = new_zero = rows = 0
        blank_reference, comparable = True, theirs is not None
        for piece in _pieces(self._weights, part):
            flat = piece.reshape(-1, piece.shape[-1]) if piece.dim() > 1 else piece.reshape(1, -1)
            finite = torch.isfinite(flat)
            if not bool(finite.all()):
                bad += finite.numel() - int(finite.sum())
                bad_rows += int((~finite.all(dim=1)).sum())
            reference = None if theirs is None else next(theirs).reshape(flat.shape)
            if reference is not None and not bool(torch.isfinite(reference).all()):
                comparable = False
            blank = ~flat.any(dim=1)
            rows, zero = rows + len(blank), zero + int(blank.sum())
            if reference is not None:
                empty = ~reference.any(dim=1)
                blank_reference = blank_reference and bool(empty.all())
                new_zero += int((blank & ~empty).sum())
                if comparable and not bad:
                    self.distance.add(name, flat, reference)
        if bad or not comparable:
            self.distance.drop(name)
        if bad:
            where = f", in {bad_rows} rows of {rows}" if len(entry.shape) > 1 else ""
            self.faults.append(f"{name} has {bad} values of {entry.elements} that are NaN or infinite{where}")
            return
        if theirs is not None and not comparable:
            self.faults.append(f"{name} of the reference cannot be compared with: it is not finite")
        if len(entry.shape) < 2:
            return
        self.zero_rows += zero
        if zero == rows:
            if theirs is None or not blank_reference:
                self.faults.append(f"{name} is zero throughout")
        elif theirs is not None and new_zero:
            self.faults.append(f"{name} has {new_zero} rows of zeros where the reference has none")
