"""What the parity scripts of open questions share: cases in, official values out."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = dict[str, Any]


def main(value: Callable[[Path, list[Case]], dict[str, float | None]]) -> None:
    """Run `value(checkout, official cases)`, write id → value, print the digest; --check compares with the cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True, help="work tree of the scorer at the stated commit")
    parser.add_argument("--cases", type=Path, required=True, help="cases.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="JSON of id → value; null where an item is left out")
    parser.add_argument("--check", action="store_true", help="compare with the values that the cases state")
    options = parser.parse_args()
    cases = [json.loads(line) for line in options.cases.read_text(encoding="utf-8").split("\n") if line]
    cases = [case for case in cases if case["source"] == "official"]
    out = options.out.resolve()
    found = value(options.checkout.resolve(), cases)
    found = {case["id"]: found.get(case["id"]) for case in cases}
    text = json.dumps(found, indent=0, sort_keys=True) + "\n"
    out.write_text(text, encoding="utf-8")
    print(f"{len(found)} cases, sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    if options.check:
        stated = {case["id"]: case.get("official_value", case["expected"]["official"]) for case in cases}
        if wrong := [name for name, given in stated.items() if not _same(given, found[name])]:
            sys.exit(f"stated otherwise: {', '.join(wrong)}")
        print("as stated")


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) < 1e-9
