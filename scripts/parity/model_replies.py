"""For scorers that ask a model: cases in, the model's replies from the cases, official values out.

The scorer's own program runs in a process of its own; its endpoint is a server of this process, on this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Case = dict[str, Any]


def official_cases(file: Path) -> list[Case]:
    """Return the cases whose value is the official scorer's."""
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [case for case in cases if case["source"] == "official"]


@contextmanager
def endpoint(reply: Callable[[str], str]) -> Iterator[str]:
    """Yield the address of a chat endpoint that answers a request by `reply(all its messages, joined)`."""

    class Model(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = reply("\n".join(message["content"] for message in request["messages"]))
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def main(values: Callable[[Path, list[Case]], dict[str, float]]) -> None:
    """Run `values(checkout, cases)`, write id → value, print the digest; --check compares with the cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True, help="work tree of the scorer at the stated commit")
    parser.add_argument("--cases", type=Path, required=True, help="cases.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="JSON of id → value")
    parser.add_argument("--check", action="store_true", help="compare with the values that the cases state")
    options = parser.parse_args()
    cases = official_cases(options.cases)
    found = values(options.checkout.resolve(), cases)
    text = json.dumps(found, indent=0, sort_keys=True) + "\n"
    options.out.write_text(text, encoding="utf-8")
    print(f"{len(found)} cases, sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    if options.check:
        stated = {case["id"]: case.get("official_value", case["expected"]["official"]) for case in cases}
        if wrong := [name for name, value in stated.items() if value != found.get(name)]:
            sys.exit(f"stated otherwise: {', '.join(wrong)}")
        print("as stated")
