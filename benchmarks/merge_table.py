"""The table of benchmarks/merge.py: ratios, linear fit, extrapolation beside the I/O floor, the differential check."""

from __future__ import annotations

from typing import Any

import numpy as np
from merge_models import FULL, SIZES

#: What is wanted: times faster at a tau, share of mergekit's anonymous memory, bytes of anonymous memory at any size.
FASTER = {1.0: 5.0, 0.1: 10.0}
SHARE, CEILING = 1 / 3, 2 * 2**30
#: Bytes of the three inputs and of the output of the full model in bfloat16.
READ, WRITTEN = 3 * 2 * FULL.parameters, 2 * FULL.parameters
Cells = dict[str, dict[str, Any]]


def table(cells: Cells, cache: str) -> str:
    """Return the Markdown of what is there; parts without figures are left out."""
    merges = [cell for cell in cells.values() if "who" in cell and cell["cache"] == cache]
    ours = [cell for cell in merges if cell["who"] == "ours"]
    theirs = [cell for cell in merges if cell["who"] == "mergekit"]
    lines = ["# SCE merge against mergekit, whole commands", ""]
    if merges:
        lines += [*_conditions(merges, cache), ""]
    if ours and theirs:
        lines += [*_beside(ours, theirs), ""]
    if ours:
        lines += [*_scale(ours), ""]
    if "floor" in cells and ours:
        lines += [*_extrapolation(ours, theirs, cells["floor"]), ""]
    checks = [cell for cell in cells.values() if "kinds" in cell]
    if checks:
        lines += [*_checks(checks), ""]
    if merges:
        lines += ["Commands:", "", "```", *sorted({cell["command"] for cell in _samples(merges)}), "```", ""]
    return "\n".join(lines)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _mib(value: float) -> str:
    return f"{value / 2**20:,.0f}"


