"""Official values of LongMemEval cases: xiaowu0162/LongMemEval's evaluate_qa.py, with the judge's replies given.

python scripts/parity/longmemeval.py --checkout DIR --cases tests/parity/longmemeval/cases.jsonl --out F [--check]
Needs openai, backoff, numpy and tqdm. The program runs whole; the judge replies with the case's `judge`
(`official_reply` where ours asks nothing). A case states as `kind` the types of question for which the program would
have asked the very same, or "abstention"; the run ends where it asks otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from model_replies import Case, endpoint, main

TYPES = (
    "knowledge-update",
    "multi-session",
    "single-session-assistant",
    "single-session-preference",
    "single-session-user",
    "temporal-reasoning",
)


def values(checkout: Path, cases: list[Case]) -> dict[str, float]:
    """Return id → value. Exits when the program asks the judge another kind of question than a case says."""
    asked: dict[str, str] = {}

    def reply(prompt: str) -> str:
        (case,) = [case for case in cases if case["record"]["question"] in prompt]
        asked[case["id"]] = prompt
        return str(case["official_reply"] if "official_reply" in case else case["verdict_replies"]["judge"])

    folder = checkout / "src" / "evaluation"
    with tempfile.TemporaryDirectory() as name, endpoint(reply) as address:
        responses, records = Path(name) / "responses.jsonl", Path(name) / "records.json"
        rows = [{"question_id": case["record"]["question_id"], "hypothesis": case["response"]} for case in cases]
        responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
        records.write_text(json.dumps([case["record"] for case in cases]))
        command = [sys.executable, "evaluate_qa.py", "gpt-4o", str(responses), str(records)]
        variables = os.environ | {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": address}
        subprocess.run(command, cwd=folder, env=variables, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(name) / "responses.jsonl.eval-results-gpt-4o").read_text().split("\n")
    written = [json.loads(line) for line in lines if line]
    labels = {row["question_id"]: row["autoeval_label"]["label"] for row in written}
    kinds = {case["id"]: _kind(_module(folder), case, asked[case["id"]]) for case in cases}
    if wrong := [case["id"] for case in cases if case["kind"] != kinds[case["id"]]]:
        sys.exit(f"asked as another kind: {', '.join(f'{name} ({kinds[name]})' for name in wrong)}")
    return {case["id"]: float(labels[case["record"]["question_id"]]) for case in cases}


def _module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("official_evaluate_qa", folder / "evaluate_qa.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _kind(module: ModuleType, case: Case, prompt: str) -> str:
    record = case["record"]
    values = (record["question"], record["answer"], case["response"])
    if prompt == module.get_anscheck_prompt(record["question_type"], *values, abstention=True):
        return "abstention"
    return ", ".join(kind for kind in TYPES if prompt == module.get_anscheck_prompt(kind, *values))


if __name__ == "__main__":
    main(values)
