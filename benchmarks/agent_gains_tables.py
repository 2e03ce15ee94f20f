"""Tables of the agent's gains: scores with intervals, costs, ratios to the first row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenlong.evaluation import metrics

SEED = 17


@dataclass
class Run:
    """What a setting gave: item → right by kind, the endpoint's counts, chunks by fate, seconds an item by mode."""

    right: dict[str, dict[str, float]]
    stats: dict[str, float]
    chunks: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)


def _percent(metric: Mapping[str, Any], sign: str = "") -> str:
    low, high = metric["ci95"] or (metric["value"], metric["value"])
    return f"{100 * metric['value']:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def score_table(runs: Mapping[str, Run]) -> list[str]:
    """Return scores by kind and paired differences from the first row, in percent."""
    first = next(iter(runs.values()))
    lines = [
        "| setting | retrieval | multi-hop | counting | average | minus plain |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        by_kind = {kind: list(values.values()) for kind, values in run.right.items()}
        cells = [_percent(metrics.mean(values, SEED, kind)) for kind, values in by_kind.items()]
        differences = {k: [run.right[k][i] - v for i, v in values.items()] for k, values in first.right.items()}
        minus = "" if run is first else _percent(metrics.average(differences, SEED), "+")
        lines.append(f"| {name} | {' | '.join(cells)} | {_percent(metrics.average(by_kind, SEED))} | {minus} |")
    return lines


def cost_table(runs: Mapping[str, Run]) -> list[str]:
    """Return costs an item and how many times cheaper than the first row; the tokens are those of all items."""
    first = next(iter(runs.values()))
    names = {
        "requests": "calls",
        "prompt_tokens": "tokens read",
        "cached_tokens": "of them cached",
        "completion_tokens": "written",
    }
    head = ["setting", *(shown for key, shown in names.items() if key in first.stats)]
    head += [cell for mode in first.seconds for cell in (f"{mode}, s", "×")]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, run in runs.items():
        items = sum(map(len, run.right.values()))
        cells = [f"{run.stats[key] / items:,.{int(key == 'requests')}f}" for key in names if key in run.stats]
        for mode, seconds in run.seconds.items():
            cells += [f"{seconds:.3g}", f"{first.seconds[mode] / seconds:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def replaced(page: str, title: str, lines: Sequence[str]) -> str:
    """Return a page with the section of that title replaced, or put behind the others."""
    section = "\n".join([f"## {title}", "", *lines]).strip() + "\n"
    mark = re.compile(rf"(?ms)^## {re.escape(title)}\n.*?(?=^## |\Z)")
    if mark.search(page):
        return mark.sub(lambda _: section + "\n", page).strip() + "\n"
    return f"{page.strip()}\n\n{section}"
