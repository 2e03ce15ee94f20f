"""The Markdown table of measured gradient comparisons."""

from __future__ import annotations

from typing import Any

_HEAD = """\
# Gradients through verl, against the equations

Written by `tests/engines/gradient_driver.py --table`; docs/training.md says how the gradient is checked. Relative error
of `param.grad` after verl's backward and before clipping, the worst parameter of each case: of the largest element, and
of the 2-norm. Limit in float32: 1e-4. The last rows are deliberate faults, which the comparison has to reject.
"""


def table(files: list[dict[str, Any]]) -> str:
    """Return the document for the results of some runs of the driver."""
    text = _HEAD
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in files:
        for case in one["cases"]:
            found.setdefault((one["device"], one["dtype"], one["torch"], case["ranks"]), []).append(case)
    for (device, dtype, torch, ranks), cases in sorted(found.items()):
        text += f"\n## {device}, {dtype}, {ranks} rank{'s' if ranks > 1 else ''}\n"
        text += f"\ntorch {torch}. Engines: {_engines(cases)}.\n\n{_rows(cases)}"
    return text


def _engines(cases: list[dict[str, Any]]) -> str:
    names = sorted({(case["engine"], case["class"].rpartition(".")[2]) for case in cases})
    return ", ".join(f"{engine} = `{kind}`" for engine, kind in names)


def _rows(cases: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys((case["model"], case["engine"]) for case in cases))
    lines = [
        "| case | " + " | ".join(f"{model}, {engine}" for model, engine in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in sorted({case["case"] for case in cases}, key=lambda name: (name.startswith("wrong"), name)):
        found = {(case["model"], case["engine"]): case for case in cases if case["case"] == name}
        cells = [
            f"{found[c]['element']:.1e}, {found[c]['norm']:.1e}" if c in found else "–"
            for c in columns
        ]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
