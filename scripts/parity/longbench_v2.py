"""Official values of LongBench-V2 cases: `get_pred` of THUDM/LongBench's pred.py, the model's reply given.

python scripts/parity/longbench_v2.py --checkout DIR --cases tests/parity/longbench_v2/cases.jsonl --out F [--check]
An environment with the standard library is enough. A value is null where the code leaves the item out.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from choice_cases import Case, absent, main


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value."""
    absent("tqdm", "datasets", "openai", "transformers", "tiktoken", "torch", "torch.multiprocessing")
    sys.modules["tqdm"].tqdm = lambda rows: rows  # type: ignore[attr-defined]
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    official = importlib.import_module("pred")
    arguments = SimpleNamespace(model="gpt", rag=0, no_context=False, cot=False)
    found: dict[str, float | None] = {}
    for case in cases:
        official.query_llm = lambda *_, reply=case["response"], **__: reply
        written = io.StringIO()
        official.get_pred([dict(case["record"])], arguments, written)
        lines = written.getvalue().split("\n")
        found[case["id"]] = float(json.loads(lines[0])["judge"]) if lines[0] else None
    return found


if __name__ == "__main__":
    main(values)
