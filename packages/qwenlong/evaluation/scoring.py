"""From stored predictions to scores: a step of its own, repeatable without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.records import Prediction, Score
from qwenlong.evaluation import metrics
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.judging import Judgement, Judgements
from qwenlong.evaluation.predictions import Answered, match, prediction_id
from qwenlong.rewards.extract import after_thinking

__all__ = ["JUDGE_SHARES", "SHARES", "headline", "prediction_id", "score", "scores"]

#: Metrics that are shares of what was attempted, not scores.
SHARES = ("unfinished", "truncated", "error")
#: The same where a judge was asked: about how many, without a verdict in its reply, without a reply.
JUDGE_SHARES = ("judge_calls", "judge_unparsed", "judge_failed")
#: Name of the resamples of one metric: the same values have the same interval, whatever they are called.
SEED = "avg"


@dataclass(frozen=True)
class _Row:
    score: Score
    shares: Mapping[str, float] = field(default_factory=dict)


def headline(benchmark: Benchmark, judged: bool) -> str:
    """Return the rule that "avg" and the groups report."""
    return benchmark.headline if judged or benchmark.headline not in benchmark.judge_rules else benchmark.fallback


def score(benchmark: Benchmark, items: Sequence[Item], predictions: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """Return the content of scores.json, scored without a judge. Raises DataError as `predictions.match` does."""
    return scores(benchmark, match(items, predictions), seed)


def scores(
    benchmark: Benchmark, answered: Sequence[Answered], seed: int, judgements: Judgements | None = None
) -> dict[str, Any]:
    """Return the content of scores.json.

    `metrics` holds, in [0, 1]: each group, each slice and "avg" (over items or groups, as the benchmark says) of the
    headline rule, and each rule's own mean over all items, over everything attempted, where a response that is missing
    or has no score counts 0; the same with "_scored" over what has one; where items have several responses and the
    headline is right or wrong, "pass@k"; and the shares of everything attempted. Several responses to an item are
    averaged first, and items, not responses, are resampled. An answer whose judge gave no reply has no score, one whose
    judge gave no verdict is wrong.
    """
    rule = headline(benchmark, judgements is not None)
    rows = [[_row(benchmark, rule, one.item, *response, judgements) for response in one.responses] for one in answered]
    every = [row.score for responses in rows for row in responses]
    rules = [*benchmark.rules, *(benchmark.judge_rules if judgements is not None else ())]
    groups, slices = _members(answered)
    _check_names(rules, groups, slices)
    return {
        "benchmark": benchmark.name,
        "headline": rule,
        "official": benchmark.official,
        "average": benchmark.average,
        "rules": rules,
        "groups": {name: [answered[place].item.id for place in places] for name, places in groups.items()},
        "slices": {name: [answered[place].item.id for place in places] for name, places in slices.items()},
        "samples": len(answered[0].responses) if answered else 0,
        "judge": None if judgements is None else judgements.summary(),
        "n_attempted": len(every),
        "n_scored": sum(one.error is None for one in every),
        "metrics": _metrics(benchmark, rows, rule, rules, groups, slices, judgements is not None, seed),
        "items": [one.model_dump(mode="json") for one in every],
    }


def _check_names(
    rules: Sequence[str], groups: Mapping[str, Sequence[int]], slices: Mapping[str, Sequence[int]]
) -> None:
    """Raise DataError where one name would stand for two numbers: groups and slices may come from the records."""
    taken = {"avg", *rules, *SHARES, *JUDGE_SHARES}
    clashes = [name for name in (*groups, *slices) if name in taken]
    clashes += [name for name in groups if name in slices and list(groups[name]) != list(slices[name])]
    if clashes:
        raise DataError(
            f"{clashes[0]!r} is the name of a group or slice of items and of another metric; rename it in the examples"
        )


def _members(answered: Sequence[Answered]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    slices: dict[str, list[int]] = {}
    for place, one in enumerate(answered):
        groups.setdefault(one.item.group, []).append(place)
        for name in one.item.slices:
            slices.setdefault(name, []).append(place)
    return groups, {name: slices[name] for name in sorted(slices)}


def _row(
    benchmark: Benchmark,
    rule: str,
    item: Item,
    name: str,
    sample: int,
    prediction: Prediction | None,
    judgements: Judgements | None,
) -> _Row:
    if prediction is None or prediction.error is not None:
        why = "no prediction" if prediction is None else prediction.error
        return _Row(Score(id=name, benchmark=benchmark.name, values={}, error=why), {"error": 1.0})
    asked = item.variant(sample)
    values = dict(asked.score(prediction.response))
    said: dict[str, Judgement] = {}
    if judgements is not None:
        said = judgements.of(name, asked.asks(prediction.response))
        values |= asked.judged(values, {ask: one.verdict for ask, one in said.items()})
    shares = {
        "unfinished": float(after_thinking(prediction.response) is None),
        "truncated": float(prediction.finish_reason == "length"),
    }
    judge = {ask: {"verdict": one.verdict, "error": one.error} for ask, one in said.items()}
    failed = [one for one in said.values() if one.failed]
    row = Score(
        id=name,
        benchmark=benchmark.name,
        values={item.group: values[rule], **values, **shares},
        judge=judge or None,
        error=f"judge: {failed[0].error}: {failed[0].detail}" if failed else None,
    )
    unparsed = any(one.verdict is None and not one.failed for one in said.values())
    counts = {"judge_calls": float(bool(said)), "judge_unparsed": float(unparsed), "judge_failed": float(bool(failed))}
    return _Row(row, shares | counts)


def _metrics(
    benchmark: Benchmark,
    rows: Sequence[Sequence[_Row]],
    rule: str,
    rules: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    slices: Mapping[str, Sequence[int]],
    judged: bool,
    seed: int,
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for suffix in ("", "_scored"):
        values = {name: [_item(responses, name, bool(suffix)) for responses in rows] for name in rules}
        for name, places in {**groups, **slices}.items():
            table[f"{name}{suffix}"] = metrics.mean(_known(values[rule], places), seed, SEED)
        for name in rules:
            # A group's name stays the group's; where it is a rule's too, all items are in that group.
            table.setdefault(f"{name}{suffix}", metrics.mean(_known(values[name]), seed, SEED))
        table[f"avg{suffix}"] = _average(benchmark, values[rule], groups, seed)
    table |= _pass_at(benchmark, rows, rule, groups, seed)
    for name in (*SHARES, *(JUDGE_SHARES if judged else ())):
        shares = [sum(row.shares.get(name, 0.0) for row in responses) / len(responses) for responses in rows]
        table[name] = metrics.mean(shares, seed, SEED)
    return table


def _item(responses: Sequence[_Row], name: str, scored: bool) -> float | None:
    """Return an item's mean over its responses; over those with a score there may be none."""
    good = [row.score.values[name] for row in responses if row.score.error is None]
    if scored:
        return sum(good) / len(good) if good else None
    return sum(good) / len(responses)


