"""Supervised warm-up of a pretrained base model: the answer format and the memory agent's turns, stopped early.

Reinforcement learning needs groups with right and wrong answers: a model that never answers in the required format
gives none, and one trained to the end has nothing to gain. So accuracy on training samples that the warm-up does not
see is measured on the way, and ends it.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qwenlong.core.config import Config, WarmupConfig
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, digest_value
from qwenlong.core.logs import get
from qwenlong.core.progress import Progress
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.inference import kernels
from qwenlong.training import supervised
from qwenlong.training.supervised import Item

#: Share of the training samples that may be kept for measuring.
_KEPT_SHARE = 0.25
#: Share of the output limit that a target may take: sampled responses run longer than what was taught.
_TARGET_SHARE = 2 / 3


def split(samples: Sequence[Sample], number: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return (samples to train on, samples to measure on), the latter of all tasks alike, at most a quarter of each."""
    tasks: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda one: one.id):
        tasks[sample.task].append(sample)
    kept: set[str] = set()
    for task, members in sorted(tasks.items()):
        count = min(-(-number // len(tasks)), int(_KEPT_SHARE * len(members)))
        kept |= {one.id for one in random.Random(derive(seed, "measured", task)).sample(members, count)}
    return [one for one in samples if one.id not in kept], [one for one in samples if one.id in kept]


def items(
    config: Config, plan: WarmupConfig, samples: Sequence[Sample], corpus: Mapping[str, Document], tokenizer: Tokenizer
) -> list[Item]:
    """Return examples of samples and of memory-agent turns over them. Raises DataError when none fits the window.

    Chunks and output limits of the turns are those of memory RL.
    """
    from qwenlong.synthesis import warmup as wording
    from qwenlong.training.prompting import prompt_ids

    window, memory = config.base.window, config.stage("memory_rl").memory
    chunk = min(memory.chunk_tokens if memory else window, window // 2)
    limits = (memory.memory_tokens, memory.answer_tokens) if memory else (None, None)
    made: list[Item] = []

    def add(kind: str, prompt: list[int], target: str) -> None:
        response = [*tokenizer.encode(target), tokenizer.eos_id]
        if len(prompt) + len(response) <= window:
            made.append((kind, np.array(prompt + response, dtype=np.int32), len(prompt)))

    for number, sample in enumerate(samples):
        target = wording.target(sample, corpus, tokenizer, int(_TARGET_SHARE * config.selection.max_new_tokens))
        add(sample.task, prompt_ids(sample, corpus, tokenizer), target)
        if number % plan.memory_every == 0:
            for turn in wording.memory_targets(sample, corpus, tokenizer, chunk, *limits):
                kind = "memory_update" if turn.target.startswith("<memory>") else "memory_answer"
                add(kind, tokenizer.encode(tokenizer.render_chat(turn.messages)), turn.target)
    if not made:
        raise DataError(
            f"none of {len(samples)} training samples fits base.window = {window}; lower synthesis.length_targets"
        )
    return made


def measure(
    model: Any,
    config: Config,
    samples: Sequence[Sample],
    corpus: Mapping[str, Document],
    tokenizer: Tokenizer,
    seed: int,
) -> dict[str, Any]:
    """Return mean accuracy of one response to each sample, overall and by task, sampled as rollouts are."""
    from qwenlong.inference.engine import Generator, batch_tokens
    from qwenlong.inference.sampling import Sampling
    from qwenlong.training import difficulty

    # A copy in the precision of rollouts; generation sets how attention is computed.
    played = copy.deepcopy(model).to(getattr(torch, config.engine.dtype))
    ends = played.generation_config.eos_token_id
    stops = {tokenizer.eos_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    generator = Generator(played, stops, tokenizer.eos_id, batch_tokens(played))
    limit = config.selection.max_new_tokens
    sampling = Sampling(limit, config.training.temperature, config.training.top_p)
    # Sampling has no deterministic kernels; a row depends on its seed alone, but for float noise.
    with supervised.deterministic(False):
        scored = difficulty.pass_at_k(
            samples, corpus, generator, tokenizer, sampling,
            k=1, max_input_tokens=config.base.window - limit, seed=seed, model="base", description="accuracy",
        )  # fmt: skip
    found = difficulty.summary(scored)
    return {"accuracy": found["mean"], "tasks": {task: values["mean"] for task, values in found["tasks"].items()}}


def run(
    model: Any,
    config: Config,
    samples: Sequence[Sample],
    corpus: Mapping[str, Document],
    tokenizer: Tokenizer,
    log: Callable[[dict[str, float], int], None] = lambda values, step: None,
) -> dict[str, Any]:
    """Train `model` in place, on a GPU if there is one, and return what base.json says of it.

    Goes on from `<run.results>/state/base/warmup.pt` where a run of the same inputs was interrupted. The same inputs,
    seed and kind of device give the same bytes. Raises DataError without samples to train or to measure on.
    """
    plan = config.base.warmup
    assert plan is not None
    seed = derive(config.run.seed, "base", "warmup")
    trained, measured = split(samples, plan.measure_samples, seed)
    if not measured:
        raise DataError(
            f"{len(samples)} training samples leave none to measure the warm-up on (a quarter of a task's at most); "
            "raise synthesis.samples_per_task"
        )
    examples = items(config, plan, trained, corpus, tokenizer)
    shape = plan.model_dump(mode="json", exclude={"expected", "save_seconds"})
    key = digest_value([shape, seed, tokenizer.digest, [(k, ids.tolist()) for k, ids, _ in examples], config.base.kind])
    state = Path(config.run.results) / "state" / "base" / "warmup.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with supervised.deterministic():
        model.to(device)
        kernels.choose(model)
        done = _train(
            model, plan, examples, seed, state, key, device, log,
            lambda: measure(model, config, measured, corpus, tokenizer, derive(seed, "measure")),
        )  # fmt: skip
        model.to("cpu")
    state.unlink(missing_ok=True)
    last = done["curve"][-1]
    low, high = plan.expected
    within = low <= last["accuracy"] <= high
    if not within:
        get(__name__).warning(
            "the base model's accuracy after %d steps of warm-up is %.3f, outside of base.warmup.expected (%.2f to "
            "%.2f); change base.warmup.stop_above, steps or learning_rate", last["step"], last["accuracy"], low, high,
        )  # fmt: skip
    kinds = sorted({kind for kind, _, _ in examples})
    return {
        "warmup": done
        | {"samples": len(trained), "measured_on": len(measured), "within_expected": within, "device": device}
        | {"examples": {kind: sum(kind == other for other, _, _ in examples) for kind in kinds}}
    }


def _train(
    model: Any,
    plan: WarmupConfig,
    examples: Sequence[Item],
    seed: int,
    state: Path,
    key: str,
    device: str,
    log: Callable[[dict[str, float], int], None],
    measured: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    optimizer = supervised.optimizer(model, plan.learning_rate, plan.weight_decay, device)
    done = _load(model, optimizer, state, key, device) or {"step": 0, "tokens": 0, "losses": [], "curve": []}
    saved = time.monotonic()
    model.train()
    with Progress("warm-up", total=plan.steps, unit="steps") as progress:
        progress.advance(done["step"])
        while not _over(done, plan):
            step = done["step"] + 1
            rate = min(1.0, step / plan.rise) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - 1) / plan.steps)))
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * rate
            batch = _batch(examples, plan.batch_tokens, seed, step)
            total, by_kind = supervised.loss_of(model, batch, plan.prompt_weight, device)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            response = float(np.mean([value for values in by_kind.values() for value in values]))
            done["step"], done["tokens"] = step, done["tokens"] + sum(len(ids) for _, ids, _ in batch)
            done["losses"].append(round(response, 5))
            progress.advance(1, loss=response)
            heard = {"loss": response, "grad_norm": float(norm), "tokens": float(done["tokens"])}
            if step % plan.measure_every == 0 or step == plan.steps:
                found = measured()
                model.train()
                done["curve"].append({"step": step} | found)
                heard["accuracy"] = found["accuracy"]
                get(__name__).info("warm-up, step %d: loss %.3f, accuracy %.3f", step, response, found["accuracy"])
            if step % 10 == 0 or "accuracy" in heard:
                log(heard, step)
            if time.monotonic() - saved >= plan.save_seconds and not _over(done, plan):
                _save(model, optimizer, state, key, done)
                saved = time.monotonic()
    model.eval()
    return done


def _over(done: dict[str, Any], plan: WarmupConfig) -> bool:
    curve = done["curve"]
    return bool(done["step"] >= plan.steps or (curve and curve[-1]["accuracy"] >= plan.stop_above))


def _batch(examples: Sequence[Item], tokens: int, seed: int, step: int) -> list[Item]:
    """Return the batch of a step, counted from 1: a function of its arguments, so that it can be resumed."""
    number, passed = step - 1, 0
    while True:
        made = supervised.batches(examples, tokens, random.Random(derive(seed, "pass", passed)))
        if number < len(made):
            return made[number]
        number, passed = number - len(made), passed + 1


def _save(model: Any, optimizer: Any, state: Path, key: str, done: dict[str, Any]) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    kept = {"key": key, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
    with atomic_file(state) as partial:
        torch.save(kept, partial)


def _load(model: Any, optimizer: Any, state: Path, key: str, device: str) -> dict[str, Any] | None:
    """Return how far a run of the same key came, its weights and moments restored; None where there is none."""
    if not state.is_file():
        return None
    stored = torch.load(state, map_location=device, weights_only=True)
    if stored["key"] != key:
        return None
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    return dict(stored["done"])
