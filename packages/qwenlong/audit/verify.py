"""Recomputing every digest that sidecars record."""

from __future__ import annotations

from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.progress import track


def verify(folder: Path) -> tuple[int, list[str]]:
    """Return the number of sidecars under `folder` and what differs from them, a line each, naming the file.

    Raises DataError when there is no sidecar at all.
    """
    from qwenlong.audit.results import sidecars
    from qwenlong.core import provenance

    outputs = list(sidecars(folder)) if folder.is_dir() else []
    if not outputs:
        raise DataError(f"no provenance files in {folder}; give the results folder of a run")
    faults: dict[str, None] = {}
    for output in track(outputs, description="verifying"):
        # The same input stands in many sidecars: one line each is enough.
        faults |= dict.fromkeys(provenance.verify(output))
    return len(outputs), list(faults)
