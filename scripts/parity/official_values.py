"""Run a function of a checkout on parity cases and write, or check, what it gives."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path


def main(about: str | None, scorer: Callable[[Path], Callable[[dict, str], float]]) -> None:
    """Read the command line, run, and write id -> value or compare with the cases and with official.json."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    lines = given.cases.read_text(encoding="utf-8").split("\n")
    cases = [case for line in lines if line for case in (json.loads(line),) if case["source"] == "official"]
    score = scorer(given.checkout)
    values = {case["id"]: score(case["record"], case["response"]) for case in cases}
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    if given.check:
        stored = {case["id"]: case.get("official_value", case["expected"]["official"]) for case in cases}
        wrong = [name for name in values if values[name] != stored[name]]
        stated = json.loads((given.cases.parent / "official.json").read_text(encoding="utf-8"))
        if wrong or stated["output_sha256"] != hashlib.sha256(text.encode()).hexdigest():
            sys.exit(f"{given.cases}: the official scorer gives other values for {wrong or 'the digest'}")
        print(f"{len(values)} cases as stored")
