"""Supervised warm-up of the nano model: responses in the answer format, and copying exercises from real documents."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlong.core import templates
from qwenlong.core.config import ScratchConfig
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file
from qwenlong.core.progress import Progress
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import rng
from qwenlong.core.tokens import Tokenizer
from qwenlong.training.prompting import prompt_ids

#: Steps whose sequences are drawn together and sorted by length, so that little is padded.
_CHUNK = 8
#: Share of steps over which the prompts grow from the evidence alone to the whole context.
_GROWTH = 0.6
#: Share of prompt positions that the language-model loss is taken at: the vocabulary's product is what costs.
_PROMPT_POSITIONS = 0.15
#: Share of steps of linear learning-rate growth.
_RISE = 0.05
#: Words of a line that an exercise asks to continue, and those of its answer.
_EXERCISE_WORDS = (3, 8)
#: Characters of each passage of an exercise.
_PASSAGE = 240
SAVE_EVERY = 100


@dataclass(frozen=True)
class Example:
    """Token ids; the loss is taken on the response, which ends with the end token."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def example(sample: Sample, target: str, corpus: Mapping[str, Document], tokenizer: Tokenizer, window: int) -> Example:
    """Return a sample's prompt and target as token ids, the prompt shortened so that both fit `window`."""
    response = [*tokenizer.encode(target), tokenizer.eos_id]
    return Example(prompt_ids(sample, corpus, tokenizer, window - len(response)), response)


def nearer(sample: Sample, share: float, seed: int) -> Sample:
    """Return the sample with its evidence documents and a share of the others, in their order."""
    needed = {span.document for span in sample.evidence}
    generator = rng(seed, "nearer", sample.id, share)
    kept = tuple(name for name in sample.documents if name in needed or generator.random() < share)
    return sample.model_copy(update={"documents": kept or sample.documents[:1]})


def exercise(
    documents: Sequence[Document], tokenizer: Tokenizer, window: int, seed: int, number: int
) -> Example | None:
    """Return an exercise: continue a line of one of a few passages. None where the draw has no such line."""
    generator = rng(seed, "exercise", number)
    shown = [
        document.model_copy(update={"text": _passage(document.text, generator.random())})
        for document in generator.sample(documents, min(len(documents), generator.randint(1, 3)))
    ]
    lines = [line.strip() for line in generator.choice(shown).text.splitlines()]
    lines = [line for line in lines if len(line.split()) > _EXERCISE_WORDS[0]]
    if not lines:
        return None
    words = generator.choice(lines).split(" ")
    start = generator.randint(0, max(0, len(words) - 2 * _EXERCISE_WORDS[0]))
    cut = start + generator.randint(2, _EXERCISE_WORDS[0] + 1)
    begun, answer = " ".join(words[start:cut]), " ".join(words[cut : cut + _EXERCISE_WORDS[1]])
    if not answer:
        return None
    values = {
        "documents": templates.render_documents(shown),
        "question": f'What follows "{begun}"?',
        "instruction": templates.ANSWER_INSTRUCTION,
    }
    chat = [{"role": "user", "content": templates.fill("reading_comprehension", values)}]
    text = f"<think>\n{begun} {answer}\n</think>\n\nTherefore, the answer is {answer}"
    made = Example(tokenizer.encode(tokenizer.render_chat(chat)), [*tokenizer.encode(text), tokenizer.eos_id])
    return made if len(made) <= window else None


def _passage(text: str, place: float) -> str:
    """Return whole lines of a text, at most `_PASSAGE` characters of them, from a place in [0, 1) on."""
    start = int(place * max(0, len(text) - _PASSAGE))
    start = text.rfind("\n", 0, start) + 1
    passage = text[start : start + _PASSAGE]
    return passage if start + _PASSAGE >= len(text) else passage.rpartition("\n")[0] or passage


def schedule(
    samples: Sequence[Sample],
    targets: Mapping[str, str],
    turns: Sequence[Example],
    corpus: Mapping[str, Document],
    tokenizer: Tokenizer,
    nano: ScratchConfig,
    window: int,
    seed: int,
) -> Iterator[list[list[Example]]]:
    """Yield `_CHUNK` batches at a time, for all steps: a function of its arguments, so that it can be resumed.

    `turns` are memory-agent turns; they are taken in turn with the samples. Raises DataError without samples.
    """
    if not samples:
        raise DataError("no training samples to warm the model up on; run synthesis again and read funnel.json")
    names = sorted({name for sample in samples for name in sample.documents})
    documents = [corpus[name] for name in names if name in corpus]
    stream = _shuffled([*samples, *turns], seed)
    number = 0
    for start in range(0, nano.warmup_steps, _CHUNK):
        steps = min(_CHUNK, nano.warmup_steps - start)
        share = min(1.0, start / max(1.0, _GROWTH * nano.warmup_steps))
        drawn: list[Example] = []
        while len(drawn) < steps * nano.warmup_batch:
            number += 1
            made: Example | None
            if rng(seed, "kind", number).random() < nano.warmup_copy_share:
                made = exercise(documents, tokenizer, window, seed, number)
            else:
                item = next(stream)
                if isinstance(item, Sample):
                    shown = nearer(item, share, seed + number) if share < 1 else item
                    made = example(shown, targets[item.id], corpus, tokenizer, window)
                else:
                    made = item
            if made is not None:
                drawn.append(made)
        drawn.sort(key=len)
        batches = [drawn[n * nano.warmup_batch : (n + 1) * nano.warmup_batch] for n in range(steps)]
        rng(seed, "batches", start).shuffle(batches)
        yield batches


