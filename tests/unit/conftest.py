"""A scripted OpenAI-compatible endpoint on loopback: what a test says it answers, it answers, and it counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Endpoint(ThreadingHTTPServer):
    """`answer(body)` gives a text, a dict with any of status, text, body (bytes), headers, finish, pause, drop."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[dict[str, Any]], Any] = lambda body: "1912"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
        said = self.server.answer(body)
        said = {"text": said} if isinstance(said, str) else said
        time.sleep(said.get("pause", 0.0))
        if said.get("drop"):
            self.close_connection = True
            self.connection.close()
            return
        message = {"role": "assistant", "content": said.get("text")} | said.get("message", {})
        completion = {
            "choices": [{"message": message, "finish_reason": said.get("finish", "stop")}],
            "usage": said.get("usage", {"prompt_tokens": 100, "completion_tokens": 10}),
        }
        data = said.get("body", json.dumps(completion).encode())
        try:
            self.send_response(said.get("status", 200))
            for name, text in said.get("headers", {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client gave up

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
