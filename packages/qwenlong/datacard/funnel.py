"""From candidates to what is trained on: every step with what it dropped and why, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Numbers of a funnel's row that are no reason of a drop.
_NOT_DROPS = ("candidates", "kept", "wanted")


def funnel(
    tasks: Mapping[str, Mapping[str, Mapping[str, Any]]], order: Sequence[str], output: str = "samples"
) -> dict[str, Any]:
    """Return the funnel of one output: `tasks` by step as it was counted, and `stages`, what was left after each.

    `tasks` is that of funnel.json; `order` names the reasons in the order in which they are tried, others follow.
    `unaccounted` is what the counts do not explain: 0 unless a step forgot to count.
    """
    rows = {task: counts[output] for task, counts in sorted(tasks.items()) if output in counts}
    found = {key for row in rows.values() for key, value in row.items() if _is_count(value) and key not in _NOT_DROPS}
    reasons = [name for name in order if name in found] + sorted(found - set(order))
    left = {task: int(row.get("candidates", 0)) for task, row in rows.items()}
    stages = [_stage("candidates", left)]
    for reason in reasons:
        lost = {task: int(row.get(reason, 0)) for task, row in rows.items()}
        left = {task: left[task] - lost[task] for task in left}
        if any(lost.values()):
            stages.append(_stage(f"after {reason.replace('_', ' ')}", left, reason))
    kept = {task: int(row.get("kept", 0)) for task, row in rows.items()}
    # The last step's bar and "kept" are the same when everything was counted.
    if len(stages) > 1 and left == kept:
        stages[-1] |= {"name": "kept"}
    else:
        stages.append(_stage("kept", kept))
    return {
        "reasons": reasons,
        "tasks": {
            task: {key: row.get(key, 0) for key in ("candidates", *reasons, "kept", "wanted")}
            for task, row in rows.items()
        },
        "unaccounted": sum(left.values()) - sum(kept.values()),
        "stages": stages,
    }


def add_stage(stages: list[dict[str, Any]], name: str, tasks: Mapping[str, int], reasons: Mapping[str, int]) -> None:
    """Add a later stage (verification, bins) to a funnel's stages; `reasons` says what it dropped."""
    shown = {task: int(tasks.get(task, 0)) for task in sorted({*stages[-1]["tasks"], *tasks})}
    why = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in sorted(reasons.items()) if count)
    stages.append(_stage(name, shown, why))


def _stage(name: str, tasks: Mapping[str, int], reason: str = "") -> dict[str, Any]:
    return {"name": name, "tasks": dict(tasks), "n": sum(tasks.values()), "reason": reason.replace("_", " ")}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
