"""Official values of CorpusQA cases: Tongyi-Zhiwen/CorpusQA's src/eval.py, with a judge that replies as the case says.

python scripts/parity/corpusqa.py --checkout DIR --cases tests/parity/corpusqa/cases.jsonl --out F [--check]
Needs openai. The script runs whole; only the address of its endpoint is another, that of a server in this process,
which replies with the case's reply to its ask `official` (`official_reply` where ours asks nothing). What the script
takes for the answer must be the case's `answer` (`official_answer` where ours differs).
"""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
import tempfile
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from model_replies import endpoint
from official_run import Case, main


def _judge(replies: dict[str, str], asked: str) -> str:
    (reply,) = [text for question, text in replies.items() if question in asked]
    return reply


def _reply(case: Case) -> str:
    return str(case["official_reply"] if "official_reply" in case else case["verdict_replies"]["official"])


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value. Exits when the script takes another answer than a case says."""
    import openai

    replies = {case["record"]["question"]: _reply(case) for case in cases}
    client = openai.OpenAI
    os.environ["DASHSCOPE_API_KEY"] = "none"
    with endpoint(partial(_judge, replies)) as address, tempfile.TemporaryDirectory() as folder:
        openai.OpenAI = lambda **settings: client(**settings | {"base_url": address})  # type: ignore
        os.chdir(folder)
        Path("runs").mkdir()
        rows = [case["record"] | {"id": case["id"], "response": case["response"]} for case in cases]
        Path("runs/m_cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        script = str(checkout / "src" / "eval.py")
        sys.argv = [script, "--input_file", "m_cases.jsonl", "--model", "judge"]
        with redirect_stdout(io.StringIO()):
            runpy.run_path(script, run_name="__main__")
        lines = Path("evals/m_cases_eval.jsonl").read_text(encoding="utf-8").split("\n")
        os.chdir(checkout)
    written = {row["id"]: row for row in (json.loads(line) for line in lines if line)}
    for case in cases:
        row = written[case["id"]]
        if row["reason"] != _reply(case).strip():
            sys.exit(f"{case['id']}: the judge was not reached: {row['reason']}")
        if row["model_answer"] != case.get("official_answer", case["answer"]):
            sys.exit(f"{case['id']}: the script takes the answer {row['model_answer']!r}")
    return {name: float(row["correct"]) for name, row in written.items()}


if __name__ == "__main__":
    main(values)
