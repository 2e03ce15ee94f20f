"""Generation with Hugging Face causal models: batched by length, one prefill per distinct prompt, seeded row by row."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import read_json
from qwenlong.core.tokens import Tokenizer
from qwenlong.inference import kernels
from qwenlong.inference.cache import RoomyCache, cache_for, join
from qwenlong.inference.sampling import Sampler, Sampling, Uniforms

__all__ = ["Generation", "Generator", "Local", "Sampling", "batch_tokens", "load_generator", "load_model"]

#: Rows times tokens of a batch: on CPUs, and at most on a GPU.
_BATCH_TOKENS, _MOST_BATCH_TOKENS = 65536, 524288
#: Share of finished rows from which a batch is compacted; below it their steps cost less than copying the cache.
_COMPACT_SHARE = 0.15
#: Share of the longest prompt up to which shorter ones are padded when prompts are read together.
_PADDED_SHARE = 0.1


@dataclass
class Generation:
    """One response. `token_ids` ends with the stop token when `finish_reason` is "stop"; else "length"."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str = "length"


@dataclass(frozen=True)
class _Job:
    """Rows that share a prompt: `rows` are positions in the caller's lists."""

    prompt: list[int]
    rows: list[int]


class Generator:
    """Generates with a model that lives in this process; one call at a time (`lock`), weights may change between calls.

    `model` is a Hugging Face causal model, `max_batch_tokens` bounds rows x (prompt + response) of one batch.
    """

    def __init__(self, model: torch.nn.Module, eos_ids: set[int], pad_id: int, max_batch_tokens: int = 65536) -> None:
        self.model: Any = model
        kernels.choose(model)
        self.eos_ids = frozenset(eos_ids)
        self.pad_id = pad_id
        self.max_batch_tokens = max_batch_tokens
        #: Held while generating; take it to change the weights.
        self.lock = threading.Lock()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[Sampling],
        seeds: Sequence[int],
        unwanted: Callable[[int], bool] = lambda row: False,
    ) -> list[Generation]:
        """Return a response per prompt, in order. A row depends on its prompt, sampling and seed, not on other rows.

        Other rows change its numbers by float noise, which moves a token about once in a million; their order in the
        call changes nothing at all, since rows are worked off in an order of their own. A row that becomes `unwanted`
        (asked at each token) ends there, cut short like one that reached its limit.
        Raises UsageError for lists of unequal length and empty prompts.
        """
        if not len(prompts) == len(sampling) == len(seeds):
            raise UsageError(
                f"{len(prompts)} prompts, {len(sampling)} samplings, {len(seeds)} seeds; give one of each per row"
            )
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise UsageError(f"prompt {row} is empty; every row needs at least one token")
        order = sorted(range(len(seeds)), key=lambda row: (tuple(prompts[row]), seeds[row], astuple(sampling[row])))
        prompts = [prompts[row] for row in order]
        sampling, seeds = [sampling[row] for row in order], [seeds[row] for row in order]
        results = [Generation() for _ in prompts]
        with self.lock, torch.inference_mode():
            was_training = self.model.training
            self.model.eval()
            try:
                for batch in _batches(prompts, sampling, self.max_batch_tokens):
                    self._run(batch, sampling, seeds, results, lambda row: unwanted(order[row]))
            finally:
                self.model.train(was_training)
        placed = dict(zip(order, results, strict=True))
        return [placed[row] for row in range(len(order))]

    def _run(
        self,
        jobs: list[_Job],
        sampling: Sequence[Sampling],
        seeds: Sequence[int],
        results: list[Generation],
        unwanted: Callable[[int], bool],
    ) -> None:
        device = next(self.model.parameters()).device
        width = max(len(job.prompt) for job in jobs)
        # From here on one row per response: the prompt's cache is repeated for its samples.
        rows = [row for job in jobs for row in job.rows]
        padding = torch.tensor([width - len(job.prompt) for job in jobs for _ in job.rows], device=device)
        parts = [self._prefill(part, device) for part in _similar(jobs)]
        cache = join([(cache, source) for cache, source, _ in parts])
        logits = torch.cat([logits for _, _, logits in parts])
        padded = bool(padding.any())
        sampler = Sampler([sampling[row] for row in rows], device)
        uniforms = Uniforms([seeds[row] for row in rows])
        stops = [self.eos_ids.union(sampling[row].stop_token_ids) for row in rows]
        alive = [True] * len(rows)
        while True:
            tokens, log_probs = sampler(logits, uniforms.draw())
            for n, (token, log_prob) in enumerate(zip(tokens.tolist(), log_probs.tolist(), strict=True)):
                if not alive[n]:
                    continue
                result = results[rows[n]]
                result.token_ids.append(token)
                result.log_probs.append(log_prob)
                if token in stops[n]:
                    result.finish_reason = "stop"
                    alive[n] = False
                elif len(result.token_ids) >= sampling[rows[n]].max_new_tokens or unwanted(rows[n]):
                    alive[n] = False
            living = [n for n, lives in enumerate(alive) if lives]
            if not living:
                return
            if len(living) <= (1 - _COMPACT_SHARE) * len(rows):
                keep = torch.tensor(living, device=device)
                padding = padding[keep]
                first = int(padding.min())
                cache.select(keep, first)
                padding, tokens, width = padding - first, tokens[keep], width - first
                sampler.keep(keep)
                uniforms.keep(living)
                rows, stops = [rows[n] for n in living], [stops[n] for n in living]
                alive = [True] * len(living)
                padded = bool(padding.any())
            mask = torch.arange(width + 1, device=device) >= padding[:, None] if padded else None
            logits = self.model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=(width - padding)[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            width += 1

    def _prefill(self, jobs: list[_Job], device: torch.device) -> tuple[RoomyCache, Tensor, Tensor]:
        """Return the cache of the prompts, the row of the cache for each response, and its logits [responses, V]."""
        width = max(len(job.prompt) for job in jobs)
        ids = torch.full((len(jobs), width), self.pad_id)
        padding = torch.tensor([width - len(job.prompt) for job in jobs])
        for row, job in enumerate(jobs):
            ids[row, width - len(job.prompt) :] = torch.tensor(job.prompt)
        ids, padding = ids.to(device), padding.to(device)
        columns = torch.arange(width, device=device)
        cache = cache_for(self.model)
        logits = self.model(
            input_ids=ids,
            # No mask without padding: attention then takes its causal fast path.
            attention_mask=(columns >= padding[:, None]).long() if padding.any() else None,
            position_ids=(columns - padding[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        source = torch.tensor([n for n, job in enumerate(jobs) for _ in job.rows], device=device)
        return cache, source, logits[source]


def _similar(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Yield runs of jobs, longest first as they come, in which no prompt is padded by more than a share of it."""
    part: list[_Job] = []
    for job in jobs:
        if part and len(job.prompt) < (1 - _PADDED_SHARE) * len(part[0].prompt):
            yield part
            part = []
        part.append(job)
    yield part


def _batches(prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling], max_tokens: int) -> Iterator[list[_Job]]:
    """Yield batches of jobs, longest prompts first, each within `max_tokens` or a single row."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    jobs: list[_Job] = []
    size, longest, budget = 0, 0, 0
    # Similar lengths side by side waste little padding; the row number settles ties, so the order is fixed.
    for prompt, rows in sorted(groups.items(), key=lambda item: (-len(item[0]), item[1][0])):
        rest = list(rows)
        while rest:
            new = max(sampling[row].max_new_tokens for row in rest)
            columns = max(longest, len(prompt)) + max(budget, new)
            fit = max_tokens // columns - size
            if fit < 1 and jobs:
                yield jobs
                jobs, size, longest, budget = [], 0, 0, 0
                continue
            taken, rest = rest[: max(fit, 1)], rest[max(fit, 1) :]
            jobs.append(_Job(list(prompt), taken))
            size, longest, budget = size + len(taken), max(longest, len(prompt)), max(budget, new)
    if jobs:
        yield jobs


def load_model(
    path: str | Path, dtype: str = "float32", device: str | None = None
) -> tuple[torch.nn.Module, Tokenizer]:
    """Load a Hugging Face directory for generation, on the GPU if there is one.

    Raises DataError when the directory has no model.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise DataError(f"no model in {folder}: config.json is missing; give a Hugging Face model directory")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    kernels.choose(model)
    return model, Tokenizer(folder)


def eos_ids(path: str | Path) -> set[int]:
    """Return the ids that end a response: those of generation_config.json and the tokenizer's."""
    ids = {Tokenizer(path).eos_id}
    file = Path(path) / "generation_config.json"
    if file.is_file():
        named = read_json(file).get("eos_token_id")
        ids |= set(named) if isinstance(named, list) else {named} - {None}
    return ids


def place(dtype: str | None, device: str | None) -> tuple[str, str]:
    """Return dtype and device of a model for inference: what is named, else bfloat16 on a GPU and float32 on CPUs.

    Raises UsageError for names that torch does not know and devices that are not here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(device).type
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} is not here; use cpu, or cuda where there is a GPU") from error
    dtype = dtype or ("float32" if kind == "cpu" else "bfloat16")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"dtype {dtype!r} is no type of weights to compute with; use float32, bfloat16 or float16")
    return dtype, device


def load_generator(
    path: str | Path, dtype: str = "float32", device: str | None = None, max_batch_tokens: int | None = None
) -> tuple[Generator, Tokenizer]:
    """Load a directory as a Generator with the ids that end its responses, and its tokenizer.

    `max_batch_tokens`: see Generator; none: what the device has room for (`batch_tokens`).
    """
    model, tokenizer = load_model(path, dtype, device)
    ends = eos_ids(path)
    # Padding is masked, so any id does; the end token always exists.
    return Generator(model, ends, tokenizer.eos_id, max_batch_tokens or batch_tokens(model)), tokenizer


def batch_tokens(model: Any) -> int:
    """Return how many tokens of rows a batch may have: on a GPU what a tenth of its memory holds of the cache."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return _BATCH_TOKENS
    shape = model.config
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    each = 2 * shape.num_hidden_layers * heads * width * next(model.parameters()).element_size()
    room = torch.cuda.get_device_properties(device).total_memory // 10
    return int(max(_BATCH_TOKENS, min(_MOST_BATCH_TOKENS, room // each)))


def _is_done(futures: Sequence[asyncio.Future[Generation]], row: int) -> bool:
    return futures[row].done()


class Local:
    """An asynchronous front to a Generator: whatever waits when it is idle becomes one batch.

    Use it from one event loop at a time. A caller that is cancelled takes its row out of the batch.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._waiting: list[tuple[list[int], Sampling, int, asyncio.Future[Generation]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, seed: int) -> Generation:
        """Return a response; concurrent callers share batches. Raises what the Generator raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Generation] = loop.create_future()
        self._waiting.append((list(prompt_ids), sampling, seed, future))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while True:
            # One turn of the loop lets callers that are ready join; there is no other wait.
            await asyncio.sleep(0)
            batch = [item for item in self._waiting if not item[3].done()]
            self._waiting.clear()
            if not batch:
                return
            prompts, samplings, seeds, futures = zip(*batch, strict=True)
            try:
                # A caller that was cancelled has a future that is done.
                results = await asyncio.to_thread(
                    self._generator.generate, prompts, samplings, seeds, partial(_is_done, futures)
                )
            except Exception as error:  # every caller of the batch gets it
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, result in zip(futures, results, strict=True):
                if not future.done():
                    future.set_result(result)
