"""Official values of LongBench-V1 QA cases: `scorer` of THUDM/LongBench's LongBench/eval.py, one case at a time.

python scripts/parity/longbench_v1_qa.py --checkout DIR --cases F --out F [--check]
F is tests/parity/longbench_v1_qa/cases.jsonl. Needs jieba, fuzzywuzzy, rouge and numpy, which its modules import. A
prediction is the response as it is. The rounding to two decimals is left out.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from open_cases import Case, main


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value."""
    sys.path.insert(0, str(checkout / "LongBench"))
    official = importlib.import_module("eval")
    official.round = lambda value, digits: value  # type: ignore[attr-defined]
    found: dict[str, float | None] = {}
    for case in cases:
        record = case["record"]
        percent = official.scorer(record["dataset"], [case["response"]], [record["answers"]], None)
        found[case["id"]] = float(percent) / 100
    return found


if __name__ == "__main__":
    main(values)
