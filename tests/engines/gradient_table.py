"""The Markdown table of measured gradient comparisons."""

from __future__ import annotations

from typing import Any

_HEAD = """\
# Gradients through verl, against the equations

Written by `tests/engines/gradient_driver.py --table`; docs/training.md says how the gradient is checked. Relative error
of `param.grad` after verl's backward and before clipping, the worst parameter of each case: of the largest element, and
of the 2-norm. Limit in float32: 1e-4. The last rows are deliberate faults, which the comparison has to reject.
"""
_AGAINST = """\
# Gradients of several GPUs against those of one

Written by `tests/engines/gradient_driver.py --against … --table`: the same batch on one GPU and on more. Relative
difference of `param.grad`, the worst parameter of each case: of the largest element, and of the 2-norm; then the
difference of the norms of whole gradients. Aims: 1e-4 in float32, 1e-2 in bfloat16; in bfloat16 one GPU's own gradient
is as far from the equations as the two are from each other, since other rows share a matrix product.
"""


def table(files: list[dict[str, Any]]) -> str:
    """Return the document for the results of some runs of the driver."""
    text = _AGAINST if all(one.get("against") for one in files) else _HEAD
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in files:
        for case in one["cases"]:
            if one.get("against") and case["wrong"]:
                continue
            place = one["device"], one["dtype"], one["torch"], case["ranks"], case.get("sequence", 1)
            found.setdefault(place, []).append(case | {"against": one.get("against", False)})
    for (device, dtype, torch, ranks, sequence), cases in sorted(found.items()):
        shared = f", {sequence} share a row" if sequence > 1 else ""
        text += f"\n## {device}, {dtype}, {ranks} rank{'s' if ranks > 1 else ''}{shared}\n"
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
        cells = [_cell(found[c]) if c in found else "–" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(case: dict[str, Any]) -> str:
    text = f"{case['element']:.1e}, {case['norm']:.1e}"
    if case["against"]:
        text += f", {abs(case['grad_norm'] / case['reference_norm'] - 1):.1e}"
    return text
