"""Official values of Frames cases: `get_pred` of Tongyi-Zhiwen/QwenLong-L1's eval/frames.py, the model's reply given.

python scripts/parity/frames.py --checkout DIR --cases tests/parity/frames/cases.jsonl --out F [--check]
An environment with the standard library is enough: what only asking a model needs is absent. The value is
`judge_sub_em`, the part of its score that needs no judge; null where the code leaves the item out.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

from open_cases import Case, main

_ABSENT = (
    *("tqdm", "datasets", "transformers", "tiktoken", "torch", "torch.multiprocessing"),
    *("utils", "utils.openai_api"),
)


def _official(checkout: Path) -> ModuleType:
    # By file: this script has the same name.
    spec = importlib.util.spec_from_file_location("official_frames", checkout / "eval" / "frames.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value."""
    for name in _ABSENT:
        sys.modules[name] = MagicMock()
    sys.modules["tqdm"].tqdm = lambda rows: rows  # type: ignore[attr-defined]
    official = _official(checkout)
    arguments = SimpleNamespace(model="gpt", api="openai", tokenizer="")
    found: dict[str, float | None] = {}
    for case in cases:
        sys.modules["utils.openai_api"].query_llm = lambda *_, reply=case["response"], **__: reply  # type: ignore
        written = io.StringIO()
        with redirect_stdout(io.StringIO()):
            official.get_pred([case["record"] | {"wiki_items": []}], arguments, written)
        lines = written.getvalue().split("\n")
        found[case["id"]] = float(json.loads(lines[0])["judge_sub_em"]) if lines[0] else None
    return found


if __name__ == "__main__":
    main(values)
