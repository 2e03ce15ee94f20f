"""Score files made up for tables: 100 items each, intervals four points to each side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenlong.core.files import write_json
from qwenlong.core.provenance import path_of
from qwenlong.evaluation.tables import layout


def write_scores(root: Path, place: str, avg: float = 0.5, seed: int | None = 17, **more: float) -> None:
    """Write a scores.json of 100 items, intervals four points to each side, as `place` says: "rl_4/frames"."""
    row, benchmark = place.split("/")
    folder = root / "ablations" / row[1:] / "evaluation" if row.startswith("+") else root / "evaluation" / row
    table: dict[str, Any] = {
        name: {"value": v, "ci95": [round(v - 0.04, 6), round(v + 0.04, 6)], "n": 100}
        for name, v in {"avg": avg, **more}.items()
    }
    scores = {"benchmark": benchmark, "n_attempted": 100, "n_scored": 100, "metrics": table, "items": []}
    write_json(folder / benchmark / "scores.json", scores)
    if seed is not None:
        write_json(path_of(folder / benchmark / "scores.json"), {"seed": seed})


def six(root: Path, row: str, first: float = 0.4, seed: int = 17) -> None:
    """The six benchmarks of a model: 40, 42, … 50 percent."""
    for n, measure in enumerate(layout.SIX.values()):
        write_scores(root, f"{row}/{measure.parts[0].benchmark}", first + 0.02 * n, seed)
