"""Values of AIME cases by a public scorer, since the contest's authors publish none: groq/openbench's `aime_scorer`.

python scripts/parity/aime.py --checkout DIR --cases tests/parity/aime24/cases.jsonl --out F [--check]
The environment needs inspect-ai. A value is null where the code crashes.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import SimpleNamespace

from choice_cases import Case, main

FILE = "src/openbench/scorers/robust_boxed.py"


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value."""
    place = importlib.util.spec_from_file_location("robust_boxed", checkout / FILE)
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    score = module.aime_scorer()
    found: dict[str, float | None] = {}
    for case in cases:
        state = SimpleNamespace(output=SimpleNamespace(completion=case["response"]))
        target = SimpleNamespace(text=str(case["record"]["answer"]))
        try:
            found[case["id"]] = float(asyncio.run(score(state, target)).value == module.CORRECT)
        except OverflowError:
            found[case["id"]] = None
    return found


if __name__ == "__main__":
    main(values)
