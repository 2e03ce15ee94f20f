"""`python -m qwenlong.serving.keeper GRACE COMMAND…`: runs a server, and ends it with all below when its parent goes.

The parent holds the other end of this process's stdin: when it closes, however the parent ended, the server is
terminated, and after GRACE seconds killed with every process that descends from it, daemons included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil

from qwenlong.core.descendants import adopt_orphans, die_with_parent

#: Seconds that a server's own processes may outlive it.
_LEFT = 2.0


def _last_wish() -> None:
    """In the server's process: should this keeper be killed, the server is, too."""
    die_with_parent(signal.SIGKILL)


def _descendants() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.is_running() and _status(p) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


def _end(server: subprocess.Popen[bytes], grace: float) -> None:
    if server.poll() is None:
        server.terminate()
    end = time.monotonic() + grace
    ended = False
    while _descendants() and time.monotonic() < end:
        if not ended and server.poll() is not None:
            # What it has not ended by itself is forgotten, most likely.
            ended, end = True, min(end, time.monotonic() + _LEFT)
        time.sleep(0.05)
    for _ in range(100):
        left = _descendants()
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        server.poll()
        time.sleep(0.05)


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the parent goes; return its exit code, 128 + n for a signal."""
    grace, command = float(arguments[0]), arguments[1:]
    # What the server leaves to init comes to this process instead.
    adopt_orphans()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_last_wish)
    except OSError as error:
        print(f"error: cannot start {command[0]!r}: {error.strerror}", file=sys.stderr)
        return 127

    def listen() -> None:
        while os.read(0, 64):
            pass
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    while server.poll() is None and not over.wait(0.1):
        pass
    _end(server, grace)
    code = server.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
