"""Runs of an earlier bundle, taken over as they are: nobody needs to have their results folders any more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlong.audit.bundles import layout
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, sha256_file


def records(bundle: Path) -> list[dict[str, Any]]:
    """Return the records of a bundle's runs. Raises DataError when one of their files is not what the manifest says.

    An edit would get a new digest, and nobody could tell any more.
    """
    index, recorded = layout.read_index(bundle), layout.read_manifest(bundle)
    present = set(layout.files(bundle))
    for name in sorted({*recorded, *present}):
        if name.startswith(f"{layout.REPORT}/"):
            continue
        found = sha256_file(bundle / name) if name in present else "nothing"
        if found != recorded.get(name):
            raise DataError(
                f"{bundle / name}: SHA-256 {found[:12]}, expected {recorded.get(name, 'no such file')[:12]}; no run is "
                "taken over from a bundle that was edited; restore it (`qwenlong audit verify` names all that differs)"
            )
    return [dict(record) for record in index["runs"]]


def left_out(bundle: Path, name: str) -> list[str]:
    """Return what was left out of a run, with the reasons."""
    return [str(line) for line in layout.read_index(bundle).get("left_out", {}).get(name, ())]


def copy(bundle: Path, record: Mapping[str, Any], folder: Path) -> None:
    """Copy a run's files and the examples that it was scored on into the bundle `folder`."""
    root = f"{layout.RUNS}/{record['name']}/"
    names = {name for name in layout.files(bundle) if name.startswith(root)}
    for name in sorted(names | set(map(str, record["examples"].values()))):
        source = bundle / name
        if not source.resolve().is_relative_to(bundle.resolve()):
            raise DataError(f"{bundle / layout.INDEX}: {name!r} points out of the bundle; restore it")
        if not (folder / name).is_file():
            with atomic_file(folder / name) as partial:
                partial.write_bytes(source.read_bytes())
