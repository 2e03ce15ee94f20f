"""Official values of GPQA-Diamond cases: `GPQAEval` of openai/simple-evals, the model's reply given.

python scripts/parity/gpqa_diamond.py --checkout DIR --cases tests/parity/gpqa_diamond/cases.jsonl --out F [--check]
The environment needs pandas, numpy, jinja2, requests and tqdm. Each case states the order of its options.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from choice_cases import Case, main


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value."""
    package = ModuleType("simple_evals")
    package.__path__ = [str(checkout)]
    sys.modules["simple_evals"] = package
    official = importlib.import_module("simple_evals.gpqa_eval").GPQAEval
    found: dict[str, float | None] = {}
    for case in cases:

        def reply(messages: list[object], text: str = case["response"]) -> SimpleNamespace:
            return SimpleNamespace(response_text=text, actual_queried_message_list=messages)

        reply._pack_message = lambda content, role: {"content": content, "role": role}  # type: ignore[attr-defined]
        # Not through __init__, which reads the gated questions from the network.
        evaluation = object.__new__(official)
        evaluation.examples = [{**case["record"], "permutation": case["order"]}]
        evaluation.n_repeats = 1
        found[case["id"]] = float(evaluation(reply).score)
    return found


if __name__ == "__main__":
    main(values)
