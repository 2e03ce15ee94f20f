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
import threading
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from open_cases import Case, main


def _judge(replies: dict[str, str]) -> type[BaseHTTPRequestHandler]:
    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = request["messages"][-1]["content"]
            (reply,) = [text for question, text in replies.items() if question in asked]
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Judge


def _reply(case: Case) -> str:
    return str(case["official_reply"] if "official_reply" in case else case["verdict_replies"]["official"])


def values(checkout: Path, cases: list[Case]) -> dict[str, float | None]:
    """Return id → value. Exits when the script takes another answer than a case says."""
    import openai

    server = ThreadingHTTPServer(("127.0.0.1", 0), _judge({c["record"]["question"]: _reply(c) for c in cases}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client, address = openai.OpenAI, f"http://127.0.0.1:{server.server_port}/v1"
    openai.OpenAI = lambda **settings: client(**settings | {"base_url": address})  # type: ignore
    os.environ["DASHSCOPE_API_KEY"] = "none"
    with tempfile.TemporaryDirectory() as folder:
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
    server.shutdown()
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
