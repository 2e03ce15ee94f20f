"""What all parity scripts share: cases in, the official scorer's values out, compared with what the cases state."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

Case = dict[str, Any]


def absent(*modules: str) -> None:
    """Let modules be imported that only asking a model needs: a scorer's file imports them before its functions."""
    for name in modules:
        sys.modules[name] = MagicMock()


def official_cases(file: Path) -> list[Case]:
    """Return the cases whose value is the official scorer's."""
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [case for case in cases if case["source"] == "official"]


def main(values: Callable[[Path, list[Case]], dict[str, Any]], indent: int = 0) -> None:
    """Run `values(checkout, official cases)`, write id → value, print the digest; --check compares with the cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True, help="work tree of the scorer at the stated commit")
    parser.add_argument("--cases", type=Path, required=True, help="cases.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="JSON of id → value; null where an item is left out")
    parser.add_argument("--check", action="store_true", help="compare with the values that the cases state")
    options = parser.parse_args()
    # Before anything changes the folder.
    cases, stored, out = official_cases(options.cases), options.cases.resolve().parent, options.out.resolve()
    made = values(options.checkout.resolve(), cases)
    found = {case["id"]: made.get(case["id"]) for case in cases}
    text = json.dumps(found, indent=indent, sort_keys=True) + "\n"
    out.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    print(f"{len(found)} cases, sha256 {digest}")
    if options.check:
        stated = {case["id"]: case.get("official_value", case["expected"]["official"]) for case in cases}
        if wrong := [name for name, given in stated.items() if not _same(given, found[name])]:
            sys.exit(f"stated otherwise: {', '.join(wrong)}")
        if json.loads((stored / "official.json").read_text(encoding="utf-8"))["output_sha256"] != digest:
            sys.exit(f"{stored / 'official.json'} states another digest")
        print("as stated")


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) < 1e-9
