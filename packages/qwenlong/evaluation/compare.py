"""Two models on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json
from qwenlong.evaluation import metrics
from qwenlong.evaluation.judging import FAILED
from qwenlong.evaluation.predictions import SAMPLE
from qwenlong.evaluation.scoring import SEED, SHARES


def read_scores(path: Path) -> dict[str, Any]:
    """Read a scores.json, or the one in a folder. Raises DataError when it is none."""
    file = path / "scores.json" if path.is_dir() else path
    value = read_json(file)
    if not isinstance(value, dict) or not {"benchmark", "metrics", "items"} <= set(value):
        raise DataError(f"{file} is no scores.json of `qwenlong evaluate`; give one, or the folder that holds it")
    return value


def item_values(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return item → value by group; several responses to an item are averaged, errors left out."""
    groups = scores.get("groups")
    table: dict[str, dict[str, list[float]]] = {}
    for row in scores["items"]:
        if row["error"] is None:
            for name, value in row["values"].items():
                if name not in SHARES and (groups is None or name in groups):
                    table.setdefault(name, {}).setdefault(SAMPLE.sub("", row["id"]), []).append(value)
    return {name: {item: sum(v) / len(v) for item, v in items.items()} for name, items in table.items()}


def attempted_values(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return item → value by group, slice and rule, a response without a score counting 0, as in "avg".

    Items whose judge gave no reply are left out: what they are worth is not known.
    """
    known = _members(scores)
    rows: dict[str, list[Mapping[str, Any]]] = {}
    # An item's own id may look like a response's.
    ids = {item for group in known["groups"].values() for item in group}
    for row in scores["items"]:
        rows.setdefault(row["id"] if row["id"] in ids else SAMPLE.sub("", row["id"]), []).append(row)
    judged = {item: responses for item, responses in rows.items() if not any(map(_unjudged, responses))}
    headlines = {
        item: _mean(responses, group)
        for group, items in known["groups"].items()
        for item in items
        if (responses := judged.get(item)) is not None
    }
    table = {
        name: {item: headlines[item] for item in items if item in headlines}
        for name, items in {**known["slices"], **known["groups"]}.items()
    }
    for rule in scores.get("rules", ()):
        table.setdefault(rule, {item: _mean(responses, rule) for item, responses in judged.items()})
    return table


def _members(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Sequence[str]]]:
    if "groups" in scores:
        return {"groups": scores["groups"], "slices": scores.get("slices", {})}
    # Files from before rules and slices: an item's only value is its group's.
    groups: dict[str, list[str]] = {}
    for group, items in item_values(scores).items():
        groups[group] = list(items)
    return {"groups": groups, "slices": {}}


def _mean(responses: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row["values"][name] for row in responses if row["error"] is None) / len(responses)


def _unjudged(row: Mapping[str, Any]) -> bool:
    return any(one["error"] in FAILED for one in (row["judge"] or {}).values())


def compare(first: Mapping[str, Any], second: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return second - first over the items both have: by group, slice and rule, and "avg" as the benchmark averages.

    Intervals are of paired resamples. `mcnemar` has, for groups, slices and "avg", the exact test of right against
    wrong, where every item has one response and the headline rule gives 0 or 1. Raises DataError when benchmark,
    headline rule or judge differ, or no item is common.
    """
    _check_alike(first, second)
    a, b = attempted_values(first), attempted_values(second)
    members = _members(first)
    ids = [{item for group in _members(one)["groups"].values() for item in group} for one in (first, second)]
    pairs = {
        name: [(a[name][item], b[name][item]) for item in sorted(set(a[name]) & set(b[name]))]
        for name in a
        if name in b
    }
    differences = {name: [y - x for x, y in values] for name, values in pairs.items() if values}
    groups = {name: differences[name] for name in members["groups"] if name in differences}
    if not groups:
        raise DataError("no item is scored in both; compare runs on the same data")
    table = {name: metrics.mean(values, seed, SEED) for name, values in differences.items()}
    if first.get("average", "groups") != "groups":
        groups = {SEED: [value for values in groups.values() for value in values]}
    table["avg"] = metrics.average(groups, seed)
    means = metrics.resampled_averages(groups, seed)
    return {
        "benchmark": first["benchmark"],
        "headline": first.get("headline", ""),
        "difference": table,
        "mcnemar": _tests(first, second, pairs, members),
        "share_of_resamples_above_zero": float(np.mean(means > 0)),
        "n_common": len(ids[0] & ids[1]),
        "n_left_out": len(ids[0] & ids[1]) - sum(map(len, groups.values())),
        "n_only_first": len(ids[0] - ids[1]),
        "n_only_second": len(ids[1] - ids[0]),
    }


def _check_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    if first["benchmark"] != second["benchmark"]:
        raise DataError(f"the scores are of {first['benchmark']} and {second['benchmark']}; compare the same benchmark")
    rules = [one.get("headline", "") for one in (first, second)]
    if rules[0] != rules[1]:
        raise DataError(
            f"A is scored by {rules[0]}, B by {rules[1]}; score both with the same judge, or with --no-judge"
        )
    a, b = (one.get("judge") for one in (first, second))
    if a is None or b is None:
        return
    if a["model"] != b["model"]:
        raise DataError(f"the judge of A is {a['model']}, that of B {b['model']}; score both with the same judge")
    # A criterion about which one of both was never asked decided nothing.
    other = [name for name in a["templates"] if b["templates"].get(name, a["templates"][name]) != a["templates"][name]]
    if other:
        raise DataError(
            f"the judge's template {other[0]!r} is another in A than in B; score both anew with one version"
        )


def _tests(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    pairs: Mapping[str, Sequence[tuple[float, float]]],
    members: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, Any]:
    if max(one.get("samples", 1) for one in (first, second)) > 1:
        return {}
    named = {name: pairs[name] for name in (*members["groups"], *members["slices"]) if pairs.get(name)}
    named["avg"] = [pair for name in members["groups"] for pair in pairs.get(name, ())]
    found = {name: metrics.mcnemar([x for x, _ in rows], [y for _, y in rows]) for name, rows in named.items()}
    return {name: test for name, test in found.items() if test is not None}
