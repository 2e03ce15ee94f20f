"""A scripted endpoint in a process of its own, which a killed client does not take along: it counts, and it fails.

`python agent_server.py SETTINGS` prints its port. SETTINGS is JSON: `delay` (seconds a call takes), `faults` (how many
of each kind among 40 calls, from the first on), `hang` (seconds), `seed`. A reply depends on all of its prompt: memory
that differs in one turn differs in all that follow. GET /log returns every call as [item, digest of the prompt, kind of
fault or ""].
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SETTINGS = {"delay": 0.0, "faults": {}, "hang": 3.0, "seed": 0} | json.loads(sys.argv[1])
LOG: list[tuple[str, str, str]] = []
DECK: list[str] = []
GUARD = threading.Lock()


def good(prompt: str) -> str:
    """Return what a model would say that remembers everything it ever read, as a digest."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:24]
    if prompt.startswith("Split"):
        return "<question>" + prompt.rpartition("Request:\n")[2].split(" One ")[0] + "</question><format></format>"
    if "Section" in prompt:
        return f"<memory>so far {digest}</memory><plan>after {digest[:8]}</plan>"
    return f"It is {digest}."


class Handler(BaseHTTPRequestHandler):
    """Chat completions and the log."""

    protocol_version = "HTTP/1.1"
    # Headers and body leave in one piece; in two, the second waits for the client's delayed acknowledgement.
    wbufsize = -1

    def do_GET(self) -> None:
        with GUARD:
            data = json.dumps(LOG if self.path == "/log" else len(LOG)).encode()
        self.reply(200, data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][0]["content"]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        item = prompt.partition("<<")[2].partition(">>")[0]
        with GUARD:
            kind = fault(len(LOG))
            LOG.append((item, digest, kind))
        time.sleep(SETTINGS["hang"] if kind == "hang" else SETTINGS["delay"])
        text, finish = good(prompt), "stop"
        if kind == "untagged":
            text = "I would rather tell you about the weather."
        elif kind == "cut":
            text, finish = text[: len(text) // 3], "length"
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        data = json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}).encode()
        if kind == "500":
            return self.reply(500, b"oops")
        if kind == "429":
            return self.reply(429, b"slow down", {"Retry-After": "0.05"})
        if kind == "garbage":
            return self.reply(200, b'{"choices": [{"mess')
        if kind == "half":
            self.reply(200, data, {}, data[: len(data) // 2])
            self.close_connection = True
            return None
        return self.reply(200, data)

    def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None, sent: bytes | None = None) -> None:
        """Send a response; with `sent`, only so much of what its length promises."""
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if sent is None else sent)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client was killed

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def fault(call: int) -> str:
    """Return the fault that a call meets, "" for none: drawn without putting back, each kind keeps its share."""
    if not DECK:
        DECK.extend(kind for kind, count in SETTINGS["faults"].items() for _ in range(count))
        DECK.extend([""] * (40 - len(DECK)))
        random.Random(f"{SETTINGS['seed']}/{call}").shuffle(DECK)
    return DECK.pop()


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever(poll_interval=0.05)
