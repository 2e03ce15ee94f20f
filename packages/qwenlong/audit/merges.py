"""Reading MERGE.json: what a merge did, by layer and module. Numbers are the file's, or medians and means of them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qwenlong.core.config import MergeConfig
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json, sha256_file

REPORT = "MERGE.json"
SHARES = ("selected", "erased", "reverted")
#: What merge reports have beside settings.
_PARTS = {"experts", "tensors", "total", "files", "method"}
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(?:\d+\.)?")
#: Module by a part of the name, the first that fits; {} is "experts" or "MLP".
_MODULES = (
    (re.compile(r"norm|\.ln_|layernorm"), "norms"),
    (re.compile(r"\.bias$"), "biases"),
    (re.compile(r"embed|\.wte\."), "embedding"),
    (re.compile(r"lm_head"), "head"),
    (re.compile(r"\.(?:mlp|block_sparse_moe)\.(?:gate|router)\."), "router"),
    (re.compile(r"qkv_proj"), "attention qkv"),
    (re.compile(r"\.([qkvo])_proj"), "attention {}"),
    (re.compile(r"gate_up_proj"), "{} gate, up"),
    (re.compile(r"\.(gate|up|down)_proj"), "{} {}"),
)
#: Modules in the order in which a layer applies them.
ORDER = (
    "embedding",
    "norms",
    *(f"attention {name}" for name in ("qkv", "q", "k", "v", "o")),
    "router",
    *(f"{kind} {name}" for kind in ("MLP", "experts") for name in ("gate, up", "gate", "up", "down")),
    "biases",
    "other",
    "head",
)


@dataclass(frozen=True)
class Part:
    """One tensor, or one matrix of stacked experts."""

    module: str
    layer: int | None
    elements: int
    coefficients: tuple[float, ...]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """Parts of one module, of one layer or of all: coefficients as (lowest, median, highest) per expert, mean shares.

    Means weigh by elements, medians count parts. `layer` is none for a module as a whole.
    """

    module: str
    layer: int | None
    parts: int
    elements: int
    coefficients: tuple[tuple[float, float, float], ...]
    shares: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the group for tables.json."""
        return {
            "module": self.module,
            "layer": self.layer,
            "parts": self.parts,
            "elements": self.elements,
            "coefficients": [list(values) for values in self.coefficients],
            **self.shares,
        }


@dataclass(frozen=True)
class MergeReport:
    """What a MERGE.json says. `file` is its path in the results folder, `digest` its SHA-256."""

    file: str
    digest: str
    method: str
    settings: Mapping[str, Any]
    experts: tuple[str, ...]
    total: Mapping[str, Any]
    parts: tuple[Part, ...]
    kept: int
    """Tensors that are not floating, kept as they are."""

    def by_module(self) -> list[Group]:
        """Return a group per module, in the order of a layer."""
        return [_group(module, None, parts) for module, parts in _sorted(self.parts)]

    def by_layer(self) -> list[Group]:
        """Return a group per module and layer; parts outside of layers are left out."""
        found = []
        for module, parts in _sorted(self.parts):
            layers: dict[int, list[Part]] = {}
            for part in parts:
                if part.layer is not None:
                    layers.setdefault(part.layer, []).append(part)
            found += [_group(module, layer, layers[layer]) for layer in sorted(layers)]
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the report for tables.json."""
        return {
            "file": self.file,
            "sha256": self.digest,
            "method": self.method,
            "settings": dict(self.settings),
            "experts": list(self.experts),
            "total": dict(self.total),
            "modules": [group.as_json() for group in self.by_module()],
        }


def read(results: Path, folder: str) -> MergeReport | None:
    """Read the merge report of a model folder of `results`; none when it is not there.

    Raises DataError naming the file when it is something else.
    """
    file = results / folder / REPORT
    if not file.is_file():
        return None
    value = read_json(file)
    try:
        n_experts = int(value["experts"])
        parts, kept = [], 0
        for name, stats in sorted(value["tensors"].items()):
            if stats.get("kept"):
                kept += 1
                continue
            parts += [_part(name, part, n_experts) for part in stats.get("matrices", [stats])]
        total = {name: value["total"][name] for name in ("tensors", "matrices", "parameters", "coefficients", *SHARES)}
        return MergeReport(
            f"{folder}/{REPORT}",
            sha256_file(file),
            str(value["method"]),
            {name: setting for name, setting in sorted(value.items()) if name not in _PARTS and setting is not None},
            _experts(results / folder, n_experts),
            total,
            tuple(parts),
            kept,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is no report of `qwenlong checkpoint merge` ({error!r}); merge again") from error


def module_of(name: str) -> str:
    """Return the kind of module that a tensor belongs to, one of `ORDER`, by its name."""
    kind = "experts" if _EXPERT.search(name) else "MLP"
    for pattern, module in _MODULES:
        found = pattern.search(name)
        if found:
            module = module.format(*([kind] if module.count("{}") > len(found.groups()) else []), *found.groups())
            return module if module in ORDER else "other"
    return "other"


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor belongs to, none for the embedding, the head and the last norm."""
    found = _LAYER.search(name)
    return None if found is None else int(found[1])


def described(section: MergeConfig) -> str:
    """Return a merge's section of the configuration in words: method, settings, base."""
    words = [f"{name} {shown(value)}" for name, value in section.settings().items()]
    return f"{section.method}, {', '.join([*words, f'from {section.base}'])}"


def shown(value: Any) -> str:
    """Return the value of a setting in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _part(name: str, stats: Mapping[str, Any], n_experts: int) -> Part:
    coefficients = tuple(map(float, stats["coefficients"]))
    if len(coefficients) != n_experts:
        raise ValueError(f"{name} has {len(coefficients)} coefficients for {n_experts} experts")
    shares = {share: float(stats[share]) for share in SHARES}
    return Part(module_of(name), layer_of(name), int(stats["elements"]), coefficients, shares)


def _experts(folder: Path, n_experts: int) -> tuple[str, ...]:
    """Return the experts' names: of the folders that the sidecar names, else numbers."""
    file = folder / "provenance.json"
    inputs = read_json(file).get("inputs", {}) if file.is_file() else {}
    names = []
    for number in range(1, n_experts + 1):
        path = inputs.get(f"expert_{number}", {}).get("path", "")
        names.append(PurePosixPath(path).name or f"expert {number}")
    # Two folders of one name would be told apart by nothing.
    return tuple(names) if len(set(names)) == n_experts else tuple(f"expert {n}" for n in range(1, n_experts + 1))


def _sorted(parts: Sequence[Part]) -> Iterator[tuple[str, list[Part]]]:
    for module in ORDER:
        members = [part for part in parts if part.module == module]
        if members:
            yield module, members


def _group(module: str, layer: int | None, parts: Sequence[Part]) -> Group:
    elements = sum(part.elements for part in parts)
    columns = list(zip(*(part.coefficients for part in parts), strict=True))
    return Group(
        module,
        layer,
        len(parts),
        elements,
        tuple((min(column), statistics.median(column), max(column)) for column in columns),
        {
            share: sum(part.elements * part.shares[share] for part in parts) / elements if elements else 0.0
            for share in SHARES
        },
    )
