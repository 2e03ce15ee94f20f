"""Checkpoints of a stage that are whole or ignored: a marker with the sizes of all files is written last."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from qwenlong.core.files import write_json

MARKER = "complete.json"
#: Metrics of the checkpoint's own step.
METRICS = "metrics.json"
_STEP = re.compile(r"global_step_(\d+)")


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder, -1 if its name is another."""
    match = _STEP.fullmatch(folder.name)
    return int(match.group(1)) if match else -1


def finish(folder: Path) -> None:
    """Mark a checkpoint as whole: every file's size, written last and renamed."""
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(MARKER, None)
    write_json(folder / MARKER, {"step": step_of(folder), "files": files})


def is_whole(folder: Path) -> bool:
    """Tell whether a checkpoint has its marker and every file it names at its size."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = marker["files"].items()
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _steps(root: Path) -> list[Path]:
    return sorted((p for p in root.glob("global_step_*") if step_of(p) >= 0), key=step_of)


def latest(root: Path) -> Path | None:
    """Return the newest whole checkpoint, none if there is none; half-written ones are removed."""
    whole = []
    for folder in _steps(root):
        if is_whole(folder):
            whole.append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return whole[-1] if whole else None


def newest_before(root: Path, step: int) -> Path | None:
    """Return the newest whole checkpoint of an earlier step than `step`, none if there is none."""
    return next((p for p in reversed(_steps(root)) if step_of(p) < step and is_whole(p)), None)


def prune(root: Path, keep: int, before: int | None = None) -> None:
    """Remove all but the newest `keep` whole checkpoints, and the newest one of a step earlier than `before`.

    The marker goes first, so a kill leaves none half-marked.
    """
    good = newest_before(root, before) if before is not None else None
    for folder in [p for p in _steps(root) if is_whole(p)][:-keep]:
        if folder == good:
            continue
        (folder / MARKER).unlink()
        shutil.rmtree(folder, ignore_errors=True)