def _shuffled(items: Sequence[Sample | Example], seed: int) -> Iterator[Sample | Example]:
    epoch = 0
    while True:
        order = list(range(len(items)))
        rng(seed, "epoch", epoch).shuffle(order)
        yield from (items[n] for n in order)
        epoch += 1


def loss(model: Any, batch: Sequence[Example], prompt_weight: float, step: int, seed: int) -> tuple[Tensor, float]:
    """Return the training loss and the mean loss per response token (nats) of a batch."""
    width = max(len(item) for item in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    on_response = torch.zeros((len(batch), width), dtype=torch.bool)
    on_prompt = torch.zeros((len(batch), width), dtype=torch.bool)
    drawn = torch.rand((len(batch), width), generator=torch.Generator().manual_seed((seed + step) % 2**63))
    for row, item in enumerate(batch):
        ids[row, : len(item)] = torch.tensor(item.prompt + item.response)
        # Position t predicts token t + 1.
        on_response[row, len(item.prompt) - 1 : len(item) - 1] = True
        on_prompt[row, : len(item.prompt) - 1] = drawn[row, : len(item.prompt) - 1] < _PROMPT_POSITIONS
    device = next(model.parameters()).device
    # Padding stands on the right: causal attention never sees it, so no mask is needed.
    hidden = model.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
    following = ids.roll(-1, dims=1)

    def mean(where: Tensor) -> Tensor:
        logits = model.lm_head(hidden[where.to(device)])
        return torch.nn.functional.cross_entropy(logits.float(), following[where].to(device))

    response = mean(on_response)
    total = response
    if prompt_weight > 0 and bool(on_prompt.any()):
        total = response + prompt_weight * mean(on_prompt)
    return total, float(response.detach())


def train(
    model: Any,
    chunks: Callable[[], Iterator[list[list[Example]]]],
    nano: ScratchConfig,
    seed: int,
    state: Path,
    key: str,
    log: Callable[[dict[str, float], int], None] = lambda values, step: None,
    save_every: int | None = None,
) -> list[float]:
    """Train in place for all steps and return the response loss of each.

    Resumes from `state` (a safetensors file) when it was written under the same `key`; the result is the same as
    without the interruption. The file is removed at the end.
    """
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=nano.warmup_learning_rate, betas=(0.9, 0.95))
    done, losses = _load(model, optimizer, state, key)
    model.train()
    step = 0
    with Progress("warm-up", total=nano.warmup_steps, unit="steps") as progress:
        progress.advance(done)
        for batches in chunks():
            for batch in batches:
                step += 1
                if step <= done:
                    continue
                started = time.monotonic()
                for group in optimizer.param_groups:
                    group["lr"] = nano.warmup_learning_rate * _rate(step, nano.warmup_steps)
                total, response = loss(model, batch, nano.warmup_prompt_weight, step, seed)
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                losses.append(response)
                seconds = time.monotonic() - started
                tokens = sum(map(len, batch))
                progress.advance(1, loss=response)
                if step % 10 == 0:
                    log({"loss": response, "grad_norm": float(norm), "tokens_per_second": tokens / seconds}, step)
                if step % (save_every or SAVE_EVERY) == 0 and step < nano.warmup_steps:
                    _save(model, optimizer, state, key, step, losses)
    model.eval()
    state.unlink(missing_ok=True)
    return losses


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear growth, then a cosine down to a twentieth."""
    import math

    rise = max(1, int(_RISE * steps))
    if step <= rise:
        return step / rise
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _save(model: Any, optimizer: Any, state: Path, key: str, step: int, losses: list[float]) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    metadata = {"key": key, "step": str(step), "losses": json.dumps(losses)}
    with atomic_file(state) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=metadata)


def _load(model: Any, optimizer: Any, state: Path, key: str) -> tuple[int, list[float]]:
    """Return the steps done and their losses; 0 where there is no state of this very run."""
    from safetensors import safe_open

    if not state.is_file():
        return 0, []
    with safe_open(state, framework="pt") as stored:
        metadata = stored.metadata() or {}
        if metadata.get("key") != key:
            return 0, []
        step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(stored.get_tensor(f"model.{name}"))
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": stored.get_tensor(f"exp_avg.{name}"),
                    "exp_avg_sq": stored.get_tensor(f"exp_avg_sq.{name}"),
                }
    return step, list(json.loads(metadata["losses"]))
