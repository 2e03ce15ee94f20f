#!/usr/bin/env python3
"""Scores parity cases with the official scorer of BFCL's agentic categories, from a checkout; holds none of its code.

    python scripts/parity/bfcl_v4_memory.py --checkout DIR --cases tests/parity/bfcl_v4_memory_kv/cases.jsonl --out F
    python scripts/parity/bfcl_v4_memory.py --checkout DIR --cases F --check

DIR is the folder `berkeley-function-call-leaderboard` of ShishirPatil/gorilla at the commit of official.json, or the
site-packages of an environment with bfcl-eval. It runs in an environment of its own (packages: official.json). A
response is given as the only message of the only turn, and read for calls as the harness reads prompted models'.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import types
from pathlib import Path


class Prompted:
    """What the scorer needs of a model's handler: how a message is read for calls."""

    @staticmethod
    def decode_execute(result, has_tool_call_tag):  # noqa: D102
        from bfcl_eval.model_handler.utils import default_decode_execute_prompting

        return default_decode_execute_prompting(result, has_tool_call_tag)


def scorer(checkout: Path):
    """Return the official function for one entry."""
    # The package makes folders for results where it thinks its project is.
    os.environ["BFCL_PROJECT_ROOT"] = tempfile.mkdtemp(prefix="bfcl-")
    sys.path.insert(0, str(checkout))
    # The table of models imports the clients of every vendor; the scorer is given a handler instead.
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {}
    sys.modules[models.__name__] = models
    from bfcl_eval.eval_checker.eval_runner import _evaluate_single_agentic_entry

    return _evaluate_single_agentic_entry


def main() -> int:
    """Score the cases; write or check. Exit code 1 where the values are others than the file's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="compare with the cases' own values")
    arguments = parser.parse_args()
    evaluate = scorer(arguments.checkout.resolve())
    values, wrong = {}, []
    for line in arguments.cases.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        record = case["record"]
        prompt = {"question": record["question"]}
        golds = record["ground_truth"]
        end = evaluate(Prompted(), case["id"], [[case["response"]]], golds, prompt, "model", "memory_kv")
        values[case["id"]] = float(end["valid"])
        expected = case.get("official_value", case["expected"]["official"])
        if case["source"] == "official" and expected != values[case["id"]]:
            wrong.append(f"{case['id']}: {expected} in the cases, {values[case['id']]} official")
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(f"{len(values)} cases, sha256 of the output {hashlib.sha256(text.encode()).hexdigest()}")
    if arguments.check and wrong:
        print("\n".join(wrong))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
