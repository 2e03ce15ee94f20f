"""Run RULER's own matching on the parity cases: `postprocess_pred`, then the task's metric of NVIDIA/RULER.

    python scripts/parity/ruler.py --checkout DIR --cases tests/parity/ruler/cases.jsonl --out values.json
    python scripts/parity/ruler.py --checkout DIR --cases tests/parity/ruler/cases.jsonl --check

DIR is a checkout of the repository at the commit of official.json. The metric gives percent, rounded to two decimals
over all predictions of a task; here it is given one at a time, and divided by 100. Needs Python alone.
"""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

from official_values import main

METRICS = "scripts/eval/synthetic/constants.py"
CLEANING = "scripts/eval/evaluate.py"
#: The suite's names of tasks by the metric table's (scripts/synthetic.yaml).
KINDS = {
    "niah": "niah",
    "vt": "variable_tracking",
    "cwe": "common_words_extraction",
    "fwe": "freq_words_extraction",
    "qa": "qa",
}


def scorer(checkout: Path):
    """Return a function from record and response to the official value."""
    metrics = runpy.run_path(str(checkout / METRICS))["TASKS"]
    # Its module reads command line arguments when imported.
    tree = ast.parse((checkout / CLEANING).read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "postprocess_pred"]
    names: dict = {"re": re}
    exec(compile(ast.Module(functions, []), CLEANING, "exec"), names)

    def value(record, response):
        metric = metrics[KINDS[record["task"].split("_")[0]]]["metric_fn"]
        return metric([names["postprocess_pred"](response, {})], [record["outputs"]]) / 100

    return value


if __name__ == "__main__":
    main(__doc__, scorer)
