"""How each model came about: the digests of its sidecar, and whether each input is what an earlier stage wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwenlong.core.config import MODELS


@dataclass(frozen=True)
class Input:
    """An input as recorded. `made_by` is the recorded output of the same digest, none when there is none here."""

    name: str
    path: str
    digest: str
    made_by: str | None


@dataclass(frozen=True)
class Link:
    """One output of the chain, with short digests."""

    output: str
    digest: str
    inputs: tuple[Input, ...]
    config: str
    code: str
    commit: str | None
    seed: int
    mlflow_run_id: str | None
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the link for tables.json."""
        return asdict(self)


def _short(path: str, results: Path, shown: str) -> str:
    """Return a recorded path without the folders of the machine that wrote it."""
    for root in (str(results), str(results.resolve()), shown):
        if path == root or path.startswith(root + "/"):
            return path[len(root) + 1 :]
    return path if not Path(path).is_absolute() else Path(path).name


def links(sidecars: Mapping[Path, Mapping[str, Any]], results: Path, shown: str) -> list[Link]:
    """Return the models in the order of the recipe, each after the outputs under `results` it was made from."""
    names = {output: output.relative_to(results).as_posix() for output in sidecars}
    by_digest = {value["output"]["digest"]: output for output, value in sidecars.items()}
    found: dict[Path, Link] = {}
    entered: set[Path] = set()

    def add(output: Path) -> None:
        if output in entered:
            return
        entered.add(output)
        value = sidecars[output]
        inputs = []
        for name, record in sorted(value["inputs"].items()):
            source = by_digest.get(record["digest"])
            if source is not None and source != output:
                add(source)
            made_by = None if source is None or source == output else names[source]
            inputs.append(Input(name, _short(record["path"], results, shown), record["digest"][:12], made_by))
        found[output] = Link(
            names[output],
            value["output"]["digest"][:12],
            tuple(inputs),
            value["config"]["digest"][:12],
            value["code"]["digest"][:12],
            (value["code"].get("commit") or "")[:12] or None,
            value["seed"],
            value.get("mlflow_run_id"),
            value.get("versions", {}),
        )

    for model in MODELS:
        if results / "models" / model in sidecars:
            add(results / "models" / model)
    return list(found.values())
