"""A little server in place of vLLM, told by variables how it behaves; `python replica_server.py PORT FOLDER`.

SLOW: seconds before it listens. CRASH: exits after so many completions, in the middle of the next. BROKEN: exits at
once. DAEMON: leaves a process that has a session of its own. PAUSE: seconds a completion takes. HANG: file; while it is
there, /health is not answered. STUBBORN: seconds between SIGTERM and the end. SAY: the answer. Each start and each
completion is a line in FOLDER/events.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
TOLD = os.environ
guard = threading.Lock()
done = 0


def note(**event: Any) -> None:
    with guard, (FOLDER / "events").open("a") as stream:
        stream.write(json.dumps({"pid": os.getpid(), "port": PORT, **event}) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            while TOLD.get("HANG") and Path(TOLD["HANG"]).exists():
                time.sleep(0.05)
            self.reply(200, {})
        elif self.allowed():
            self.reply(200, {"data": [{"id": "little"}], "path": self.path})

    def allowed(self) -> bool:
        given = self.headers.get("Authorization") == f"Bearer {TOLD['VLLM_API_KEY']}"
        if not given:
            self.reply(401, {"error": "wrong key"})
        return given

    def do_POST(self) -> None:
        global done
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        if body["messages"][-1]["content"] == "Say hello.":  # the probe
            self.reply(200, {"choices": [{"message": {"content": "hello"}}]})
            return
        with guard:
            done += 1
            number = done
        if TOLD.get("CRASH") and number > int(TOLD["CRASH"]):
            os._exit(3)
        asked = body["messages"][-1]["content"]
        if body.get("stream"):
            self.stream(asked)
            return
        time.sleep(float(TOLD.get("PAUSE", 0)))
        note(asked=asked)
        said = {"role": "assistant", "content": TOLD.get("SAY") or f"{asked} by {PORT}"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self.reply(200, {"choices": [{"message": said, "finish_reason": "stop"}], "usage": usage})

    def stream(self, asked: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(int(asked)):
                piece = f"data: {number} {time.time()}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
                time.sleep(0.1)
                if TOLD.get("CRASH") == "stream" or (asked == "7" and number == 2):
                    os._exit(3)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            note(hung_up=asked)

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        pass


if TOLD.get("BROKEN"):
    sys.exit("no room on the GPU")
if TOLD.get("DAEMON"):
    twice = (
        "import os,sys,time; os.setsid(); os.fork() and os._exit(0); print(os.getpid(), flush=True); time.sleep(600)"
    )
    daemon = subprocess.Popen([sys.executable, "-c", twice], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    note(daemon=int(daemon.stdout.readline()))
if TOLD.get("STUBBORN"):
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(float(TOLD["STUBBORN"])), os._exit(0)))
note(start=True, argv=sys.argv, key=TOLD["VLLM_API_KEY"], parent=os.getppid())
time.sleep(float(TOLD.get("SLOW", 0)))
Server(("127.0.0.1", PORT), Handler).serve_forever(poll_interval=0.02)
