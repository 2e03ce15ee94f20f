"""Two models on the same items."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwenlong.core import seeds
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json
from qwenlong.evaluation import metrics
from qwenlong.evaluation.scoring import SHARES

#: What scoring.prediction_id adds to the id of an item that is asked several times.
_SAMPLE = re.compile(r"@\d+$")


def read_scores(path: Path) -> dict[str, Any]:
    """Read a scores.json, or the one in a folder. Raises DataError when it is none."""
    file = path / "scores.json" if path.is_dir() else path
    value = read_json(file)
    if not isinstance(value, dict) or not {"benchmark", "metrics", "items"} <= set(value):
        raise DataError(f"{file} is no scores.json of `qwenlong evaluate`; give one, or the folder that holds it")
    return value


def item_values(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return item → value by group; several responses to an item are averaged, errors left out."""
    table: dict[str, dict[str, list[float]]] = {}
    for row in scores["items"]:
        if row["error"] is None:
            for group, value in row["values"].items():
                if group not in SHARES:
                    table.setdefault(group, {}).setdefault(_SAMPLE.sub("", row["id"]), []).append(value)
    return {group: {name: sum(v) / len(v) for name, v in items.items()} for group, items in table.items()}


def compare(first: Mapping[str, Any], second: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return second - first by group and on average, over the items both have, with paired bootstrap intervals.

    Raises DataError when the benchmarks differ or no item is common.
    """
    if first["benchmark"] != second["benchmark"]:
        raise DataError(f"the scores are of {first['benchmark']} and {second['benchmark']}; compare the same benchmark")
    a, b = item_values(first), item_values(second)
    differences: dict[str, list[float]] = {}
    for group in sorted(set(a) & set(b)):
        common = sorted(set(a[group]) & set(b[group]))
        differences[group] = [b[group][name] - a[group][name] for name in common]
    if not any(differences.values()):
        raise DataError("no item is scored in both; compare runs on the same data")
    table = {group: metrics.mean(values, seed, group) for group, values in differences.items()}
    table["avg"] = metrics.average(differences, seed)
    share = _positive_share(differences, seed)
    return {"benchmark": first["benchmark"], "difference": table, "share_of_resamples_above_zero": share}


def _positive_share(differences: Mapping[str, Sequence[float]], seed: int) -> float:
    means = [
        metrics.resampled_means(values, seeds.derive(seed, "bootstrap", group))
        for group, values in sorted(differences.items())
        if values
    ]
    return float(np.mean(np.mean(means, axis=0) > 0))
