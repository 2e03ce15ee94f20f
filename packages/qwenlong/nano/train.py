"""Training of the nano policy from nothing: rounds of examples whose prompts grow with what was learned.

A round is made by worker processes while the one before is trained on; its prompt length is decided one round ahead,
so that the data are a function of seed and losses, not of timing. State is saved between rounds.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qwenlong.core.config import NanoTrainingConfig
from qwenlong.core.files import atomic_file
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.nano import material
from qwenlong.nano.episodes import Teacher
from qwenlong.training import supervised
from qwenlong.training.supervised import Item, batches, loss_of

#: What shows that reading has formed: the mean loss over these kinds opens the next length.
GATE = ("copy", "reading_comprehension", "doc_multi_hop", "memory_update")


@dataclass
class Progress:
    """Where training stands between two rounds."""

    round: int = 0
    step: int = 0
    tokens: int = 0
    length: int = 0
    coming: tuple[int, float] = (0, 0.0)  # length and share given up of the round that is made now
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)


_teacher: Teacher | None = None


def _open(path: str, tokenizer: str, seed: int, window: int, templates: Sequence[str] | None) -> None:
    global _teacher
    torch.set_num_threads(1)
    _teacher = Teacher(material.load(path), Tokenizer(tokenizer), seed, window, templates)


def _make(number: int, length: int, gives_up: float) -> list[Item]:
    assert _teacher is not None
    return [
        (e.kind, np.array(e.prompt + e.response, dtype=np.int32), len(e.prompt))
        for e in _teacher.examples(number, length, gives_up)
    ]


@contextmanager
def teachers(
    path: Path, tokenizer: Path, seed: int, window: int, workers: int, templates: Sequence[str] | None
) -> Iterator[Callable[[int, int, float], Future[list[Item]]]]:
    """Yield a function that has worker processes make pool `number` with prompts of up to `length` tokens.

    Its third argument is the greatest share of questions that are given up. Each worker reads the material at `path`
    once. Started afresh rather than forked, since this process may hold a GPU.
    """
    opened = (str(path), str(tokenizer), seed, window, templates)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_open, initargs=opened) as pool:
        try:
            yield lambda number, length, gives_up: pool.submit(_make, number, length, gives_up)
        finally:
            pool.shutdown(cancel_futures=True)


def train(
    model: Any,
    plan: NanoTrainingConfig,
    *,
    material_path: Path,
    tokenizer: Path,
    window: int,
    seed: int,
    state: Path,
    device: str,
    templates: Sequence[str] | None = None,
    log: Callable[[dict[str, Any]], None],
    limit_seconds: float = math.inf,
) -> Progress:
    """Train in place on `plan.tokens` tokens, passes counted; `log` hears of every round.

    Resumes from `state`, which is written every few rounds. Stops early, to be resumed, after `limit_seconds`. The data
    are the same for the same seed and losses; weights differ in rounding between kinds of devices.
    """
    entered = time.perf_counter()
    optimizer = supervised.optimizer(model, plan.learning_rate, plan.weight_decay, device)
    progress = _load(model, optimizer, state, device) or Progress(
        length=plan.first_length, coming=(plan.first_length, 0.0)
    )
    model.train()
    with teachers(material_path, tokenizer, seed, window, plan.workers, templates) as make:

        def begin(number: int, length: int, gives_up: float) -> list[Future[list[Item]]]:
            return [make(number * plan.pools + n, length, gives_up) for n in range(plan.pools)]

        waiting = begin(progress.round, *progress.coming)
        while progress.tokens < plan.tokens and time.perf_counter() - entered < limit_seconds:
            items = [item for future in waiting for item in future.result()]
            length, _ = progress.coming
            gives_up = plan.gives_up if progress.tokens >= plan.gives_up_after * plan.tokens else 0.0
            progress.coming = (progress.length, gives_up)
            waiting = begin(progress.round + 1, *progress.coming)
            started = time.perf_counter()
            heard: dict[str, list[float]] = {}
            rng = random.Random(derive(seed, "round", progress.round))
            for _ in range(plan.passes):
                for batch in batches(items, plan.batch_tokens, rng):
                    share = min(1.0, progress.tokens / plan.tokens)
                    rate = plan.learning_rate * min(1.0, (progress.step + 1) / plan.rise)
                    for group in optimizer.param_groups:
                        group["lr"] = rate * max(0.03, 0.5 * (1 + math.cos(math.pi * share)))
                    loss, by_kind = loss_of(model, batch, plan.prompt_weight, device)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    progress.step += 1
                    progress.tokens += sum(len(ids) for _, ids, _ in batch)
                    for kind, values in by_kind.items():
                        heard.setdefault(kind, []).extend(values)
            spent = time.perf_counter() - started
            progress.seconds += spent
            progress.round += 1
            progress.losses = {kind: float(np.mean(values)) for kind, values in sorted(heard.items())}
            gate = float(np.mean([progress.losses[kind] for kind in GATE if kind in progress.losses]))
            log(
                {
                    "round": progress.round, "step": progress.step, "tokens": progress.tokens,
                    "length": length, "seconds": round(progress.seconds, 1), "gate": round(gate, 4),
                    "examples": len(items), "train_seconds": round(spent, 2), "weights": digest(model),
                    "losses": {kind: round(value, 3) for kind, value in progress.losses.items()},
                }
            )  # fmt: skip
            if gate < plan.gate and progress.length < plan.last_length:
                progress.length = min(plan.last_length, int(progress.length * plan.growth))
            if progress.round % 10 == 0:
                _save(model, optimizer, state, progress)
    _save(model, optimizer, state, progress)
    return progress


def digest(model: Any) -> str:
    """Return 16 hexadecimal digits of SHA-256 over all weights, by which two runs are compared round by round."""
    sha = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        sha.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def _save(model: Any, optimizer: Any, state: Path, progress: Progress) -> None:
    with atomic_file(state) as partial:
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(progress)}, partial
        )


def _load(model: Any, optimizer: Any, state: Path, device: str) -> Progress | None:
    if not state.is_file():
        return None
    stored = torch.load(state, map_location=device, weights_only=True)
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    return Progress(**stored["progress"])
