"""Tables of a RULER run: score by task and length, and by depth and length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from qwenlong.core.errors import DataError
from qwenlong.core.records import Prediction
from qwenlong.evaluation.benchmarks.ruler import RulerItem, depth


def markdown(items: Sequence[RulerItem], predictions: Sequence[Prediction]) -> str:
    """Return both tables of the rule `bounded`, in percent.

    What failed or is missing counts as 0; several responses are averaged.

    Raises DataError for a prediction of no item.
    """
    known = {item.id: item for item in items}
    values: dict[str, list[float]] = defaultdict(list)
    for prediction in predictions:
        name = prediction.id if prediction.id in known else prediction.id.rpartition("@")[0]
        if name not in known:
            raise DataError(f"prediction {prediction.id!r} is of no item of the examples; give its own file")
        good = prediction.error is None
        values[name].append(known[name].score(prediction.response)["bounded"] if good else 0.0)
    by_task: dict[tuple[str, int], list[float]] = defaultdict(list)
    by_depth: dict[tuple[str, int], list[float]] = defaultdict(list)
    for item in items:
        given = values.get(item.id, [])
        value = sum(given) / len(given) if given else 0.0
        by_task[item.group, item.record.length].append(value)
        if place := depth(item.record):
            by_depth[place.removeprefix("depth "), item.record.length].append(value)
    lengths = sorted({item.record.length for item in items})
    tasks = list(dict.fromkeys(item.group for item in items))
    text = _table("task", tasks, lengths, by_task, True)
    if by_depth:
        fifths = sorted({place for place, _ in by_depth}, key=lambda place: int(place.partition("-")[0]))
        text += "\n" + _table("depth of the needle", fifths, lengths, by_depth, False)
    return text


def _table(
    head: str,
    names: Sequence[str],
    lengths: Sequence[int],
    values: Mapping[tuple[str, int], Sequence[float]],
    average: bool,
) -> str:
    lines = [f"| {head} | {' | '.join(map(str, lengths))} |", "|---|" + "---:|" * len(lengths)]
    lines += [f"| {name} | {' | '.join(_cell(values.get((name, length))) for length in lengths)} |" for name in names]
    if average:
        means = []
        for length in lengths:
            cells = [values[name, length] for name in names if (name, length) in values]
            means.append(_cell([sum(cell) / len(cell) for cell in cells], count=False))
        lines.append(f"| mean of tasks | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float] | None, count: bool = True) -> str:
    if not values:
        return "–"
    return f"{100 * sum(values) / len(values):.1f}" + (f" ({len(values)})" if count else "")
