"""Figures for tools: one flat file of metrics and one table of training curves (`dvc metrics`, `dvc plots`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from qwenlong.audit.curves import PANELS, PATH, Rows
from qwenlong.audit.tables import ResultTable


def metrics(table10: ResultTable) -> dict[str, dict[str, float]]:
    """Return {model: {column: value}} of what was measured, as shares from 0 to 1."""
    measured = {
        row.model: {column: cell.value for column, cell in row.cells.items() if cell.value is not None}
        for row in table10.rows
    }
    return {model: values for model, values in measured.items() if values}


def curves(stages: Mapping[str, Rows]) -> str:
    """Return the training curves of the recipe as CSV, a line a step, stages one after another on one axis."""
    stream = io.StringIO()
    names = [key.replace("/", "_") for key, _ in PANELS]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["step", "stage", "stage_step", *names])
    before = 0
    for stage in PATH:
        rows = stages.get(stage, ())
        for row in rows:
            step = int(row["step"])
            writer.writerow([before + step, stage, step, *(row.get(key, "") for key, _ in PANELS)])
        before += int(rows[-1]["step"]) if rows else 0
    return stream.getvalue()
