"""Official values of DocMath cases: yale-nlp/DocMath-Eval's evaluation.py, its extraction of answers given.

python scripts/parity/docmath.py --checkout DIR --cases tests/parity/docmath/cases.jsonl --out F [--check]
Needs sympy, numpy, tqdm, openai, aiohttp, aiolimiter and evaluate, which it imports. The program runs whole, for
answers in words ("cot"); the model that cuts the number out of a response replies with the case's `extracted`.
It hands model text to eval(): run it on these cases only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from model_replies import Case, endpoint, main


def values(checkout: Path, cases: list[Case]) -> dict[str, float]:
    """Return id → value."""
    asked = {f"Question: {case['record']['question']}\n": case["extracted"] for case in cases}

    def reply(prompt: str) -> str:
        (extracted,) = [text for question, text in asked.items() if question in prompt]
        return str(extracted)

    with tempfile.TemporaryDirectory() as name, endpoint(reply) as address:
        folder = Path(name)
        rows = [case["record"] | {"output": case["response"]} for case in cases]
        (folder / "predictions.json").write_text(json.dumps(rows))
        (folder / "truth.json").write_text(json.dumps([case["record"] for case in cases]))
        command = [sys.executable, "evaluation.py", "--prompt_type", "cot", "--api_base", address, "--api_key", "none"]
        command += ["--prediction_path", str(folder / "predictions.json"), "--result_file", str(folder / "result.json")]
        command += ["--ground_truth_file", str(folder / "truth.json"), "--evaluation_output_dir", str(folder / "out")]
        subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)
        written = json.loads((folder / "out" / "predictions.json").read_text())
    scored = {row["question_id"]: float(row["result"]["acc"]) for row in written}
    return {case["id"]: scored[case["record"]["question_id"]] for case in cases}


if __name__ == "__main__":
    main(values)