def _sorted(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(cells, key=lambda cell: (cell["parameters"], -cell["tau"], cell["mode"] == "mergekit"))


def _samples(merges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One cell of each side, the largest tau of the smallest size."""
    return [next(cell for cell in _sorted(merges) if cell["who"] == who) for who in {c["who"] for c in merges}]


def _conditions(merges: list[dict[str, Any]], cache: str) -> list[str]:
    first = merges[0]
    machine = first["machine"]
    versions = {name: version for cell in merges for name, version in cell["versions"].items() if name != "python"}
    commits = sorted({f"{cell['commit'] or 'none'} (code {cell['code']})" for cell in merges})
    state = {"warm": "read into the page cache before each run", "cold": "dropped from the page cache before each run"}
    return [
        f"{machine['cpu']}, {first['cores']} cores for each command, {machine['memory'] / 2**30:.0f} GiB; inputs "
        f"{state[cache]}. {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}; commit "
        f"{'; '.join(commits)}. Load of the machine before the runs: {min(c['load'] for c in merges):.1f} to "
        f"{max(c['load'] for c in merges):.1f}. Runs from {min(c['began'] for c in merges)} to "
        f"{max(c['began'] for c in merges)} UTC.",
        "",
        "Seconds are of the whole command: start of Python, checks and, in ours, digests, provenance and the flush of "
        "the output to the disk, which mergekit leaves to the system. Ours is compiled already. Memory is the peak of "
        "the process tree's anonymous pages (RssAnon and shared memory), sampled every 20 ms; pages of mapped files "
        "are apart. Inputs and outputs are bfloat16. mergekit calculates in float32 (`dtype: float32`; in bfloat16 "
        "small deltas would be lost), reads tensor by tensor from memory-mapped files, and writes files "
        "of 200 MB, since it keeps an output file in memory until that is full (its default is 5 GB). Its reading of "
        "a layer of experts gives one stack of two matrices each.",
        "",
        "Geometry: hidden 2,048, expert width 768, 32 and 4 heads of 128, as Qwen3-30B-A3B; "
        + "; ".join(
            f"{name}: vocabulary {g.vocabulary:,}{' (tied)' if g.tied else ''}, {g.layers} layer(s) of {g.experts} "
            f"experts, {g.parameters / 1e9:.3f}B"
            for name, g in SIZES.items()
            if any(cell["size"] == name for cell in merges)
        )
        + ".",
    ]


def _anon(cell: dict[str, Any]) -> float:
    return float(cell["anon"] + cell["shmem"])


def _beside(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    lines = ["## Side by side", ""]
    lines += _head("size", "tau", "ours selects as", "ours, s", "mergekit, s", "**times faster**", "wanted", "CPU s",
                   "anonymous MiB", "**share**", "wanted", "mapped files MiB")  # fmt: skip
    for one in _sorted(ours):
        for other in theirs:
            if (one["size"], one["tau"]) != (other["size"], other["tau"]):
                continue
            faster, share = other["seconds"] / one["seconds"], _anon(one) / _anon(other)
            wanted = FASTER.get(one["tau"])
            lines.append(_row(
                one["size"], f"{one['tau']:g}", one["mode"], f"{one['seconds']:.1f}", f"{other['seconds']:.1f}",
                f"**{faster:.1f}**", _verdict(f">= {wanted:g}", faster >= wanted) if wanted else "",
                f"{one['cpu']:.1f} / {other['cpu']:.1f}", f"{_mib(_anon(one))} / {_mib(_anon(other))}",
                f"**{share:.3f}**", _verdict("<= 1/3", share <= SHARE), f"{_mib(one['file'])} / {_mib(other['file'])}",
            ))  # fmt: skip
    return lines


def _verdict(wanted: str, met: bool) -> str:
    return f"{wanted}: {'met' if met else 'NOT met'}"


def _fit(cells: list[dict[str, Any]], value: Any) -> tuple[float, float, float]:
    """Return intercept, slope per 10^9 parameters, and the largest residual as a share of its value."""
    x = np.array([cell["parameters"] / 1e9 for cell in cells])
    y = np.array([value(cell) for cell in cells], dtype=float)
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope), float(np.max(np.abs(intercept + slope * x - y) / y))


def _ways(cells: list[dict[str, Any]]) -> list[tuple[float, str, list[dict[str, Any]]]]:
    keys = sorted({(cell["tau"], cell["mode"]) for cell in cells}, key=lambda key: (-key[0], key[1] == "mergekit"))
    return [(tau, mode, _sorted([c for c in cells if (c["tau"], c["mode"]) == (tau, mode)])) for tau, mode in keys]


def _scale(ours: list[dict[str, Any]]) -> list[str]:
    lines = ["## Ours over size", ""]
    lines += _head("size", "parameters", "tau", "selects as", "s", "s per 10^9", "CPU s", "anonymous MiB", "wanted",
                   "mapped files MiB", "read from disk, GB")  # fmt: skip
    for cell in _sorted(ours):
        lines.append(_row(
            cell["size"], f"{cell['parameters'] / 1e9:.3f}B", f"{cell['tau']:g}", cell["mode"],
            f"{cell['seconds']:.1f}", f"{cell['seconds'] / cell['parameters'] * 1e9:.1f}", f"{cell['cpu']:.1f}",
            _mib(_anon(cell)), _verdict("<= 2,048", _anon(cell) <= CEILING), _mib(cell["file"]),
            f"{cell['disk_read'] / 1e9:.2f}",
        ))  # fmt: skip
    lines.append("")
    for tau, mode, cells in _ways(ours):
        if len(cells) < 3:
            continue
        intercept, slope, residual = _fit(cells, lambda cell: cell["seconds"])
        peaks = [_anon(cell) for cell in cells]
        lines.append(
            f"- tau {tau:g}, {mode}: {intercept:.1f} s + {slope:.1f} s per 10^9 parameters, largest residual "
            f"{residual:.0%}; anonymous memory {_mib(min(peaks))} to {_mib(max(peaks))} MiB over "
            f"{cells[-1]['parameters'] / cells[0]['parameters']:.1f} times the size."
        )
    return lines


def _extrapolation(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], floor: dict[str, Any]) -> list[str]:
    full = FULL.parameters / 1e9
    lines = [f"## Extrapolated to {full:.1f}B, beside the I/O floor", ""]
    lines += _head("", "tau", "selects as", "hours", "times the cold floor", "**ours is faster, times**")
    cold = READ / floor["read_cold"] + WRITTEN / floor["write"]
    warm = READ / floor["read_warm"] + WRITTEN / floor["write"]
    lines.append(_row("I/O floor, cold cache", "", "", f"{cold / 3600:.2f}", "1.0", ""))
    lines.append(_row("I/O floor, warm cache (no machine holds it)", "", "", f"{warm / 3600:.2f}", "", ""))
    slowest: dict[float, float] = {}
    for who, cells in (("ours", ours), ("mergekit", theirs)):
        for tau, mode, group in _ways(cells):
            if len(group) < 2:
                continue
            intercept, slope, _ = _fit(group, lambda cell: cell["seconds"])
            seconds = intercept + slope * full
            if who == "mergekit":
                # Two points: of their line and the rate of the larger one, what speaks for mergekit.
                seconds = min(seconds, group[-1]["seconds"] / group[-1]["parameters"] * FULL.parameters)
            ratio = ""
            if who == "ours":
                # Of the two ways to select, the slower one is compared.
                slowest[tau] = max(seconds, slowest.get(tau, 0))
            elif tau in slowest:
                ratio = f"**{seconds / slowest[tau]:.1f}**"
            lines.append(_row(who, f"{tau:g}", mode, f"{seconds / 3600:.2f}", f"{seconds / cold:.1f}", ratio))
    return [
        *lines,
        "",
        f"The floor: {READ / 1e9:.0f} GB read once at {floor['read_cold'] / 1e9:.2f} GB/s (page cache dropped; "
        f"{floor['read_warm'] / 1e9:.2f} GB/s from the page cache) and {WRITTEN / 1e9:.0f} GB written and flushed at "
        f"{floor['write'] / 1e9:.2f} GB/s, one after the other, as measured on this disk in the same run with a file "
        f"of {floor['bytes'] / 1e9:.1f} GB. mergekit's hours are the smaller of its line through two sizes and its "
        "rate at the larger one; its memory is not extrapolated: it grows with the largest tensor, which at "
        f"{full:.1f}B is a stack of 128 x 1,536 x 2,048, a third larger than the embedding.",
    ]


def _checks(checks: list[dict[str, Any]]) -> list[str]:
    lines = ["## The same work", ""]
    lines += _head("deltas", "files", "tau", "tensors", "elements", "**equal in bfloat16**", "rules give the same",
                   "ours is its rule", "mergekit is its rule", "largest difference")  # fmt: skip
    for cell in sorted(checks, key=lambda cell: (-cell["delta"], -cell["tau"])):
        for kind, found in sorted(cell["kinds"].items()):
            shares = [f"{found[key] / found['elements']:.4%}" for key in
                      ("equal", "rules_equal", "ours_by_rule", "theirs_by_rule")]  # fmt: skip
            lines.append(_row(
                f"RMS {cell['delta']:g}", cell["dtype"], f"{cell['tau']:g}", f"{found['tensors']:,} {kind}",
                f"{found['elements']:,}", f"**{shares[0]}**", *shares[1:], f"{found['largest']:.1e}",
            ))  # fmt: skip
    return [
        *lines,
        "",
        "Each side is compared with a float64 reference of its own rule (merge_check.py), after rounding to bfloat16; "
        "ours runs with `--select-mode mergekit`. The rules differ knowingly: mergekit gives one coefficient to all "
        "experts' matrices of a layer and selects among them together, ours one to each matrix; and mergekit weighs "
        "the experts alike when the mean squares of the deltas add up to less than 1e-6, which those of RL do. What "
        "is left between mergekit and its rule is float32 rounding and, below tau 1, the order of equal variances.",
    ]
