"""Inputs that results of one run read in more than one version.

A results folder grows over several machines and sittings: what was made anew between two of them leaves results that
rest on different files of one name. Each sidecar names its inputs by digest; here they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwenlong.audit.site.runs import Run


@dataclass(frozen=True)
class Version:
    """One version of an input of a run, and the results that were made from it. `digest`: 12 digits of SHA-256."""

    run: str
    file: str
    digest: str
    results: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the row for tables.json."""
        return {"key": f"{self.run}:{self.file}:{self.digest}", **asdict(self)}


def several(runs: Sequence[Run]) -> list[Version]:
    """Return the versions of every input that a run's sidecars know by more than one digest, in order."""
    found = []
    for run in runs:
        versions: dict[str, dict[str, list[str]]] = {}
        for name, sidecar in run.sidecars.items():
            for path, digest in _inputs(sidecar):
                versions.setdefault(path, {}).setdefault(digest, []).append(name)
        found += [
            Version(run.name, path, digest[:12], tuple(sorted(set(names))))
            for path, many in sorted(versions.items())
            if len(many) > 1
            for digest, names in sorted(many.items(), key=lambda one: sorted(one[1]))
        ]
    return found


def _inputs(sidecar: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    inputs = sidecar.get("inputs")
    for value in inputs.values() if isinstance(inputs, Mapping) else ():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping) and isinstance(one.get("path"), str) and isinstance(one.get("digest"), str):
                yield one["path"], one["digest"]
