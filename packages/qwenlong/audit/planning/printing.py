"""The plan for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))


def number(value: float) -> str:
    """Return three digits, with k, M, G, T for thousand to 10^12; below 1 two digits, a true nothing as a dash."""
    if value == 0:
        return "–"
    for size, letter in _UNITS:
        if value >= 0.9995 * size:
            size, letter = (1e3, "k") if letter == "k" else (size, letter)
            return f"{_digits(value / size)}{letter}"
    return _digits(value)


def _digits(value: float) -> str:
    if value >= 999.5:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def spread(values: Sequence[float]) -> str:
    """Return "typical (low to high)", or one number where there is no width."""
    low, typical, high = values
    return number(typical) if low == high else f"{number(typical)} ({number(low)} to {number(high)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines, the first column to the left."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    ]


def render(plan: dict[str, Any]) -> str:
    """Return the plan as text."""
    unit, n = plan["unit"], plan["processors"]
    lines = [
        f"{plan['run']}: {plan['total']['jobs']} jobs on {n} {unit}{'s' if n > 1 else ''} ({plan['card']}); "
        "typical (low to high), other columns typical",
        "",
        *_stages(plan, unit),
        "",
        f"wall time        {spread(plan['wall_hours'])} h on {n} {unit}s",
        f"critical path    {spread(plan['critical_path_hours'])} h, where no job waits for {unit}s",
        *_path(plan),
        f"disk             {spread(plan['total']['disk'])} GB stay, "
        f"{spread(plan['total']['scratch'])} GB more while it runs",
    ]
    if plan["total"]["server_hours"][2]:
        beside = [
            f"{m['match']} on {m['replica']}"
            for role, m in plan["models"].items()
            if role not in ("policy", "generator")
        ]
        lines.append(
            f"judges beside    {spread(plan['total']['server_hours'])} GPU-hours on their own GPUs: {', '.join(beside)}"
        )
    head = (f"{unit}s", f"{unit}-hours", "wall, h", "wall, h, if training and selection take all")
    rows = [
        (str(row["processors"]), *(spread(row[key]) for key in ("processor_hours", "wall_hours", "spread_wall_hours")))
        for row in plan["clusters"]
    ]
    lines += ["", *table(head, rows)]
    if "measured" in plan:
        lines += ["", *_measured(plan["measured"])]
    lines += ["", "Notes", *(f"- {note}" for note in plan["notes"]), "", "Assumptions from"]
    lines += [f"- {role} {model['match']}: {model['source']}" for role, model in plan["models"].items()]
    lines += [f"- {key}: {text}" for key, text in plan["sources"].items()]
    return "\n".join(lines)


def _stages(plan: dict[str, Any], unit: str) -> list[str]:
    head = (
        "stage",
        "jobs",
        f"{unit}-hours",
        "longest job, h",
        "read",
        "written",
        "trained on",
        "LLM calls",
        "judge calls",
    )
    keys = ("prompt", "response", "trained", "calls", "judge_calls", "disk")
    rows = [
        (
            row["stage"],
            str(row["jobs"]),
            spread(row["processor_hours"]),
            number(row["longest"][1]),
            *(number(row[key][1]) for key in keys),
        )
        for row in [*plan["stages"], {"stage": "all", **plan["total"]}]
    ]
    return table((*head, "GB kept"), rows)


def _path(plan: dict[str, Any]) -> list[str]:
    steps = [f"{step['job']} {number(step['hours'])}" for step in plan["critical_path"]]
    return ["  " + " > ".join(steps[i : i + 6]) + (" >" if i + 6 < len(steps) else "") for i in range(0, len(steps), 6)]


def _measured(found: dict[str, Any]) -> list[str]:
    if not found["stages"]:
        return [f"{found['results']}: nothing measured yet", *(f"- {fault}" for fault in found["faults"])]
    head = ("measured", "jobs", "hours", "planned, h", "measured / planned", "in range", "written / planned", "from")
    rows = [
        (
            row["stage"],
            str(row["jobs"]),
            number(row["measured_hours"]),
            spread(row["planned_hours"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            "yes" if row["within"] else "no",
            "" if row["response_ratio"] is None else f"{row['response_ratio']:.2f}",
            ", ".join(f"{source} {count}" for source, count in sorted(row["sources"].items())),
        )
        for row in found["stages"]
    ]
    return [*table(head, rows), *(f"- {fault}" for fault in found["faults"])]
