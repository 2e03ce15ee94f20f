"""A scripted OpenAI-compatible endpoint on loopback: what a test says it answers, it answers, and it counts."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint(ThreadingHTTPServer):
    """`answer(body)` gives a text, or a dict with any of status, text, body (bytes), headers, finish, pause, drop.

    `drop` closes the connection before a reply, `reset` with a TCP reset in the middle of one. A request with `stream`
    gets the text word by word, `between` seconds apart; `torn` ends the stream after the first word, and `hung_up`
    counts streams that the client left. `paid` counts the requests that were answered with a whole completion, by
    their body as JSON.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[dict[str, Any]], Any] = lambda body: "1912"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.paid: Counter[str] = Counter()
        self.busy = self.most = self.hung_up = 0
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.guard:
            server.requests.append(body)
            server.headers.append(dict(self.headers))
            server.paths.append(self.path)
            server.times.append(time.monotonic())
            server.busy += 1
            server.most = max(server.most, server.busy)
        said = server.answer(body)
        said = {"text": said} if isinstance(said, str) else said
        time.sleep(said.get("pause", 0.0))
        with server.guard:
            server.busy -= 1
        if said.get("drop"):
            self.close_connection = True
            self.connection.close()
            return
        self._send(body, said)

    def _send(self, body: dict[str, Any], said: dict[str, Any]) -> None:
        message = {"role": "assistant", "content": said.get("text")} | said.get("message", {})
        completion = {
            "choices": [{"message": message, "finish_reason": said.get("finish", "stop")}],
            "usage": said.get("usage", {"prompt_tokens": 100, "completion_tokens": 10}),
        }
        data = said.get("body", json.dumps(completion).encode())
        status = said.get("status", 200)
        if status == 200 and "body" not in said and not said.get("reset"):
            # Before it goes out: whoever was killed while it was on its way has paid all the same.
            with self.server.guard:
                self.server.paid[json.dumps(body, sort_keys=True)] += 1
        if status == 200 and body.get("stream") and "body" not in said:
            self._stream(said)
            return
        try:
            self.send_response(status)
            for name, text in said.get("headers", {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if said.get("reset"):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                # Linger of 0 seconds: close sends a reset instead of the rest.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(data)
        except OSError:
            pass  # the client gave up

    def _stream(self, said: dict[str, Any]) -> None:
        words = [f"{word} " for word in said["text"].split()]
        deltas: list[tuple[dict[str, Any], Any]] = [({"content": word}, None) for word in words]
        deltas.append(({}, said.get("finish", "stop")))
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for delta, finish in deltas[:1] if said.get("torn") else deltas:
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                self.wfile.write(f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\n\n".encode())
                self.wfile.flush()
                time.sleep(said.get("between", 0.0))
            if not said.get("torn"):
                self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            with self.server.guard:
                self.server.hung_up += 1

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


def together(answer: Callable[[dict[str, Any]], Any], count: int) -> Callable[[dict[str, Any]], Any]:
    """Answer nobody before `count` requests are there at once, however slow the machine; 20 seconds alone are a 500."""
    meeting = threading.Barrier(count)
    met = threading.Event()

    def held(body: dict[str, Any]) -> Any:
        if not met.is_set():
            try:
                meeting.wait(20)
            except threading.BrokenBarrierError:
                # Those who came after the meeting wait for none; without one, all are turned away.
                if not met.is_set():
                    return {"status": 500}
            met.set()
            meeting.abort()
        return answer(body)

    return held


@contextmanager
def serving() -> Iterator[Endpoint]:
    """Serve until the block ends."""
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
