"""Kills a stage at a named point. Loaded by verl in every process of it, through VERL_USE_EXTERNAL_MODULES.

QWENLONG_TEST_KILL is `point@step`, QWENLONG_TEST_KILL_FOLDER a folder where processes tell each other the step and the
trainer's id. The process that comes to the point kills the trainer and itself with SIGKILL: nothing can clean up.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

POINTS = ("rollout", "reward", "update", "mid-save", "after-save")
POINT, _, _STEP = os.environ.get("QWENLONG_TEST_KILL", "@0").partition("@")
STEP = int(_STEP)
FOLDER = Path(os.environ.get("QWENLONG_TEST_KILL_FOLDER", "."))
_calls: dict[int, int] = {}


def _tell(name: str, text: str) -> None:
    partial = FOLDER / f"{name}.{os.getpid()}"
    partial.write_text(text)
    os.replace(partial, FOLDER / name)


def _step() -> int:
    file = FOLDER / "step"
    return int(file.read_text()) if file.is_file() else 0


def _call_of_step() -> int:
    """Count the calls in this step, from 1."""
    step = _step()
    _calls[step] = _calls.get(step, 0) + 1
    return _calls[step]


def _die(**seen: Any) -> None:
    _tell("reached", json.dumps({"point": POINT, "step": _step(), "pid": os.getpid(), **seen}))
    trainer = int((FOLDER / "trainer").read_text())
    for pid in dict.fromkeys((trainer, os.getpid())):
        os.kill(pid, signal.SIGKILL)


def _watch_trainer() -> None:
    from qwenlong.training.verl_plugin import trainer

    fetch, finish = trainer.QwenlongTrainer._fetch_one_gen_batch, trainer.finish

    def fetched(self: Any) -> Any:
        _tell("trainer", str(os.getpid()))
        _tell("step", str(self.global_steps))
        return fetch(self)

    def finished(folder: Path) -> None:
        if POINT == "after-save" and _step() == STEP:
            _die(files=sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
        finish(folder)

    trainer.QwenlongTrainer._fetch_one_gen_batch = fetched
    trainer.finish = finished


def _watch_rollout() -> None:
    from qwenlong.inference import engine

    sample = engine.Sampler.__call__

    def sampled(self: Any, logits: Any, uniforms: Any) -> Any:
        call = _call_of_step()
        if _step() == STEP and call == 6:
            _die(tokens=call - 1)
        return sample(self, logits, uniforms)

    engine.Sampler.__call__ = sampled


def _watch_reward() -> None:
    from qwenlong.rewards import service

    reward = service.reward

    async def rewarded(*args: Any, **kwargs: Any) -> Any:
        call = _call_of_step()
        if _step() == STEP and call == 4:
            _die(rewards=call - 1)
        return await reward(*args, **kwargs)

    service.reward = rewarded


def _watch_update() -> None:
    import torch

    backward = torch.Tensor.backward

    def backwards(self: Any, *args: Any, **kwargs: Any) -> None:
        backward(self, *args, **kwargs)
        if _step() == STEP:
            _die(loss=float(self))

    torch.Tensor.backward = backwards


def _watch_saving() -> None:
    import torch

    save = torch.save

    def saved(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        save(value, file, *args, **kwargs)
        if _step() == STEP and f"global_step_{STEP}/" in str(file):
            _die(file=str(file))

    torch.save = saved


_WATCH = {"rollout": _watch_rollout, "reward": _watch_reward, "update": _watch_update, "mid-save": _watch_saving}

if POINT:
    if POINT in _WATCH:
        _WATCH[POINT]()
    # The trainer is the process that was started by hand; its module is imported nowhere else.
    if "stage" in sys.argv:
        _watch_trainer()
