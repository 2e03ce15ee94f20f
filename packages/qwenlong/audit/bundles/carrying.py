"""Runs of an earlier bundle, taken over as they are: nobody needs to have their results folders any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit.bundles import layout
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file


@dataclass(frozen=True)
class Earlier:
    """A run as a bundle has it: its record, and what was left out of it with the reasons."""

    bundle: Path
    record: Mapping[str, Any]
    left_out: tuple[str, ...]


def earlier(bundle: Path) -> list[Earlier]:
    """Return the runs of a bundle. Raises DataError when one of their files is not what the manifest says.

    An edit would get a new digest, and nobody could tell any more.
    """
    index = layout.read_index(bundle)
    for name, line in layout.differing(bundle, layout.read_manifest(bundle)):
        if not name.startswith(f"{layout.REPORT}/"):
            raise DataError(
                f"{bundle}: {line}; no run is taken over from a bundle that was edited: restore it "
                "(`qwenlong audit verify` names all that differs)"
            )
    left_out = index.get("left_out", {})
    return [Earlier(bundle, record, tuple(left_out.get(record["name"], ()))) for record in index["runs"]]


def copy(run: Earlier, folder: Path) -> None:
    """Copy a run's files and the examples that it was scored on into the bundle `folder`."""
    root = run.bundle / layout.RUNS / run.record["name"]
    names = {file.relative_to(run.bundle).as_posix() for file in root.rglob("*") if file.is_file()}
    for name in sorted(names | set(map(str, run.record["examples"].values()))):
        source = run.bundle / name
        if not source.resolve().is_relative_to(run.bundle.resolve()):
            raise DataError(f"{run.bundle / layout.INDEX}: {name!r} points out of the bundle; restore it")
        if not (folder / name).is_file():
            with atomic_file(folder / name) as partial:
                partial.write_bytes(source.read_bytes())
