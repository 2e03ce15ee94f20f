"""Official values of MMLU-Pro cases: `extract_answer` and `save_res` of TIGER-AI-Lab/MMLU-Pro's evaluate_from_local.py.

python scripts/parity/mmlu_pro.py --checkout DIR --cases tests/parity/mmlu_pro/cases.jsonl --out F [--check]
An environment with the standard library is enough. Where the code guesses, each of its guesses is made once: the value
is the mean.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path

from choice_cases import Case, absent, main


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value."""
    absent("torch", "transformers", "vllm", "vllm.lora", "vllm.lora.request", "tqdm", "datasets")
    sys.path.insert(0, str(checkout))
    official = importlib.import_module("evaluate_from_local")
    found: dict[str, float | None] = {}
    for case in cases:
        (record,) = official.preprocess([dict(case["record"])])
        with contextlib.redirect_stdout(io.StringIO()):
            record["pred"] = official.extract_answer(case["response"])
        guesses = []
        for guess in range(len(record["options"])):
            official.random.randint = lambda *_, guess=guess: guess
            guesses.append(official.save_res([record], os.devnull)[0])
        found[case["id"]] = sum(guesses) / len(guesses)
    return found


if __name__ == "__main__":
    main(values)
