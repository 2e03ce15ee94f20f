"""pass@k: the mean reward of k rollouts of a model on each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwenlong.core import templates
from qwenlong.core.progress import Progress
from qwenlong.core.records import Difficulty, Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.rewards import rules
from qwenlong.training.prompting import Chat, chat_ids
from qwenlong.training.served import Served

if TYPE_CHECKING:
    from qwenlong.inference.engine import Generator, Sampling

#: Prompts handed to the engine at a time: enough to fill its batches, few enough to show progress. On a GPU, whose
#: batches are larger, one for so many tokens of a batch.
_PORTION, _PORTION_TOKENS = 64, 1024


def rollouts(
    samples: Sequence[Sample],
    chats: Sequence[Chat],
    generator: Generator | Served,
    tokenizer: Tokenizer,
    sampling: Sampling,
    k: int,
    seed: int,
    description: str,
) -> list[list[float]]:
    """Return the rewards [samples][k] of k responses to each sample's prompt, by the rules.

    `generator`: a model in this process, or one that is served. The seed of a rollout is derived from `seed`, the
    sample's id and its number, so order and company do not matter.
    """
    if isinstance(generator, Served):
        return generator.rewards(samples, chats, sampling, k, seed, description, reward)
    from qwenlong.inference.responses import response_text

    prompts = [chat_ids(chat, tokenizer) for chat in chats]
    rewards: list[list[float]] = [[] for _ in samples]
    # Prompts of similar length share a batch.
    order = sorted(range(len(samples)), key=lambda n: (len(prompts[n]), samples[n].id))
    size = max(_PORTION, getattr(generator, "max_batch_tokens", 0) // _PORTION_TOKENS)
    with Progress(description, total=len(samples), unit="samples") as progress:
        for start in range(0, len(order), size):
            portion = order[start : start + size]
            rows = [n for n in portion for _ in range(k)]
            seeds = [derive(seed, "rollout", samples[n].id, i) for n in portion for i in range(k)]
            results = generator.generate([prompts[n] for n in rows], [sampling] * len(rows), seeds)
            for n, result in zip(rows, results, strict=True):
                response = response_text(tokenizer, result.token_ids, prompts[n])
                rewards[n].append(reward(samples[n], response))
            progress.advance(len(portion), reward=sum(sum(rewards[n]) for n in portion) / (k * len(portion)))
    return rewards


def reward(sample: Sample, response: str) -> float:
    """Return the rule's reward of a response to a sample."""
    return rules.score(
        sample.task, response, sample.answers, answer_prefix=sample.answer_prefix, choices=sample.choices
    )


def pass_at_k(
    samples: Sequence[Sample],
    corpus: Mapping[str, Document],
    generator: Generator | Served,
    tokenizer: Tokenizer,
    sampling: Sampling,
    *,
    k: int,
    max_input_tokens: int,
    seed: int,
    model: str,
    description: str = "difficulty",
) -> list[Sample]:
    """Return the samples with `difficulty` filled. Prompts above `max_input_tokens` lose their middle."""
    chats = [templates.messages(sample, corpus, tokenizer, max_input_tokens) for sample in samples]
    rewards = rollouts(samples, chats, generator, tokenizer, sampling, k, seed, description)
    return [
        sample.model_copy(update={"difficulty": Difficulty(pass_at_k=sum(values) / k, k=k, model=model)})
        for sample, values in zip(samples, rewards, strict=True)
    ]


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return count and mean pass@k, overall and per task, of samples that have a difficulty."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        if sample.difficulty is not None:
            values.setdefault(sample.task, []).append(sample.difficulty.pass_at_k)
    flat = [value for task in values.values() for value in task]
    return {
        "n": len(flat),
        "mean": sum(flat) / len(flat) if flat else None,
        "tasks": {task: {"n": len(v), "mean": sum(v) / len(v)} for task, v in sorted(values.items())},
    }
