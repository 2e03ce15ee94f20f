"""Two runs on one host, each with a Ray whose first job is number 1: weights go to the run's own rollout engine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq

from qwenlong.core.config import Config
from qwenlong.training.verl_plugin import weight_address
from qwenlong.training.verl_plugin.launch import environment

NAME = weight_address.PREFIX + "01000000-replica-0-rank-0.sock"


def addresses(monkeypatch: pytest.MonkeyPatch, token: str) -> tuple[str, str]:
    """Return the trainer's address and the engine's, as verl makes them from job, replica and rank."""
    monkeypatch.setenv(weight_address.TOKEN, token)
    trainer = weight_address.own(NAME)
    return trainer, f"{weight_address.PREFIX}{weight_address.job('01000000')}-replica-0-rank-0.sock"


def test_both_sides_of_a_run_agree_and_runs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, engine = addresses(monkeypatch, "a1")
    theirs, other = addresses(monkeypatch, "b2")
    assert ours == engine and theirs == other and ours != theirs


def test_weights_of_two_runs_at_once_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, bytes] = {}

    def engine(token: str, address: str) -> None:
        socket = zmq.Context.instance().socket(zmq.REP)
        socket.connect(address)
        got[token] = socket.recv()
        socket.send(b"taken")
        socket.close(0)

    pairs = {token: addresses(monkeypatch, token) for token in ("run-a", "run-b")}
    senders = {}
    for token, (trainer, _) in pairs.items():
        senders[token] = zmq.Context.instance().socket(zmq.REQ)
        senders[token].bind(trainer)
    readers = [threading.Thread(target=engine, args=(token, pair[1])) for token, pair in pairs.items()]
    for reader in readers:
        reader.start()
    for token, socket in senders.items():
        socket.send(token.encode())
    for token, socket in senders.items():
        assert socket.poll(10_000) and socket.recv() == b"taken"
        socket.close(0)
        Path(pairs[token][0].removeprefix("ipc://")).unlink(missing_ok=True)
    for reader in readers:
        reader.join(10)
    assert got == {"run-a": b"run-a", "run-b": b"run-b"}


def test_an_address_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weight_address.TOKEN, "a1")
    with pytest.raises(RuntimeError, match=r"tcp://host:1.*fits verl"):
        weight_address.own("tcp://host:1")


def test_verl_still_names_its_sockets_so() -> None:
    # verl's own modules need vLLM: their text is looked at.
    spec = importlib.util.find_spec("verl")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "workers" / "rollout" / "vllm_rollout"
    name = weight_address.PREFIX + "{job_id}-replica-"
    assert all(name in (folder / file).read_text() for file in ("vllm_rollout.py", "utils.py"))
    assert f'os.environ.get("{weight_address.JOB}"' in (folder / "utils.py").read_text()
    server = (folder / "vllm_async_server.py").read_text()
    assert f'os.environ["{weight_address.JOB}"] = ' in server and "self.server_class = ray.remote(" in server


def test_verl_uses_it() -> None:
    # As every process of a run has it: a fresh one, in which verl loads the modules that the run names.
    said = subprocess.run(
        [sys.executable, "-c", "import verl.workers.rollout.base as b; print(b._ROLLOUT_REGISTRY['vllm', 'async'])"],
        env=os.environ | environment(Config()), capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert said.stdout.split()[-1] == "qwenlong.training.verl_plugin.vllm_rollout.Adapter"
