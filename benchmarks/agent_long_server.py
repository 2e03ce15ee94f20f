"""The endpoint of agent_long_document.py, in a process of its own: answers at once, and writes down what it was shown.

    python benchmarks/agent_long_server.py NEEDLES.json MEMORY_CHARACTERS

prints its port. `POST /v1/chat/completions` as OpenAI's; `GET /record` returns what was seen so far. Standard library
only. Its memory keeps the needles that a section or the old memory holds, and fills up with text of the section, so
that the client has memories of real size to read.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_SECTION = re.compile(r"^Section (\d+) of (\d+):\n", re.MULTILINE)


class Seen:
    """What came in: calls by kind, sections, needles, seconds spent here."""

    def __init__(self, needles: list[dict[str, str]], memory: int) -> None:
        self.needles, self.memory = needles, memory
        self.calls = {"split": 0, "update": 0, "answer": 0}
        self.order: list[int] = []
        self.whole = dict.fromkeys((needle["code"] for needle in needles), 0)
        self.mentioned = dict.fromkeys(self.whole, 0)
        self.text = hashlib.sha256()
        self.seconds = 0.0
        self.first = 0.0

    def reply(self, prompt: str) -> str:
        """Return the reply to a prompt, and count it."""
        found = _SECTION.search(prompt)
        if found is None:
            if prompt.startswith("Split the request"):
                self.calls["split"] += 1
                query = prompt.rpartition("Request:\n")[2]
                question, _, form = query.partition("? ")
                return f"<question>{question}?</question><format>{form}</format>"
            self.calls["answer"] += 1
            return " ".join(code for code in self.whole if code in prompt)
        self.calls["update"] += 1
        self.order.append(int(found[1]))
        before, section = prompt[: found.start()], prompt[found.end() :]
        # Blanks at the borders of a section are the prompt's.
        self.text.update("".join(section.split()).encode())
        kept = []
        for needle in self.needles:
            shown = section.count(needle["sentence"])
            self.whole[needle["code"]] += shown
            self.mentioned[needle["code"]] += section.count(needle["keeper"]) + section.count(needle["code"])
            if shown or needle["code"] in before:
                kept.append(f"The code of {needle['keeper']} is {needle['code']}.")
        return f"<memory>{' '.join(kept)}\n{section[: self.memory]}</memory>\n<plan>Look for more codes.</plan>"

    def record(self) -> dict[str, Any]:
        """Return what was seen so far."""
        values = {name: getattr(self, name) for name in ("calls", "order", "whole", "mentioned", "seconds", "first")}
        return values | {"text": self.text.hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: Seen

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        began = time.monotonic()
        self.seen.first = self.seen.first or time.time()
        prompt = json.loads(data)["messages"][-1]["content"]
        text = self.seen.reply(prompt)
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send({"choices": [choice], "usage": usage})
        self.seen.seconds += time.monotonic() - began

    def do_GET(self) -> None:
        self._send(self.seen.record())

    def _send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    _Handler.seen = Seen(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
