"""Names of experts: one tensor per expert and projection on disk ("split"), one stack per layer in memory ("stacked").

transformers 5 holds the experts of a layer as `experts.gate_up_proj` [experts, 2 x width, hidden], gate over up, and
`experts.down_proj` [experts, hidden, width]; transformers 4, vLLM and published checkpoints have
`experts.<n>.gate_proj.weight` and so on. Both views hold the same bytes in another order, so a change of view is a list
of ranges to copy (`Segment`), and there and back is the identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from qwenlong.checkpoints.weights import Entry
from qwenlong.core.errors import DataError

SPLIT, STACKED = "split", "stacked"
_STACK = re.compile(r"(?P<block>.*\.experts)\.(?P<kind>gate_up_proj|down_proj)")
_EXPERT = re.compile(r"(?P<block>.*\.experts)\.(?P<number>\d+)\.(?P<projection>\w+)\.weight")


@dataclass(frozen=True)
class Naming:
    """How a family names the projections of an expert on disk, and which parts of names differ from those in memory."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    moved: tuple[str, str] | None = None

    def on_disk(self, name: str) -> str:
        """Return the name on disk of a tensor that is no stack."""
        return name.replace(self.moved[1], self.moved[0]) if self.moved else name

    def in_memory(self, name: str) -> str:
        """Return the name in memory of a tensor that is no expert's."""
        return name.replace(self.moved[0], self.moved[1]) if self.moved else name


_GATE_UP_DOWN = Naming()
_W123 = Naming("w1", "w3", "w2")
_MIXTRAL = replace(_W123, moved=(".block_sparse_moe.", ".mlp."))
#: By model_type: the families that transformers 5 stacks as above. A test holds the table against its own mapping.
NAMINGS: dict[str, Naming] = dict.fromkeys(
    (
        "qwen2_moe", "qwen3_moe", "qwen3_next", "olmoe", "flex_olmo", "deepseek_v2", "deepseek_v3", "dots1",
        "glm4_moe", "glm4_moe_lite", "hunyuan_v1_moe", "solar_open", "jamba",
    ),
    _GATE_UP_DOWN,
) | {"mixtral": _MIXTRAL, "minimax": _MIXTRAL, "lfm2_moe": _W123}  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """Rows [start, stop) of a source tensor or, with `expert`, of one matrix of a stack."""

    origin: str
    start: int
    stop: int
    expert: int | None = None


@dataclass(frozen=True)
class Part:
    """A tensor to make: its entry, and the segments whose row-major bytes, one after the other, it is."""

    entry: Entry
    segments: tuple[Segment, ...]


Parts = dict[str, Part]


def is_stack(entry: Entry) -> bool:
    """Whether a tensor is a stack of experts."""
    return len(entry.shape) == 3 and _STACK.fullmatch(entry.name) is not None


def view_of(names: Iterable[Entry]) -> str | None:
    """Return "stacked", "split" or None for tensors without experts."""
    found = list(names)
    if any(map(is_stack, found)):
        return STACKED
    return SPLIT if any(_EXPERT.fullmatch(entry.name) for entry in found) else None


def naming_of(model_type: object, *directories: Mapping[str, Entry]) -> Naming | None:
    """Return the naming of a model type, or that which the names in the directories show; None when neither tells."""
    if isinstance(model_type, str) and model_type in NAMINGS:
        return NAMINGS[model_type]
    for entries in directories:
        used = {match["projection"] for name in entries if (match := _EXPERT.fullmatch(name))}
        for naming in (_GATE_UP_DOWN, _MIXTRAL if any(".block_sparse_moe." in n for n in entries) else _W123):
            if used == {naming.gate, naming.up, naming.down}:
                return naming
    return None


def as_is(entries: Mapping[str, Entry]) -> Parts:
    """Return every tensor under its own name."""
    return {name: Part(entry, (_whole(entry),)) for name, entry in entries.items()}


def split(entries: Mapping[str, Entry], naming: Naming) -> Parts:
    """Return the parts of the split view, under the names on disk. Raises DataError for a gate_up stack of odd rows."""
    parts: Parts = {}
    for entry in entries.values():
        match = _STACK.fullmatch(entry.name) if is_stack(entry) else None
        if match is None:
            _add(parts, naming.on_disk(entry.name), entry.shape, entry, (_whole(entry),))
            continue
        n_experts, rows, columns = entry.shape
        gated = match["kind"] == "gate_up_proj"
        if gated and rows % 2:
            raise DataError(f"{entry.name} has {rows} rows per expert, which are no gate and up; it is damaged")
        names = (naming.gate, naming.up) if gated else (naming.down,)
        height = rows // len(names)
        for expert in range(n_experts):
            for number, projection in enumerate(names):
                name = naming.on_disk(f"{match['block']}.{expert}.{projection}.weight")
                segment = Segment(entry.name, number * height, (number + 1) * height, expert)
                _add(parts, name, (height, columns), entry, (segment,))
    return parts


def stack(entries: Mapping[str, Entry], naming: Naming) -> Parts:
    """Return the parts of the stacked view, under the names in memory.

    Raises DataError naming the tensor when an expert is missing or differs from the first in shape or dtype.
    """
    parts: Parts = {}
    blocks: dict[str, set[int]] = {}
    for entry in entries.values():
        match = _EXPERT.fullmatch(entry.name)
        if match is None or match["projection"] not in (naming.gate, naming.up, naming.down):
            _add(parts, naming.in_memory(entry.name), entry.shape, entry, (_whole(entry),))
        else:
            blocks.setdefault(match["block"], set()).add(int(match["number"]))
    for block, numbers in blocks.items():
        for kind, projections in (("gate_up_proj", (naming.gate, naming.up)), ("down_proj", (naming.down,))):
            members: list[Entry] = []
            for number in range(max(numbers) + 1):
                for projection in projections:
                    name = f"{block}.{number}.{projection}.weight"
                    if name not in entries:
                        raise DataError(f"{name} is missing, though {block} has {max(numbers) + 1} experts; it is lost")
                    members.append(entries[name])
            first = members[0]
            for member in members:
                if (member.shape, member.dtype) != (first.shape, first.dtype) or len(member.shape) != 2:
                    raise DataError(
                        f"{member.name} {list(member.shape)} {member.dtype} cannot be stacked with {first.name} "
                        f"{list(first.shape)} {first.dtype}; the experts of a layer must be alike"
                    )
            shape = (max(numbers) + 1, len(projections) * first.shape[0], first.shape[1])
            name = naming.in_memory(f"{block}.{kind}")
            _add(parts, name, shape, first, tuple(map(_whole, members)))
    return parts


def _whole(entry: Entry) -> Segment:
    return Segment(entry.name, 0, entry.shape[0] if entry.shape else 1)


def _add(parts: Parts, name: str, shape: tuple[int, ...], source: Entry, segments: tuple[Segment, ...]) -> None:
    if name in parts:
        raise DataError(f"{name} is there twice, stacked and by expert ({source.name}); remove the stale one")
    parts[name] = Part(Entry(name, shape, source.dtype), segments)