def _known(values: Sequence[float | None], places: Sequence[int] | None = None) -> list[float]:
    chosen = values if places is None else [values[place] for place in places]
    return [value for value in chosen if value is not None]


def _average(
    benchmark: Benchmark, values: Sequence[float | None], groups: Mapping[str, Sequence[int]], seed: int
) -> dict[str, Any]:
    if benchmark.average == "items":
        return metrics.mean(_known(values), seed, SEED)
    return metrics.average({name: _known(values, places) for name, places in groups.items()}, seed)


def _pass_at(
    benchmark: Benchmark, rows: Sequence[Sequence[_Row]], rule: str, groups: Mapping[str, Sequence[int]], seed: int
) -> dict[str, Any]:
    """Return pass@k for k = 1, 2, 4, … n; empty for one response an item, and for rules that give more than 0 and 1."""
    samples = len(rows[0]) if rows else 1
    right = []
    for responses in rows:
        values = [row.score.values[rule] for row in responses if row.score.error is None]
        if samples == 1 or any(value not in (0.0, 1.0) for value in values):
            return {}
        right.append(int(sum(values)))
    chances = {k: [metrics.pass_at(samples, count, k) for count in right] for k in metrics.powers(samples)}
    return {f"pass@{k}": _average(benchmark, values, groups, seed) for k, values in chances.items()}
