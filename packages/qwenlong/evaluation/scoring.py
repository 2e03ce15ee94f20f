"""From stored predictions to scores: a step of its own, repeatable without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.records import Prediction, Score
from qwenlong.evaluation import metrics
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.rewards.extract import after_thinking

#: Values of an item that are shares, not scores.
SHARES = ("unfinished", "truncated", "error")


def prediction_id(item: str, sample: int, samples: int) -> str:
    """Return the id of the prediction number `sample` (from 0) of an item that is asked `samples` times."""
    return item if samples == 1 else f"{item}@{sample}"


def score(benchmark: Benchmark, items: Sequence[Item], predictions: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """Return the content of scores.json.

    `metrics` holds, in [0, 1]: each group and "avg" (unweighted mean over groups) over everything attempted, where an
    item without a response counts 0; the same with "_scored" over what has a response; and the shares "unfinished"
    (thinking never closed), "truncated" (output limit reached) and "error" of everything attempted. Several responses
    to an item are averaged first, and items, not responses, are resampled. Raises DataError for a prediction of an
    unknown item and for two of the same id.
    """
    found = _by_item(items, predictions)
    scores: list[Score] = []
    attempted: dict[str, dict[str, list[float]]] = {}
    for item in items:
        rows = [_score(benchmark, item, prediction) for prediction in found[item.id]]
        rows = rows or [Score(id=item.id, benchmark=benchmark.name, values={}, error="no prediction")]
        scores += rows
        good = [row.values[item.group] for row in rows if row.error is None]
        values = attempted.setdefault(item.group, {"all": [], "scored": [], **{name: [] for name in SHARES}})
        values["all"].append(sum(good) / len(rows))
        if good:
            values["scored"].append(sum(good) / len(good))
        values["error"].append(sum(row.error is not None for row in rows) / len(rows))
        for name in ("unfinished", "truncated"):
            values[name].append(sum(row.values.get(name, 0.0) for row in rows) / len(rows))
    return {
        "benchmark": benchmark.name,
        "n_attempted": len(scores),
        "n_scored": sum(row.error is None for row in scores),
        "metrics": _metrics(attempted, seed),
        "items": [row.model_dump(mode="json") for row in scores],
    }


def _metrics(attempted: dict[str, dict[str, list[float]]], seed: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, suffix in (("all", ""), ("scored", "_scored")):
        groups = {group: values[name] for group, values in attempted.items()}
        table |= {f"{group}{suffix}": metrics.mean(values, seed, group) for group, values in groups.items()}
        table[f"avg{suffix}"] = metrics.average(groups, seed)
    for name in SHARES:
        table[name] = metrics.mean([value for group in attempted.values() for value in group[name]], seed, name)
    return table


def _by_item(items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = {item.id: [] for item in items}
    if len(found) != len(items):
        raise DataError("the examples name the same id twice; give every item an id of its own")
    seen: set[str] = set()
    for prediction in predictions:
        name = prediction.id if prediction.id in found else prediction.id.rpartition("@")[0]
        if name not in found:
            raise DataError(f"prediction {prediction.id!r} is of no item of the examples; give its own file")
        if prediction.id in seen:
            raise DataError(f"prediction {prediction.id!r} stands twice in the predictions; remove one of them")
        seen.add(prediction.id)
        found[name].append(prediction)
    return found


def _score(benchmark: Benchmark, item: Item, prediction: Prediction) -> Score:
    if prediction.error is not None:
        return Score(id=prediction.id, benchmark=benchmark.name, values={}, error=prediction.error)
    values = {
        item.group: item.score(prediction.response)[benchmark.headline],
        "unfinished": float(after_thinking(prediction.response) is None),
        "truncated": float(prediction.finish_reason == "length"),
    }
    return Score(id=prediction.id, benchmark=benchmark.name, values=values)
