"""The memory agent (SPEC section 4): one loop for inference, evaluation and memory RL.

Each turn is a fresh prompt: nothing but the memory and the plan goes from one section to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import TypeVar

from qwenlong.core import templates
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.llm import Unavailable
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import budget, parsing
from qwenlong.memory_agent.budget import Sizes
from qwenlong.memory_agent.gains import Gains, tree
from qwenlong.memory_agent.gains.early_exit import may_exit, needs_everything
from qwenlong.memory_agent.prompting import Prompts
from qwenlong.memory_agent.reading import Reader, State, Turns
from qwenlong.memory_agent.turns import Generate, Kind, Messages, Result, Step, Turn

__all__ = [
    "Gains",
    "Generate",
    "Kind",
    "Messages",
    "Result",
    "Step",
    "Turn",
    "answer_messages",
    "fold",
    "split_messages",
    "update_messages",
]
T = TypeVar("T")


@cache
def _plain() -> Prompts:
    return Prompts()


def update_messages(question: str, memory: str, plan: str, section: str, index: int, total: int) -> Messages:
    """Return the prompt of one update of the paper's loop; `index` counts from 1."""
    return _plain().update(question, memory, plan, section, index, total)


def answer_messages(question: str, instruction: str, memory: str) -> Messages:
    """Return the prompt of the final answer; it carries the format instruction, which the updates never see."""
    return _plain().answer(question, instruction, memory)


def split_messages(query: str) -> Messages:
    """Return the prompt that splits a request into question and format."""
    return _plain().split(query)


async def fold(
    question: str,
    instruction: str,
    chunks: Sequence[str],
    generate: Generate,
    *,
    tokenizer: Tokenizer,
    memory_tokens: int,
    answer_tokens: int,
    window: int | None = None,
    split_request: bool = False,
    gains: Gains | None = None,
    prompts: Prompts | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Read `chunks` one by one into a memory of at most `memory_tokens` tokens, then answer from it alone.

    One call per chunk and one to answer; `gains` (none by default) make fewer, or several at once, and a repair makes
    one more. With `split_request` the `question` is a raw request, and one more call before the others splits it;
    samples come with both halves and leave it out. An update's reply may have `memory_tokens` tokens, thinking
    included, the answer `answer_tokens`. `chunks` may be read from disk at each access; with an attribute `tokens`
    (tokens of each) none is read before its turn. Each turn's number is given to `generate` and follows from the
    settings alone; `on_step` hears of steps as they end.

    A reply without tags is the memory as a whole (with repairs: is unusable); an unusable one leaves memory and plan
    as they were, and its step says so. So does a chunk for which `generate` raises core.llm.Unavailable. `window`
    (tokens of prompt and output) is checked before the first call.

    Raises UsageError when the window is too small or the question empty, Unavailable when the endpoint gave up on every
    chunk, on the split or on the answer, QwenlongError when repairs are on and no chunk left a trace, and whatever
    else `generate` raises.
    """
    if not question.strip():
        raise UsageError("the question is empty; say what is to be found out")
    gains = gains or Gains()
    prompts = prompts or Prompts(tokenizer=tokenizer)
    sizes = Sizes(memory_tokens, answer_tokens, window)
    known = window is not None or gains.parallel > 1
    counted = budget.counts(chunks, prompts, tokenizer) if known else ()
    largest = max(counted, default=0)
    groups = tree.groups(len(chunks), gains.parallel)
    merged = budget.arity(largest, memory_tokens, len(groups)) if len(groups) > 1 else 0
    exits = gains.early_exit and may_exit(question)
    longest = max(instruction, templates.ANSWER_INSTRUCTION, key=tokenizer.count) if split_request else instruction
    beside = budget.check(
        question,
        # The query bounds both of its halves.
        f"{longest}\n{question}" if split_request else longest,
        len(chunks),
        largest,
        prompts=prompts,
        tokenizer=tokenizer,
        sizes=sizes,
        gains=gains,
        may_exit=gains.early_exit,
        split=question if split_request else None,
        merged=merged,
    )
    steps: list[Step] = []
    listen = on_step or (lambda step: None)
    if split_request:
        turn = await generate(prompts.split(question), memory_tokens, 0)
        found = parsing.request(turn.text, question, lambda text: tokenizer.count(prompts.safe(text)))
        # A split that drops "list all" must not let the reading stop early.
        exits = gains.early_exit and may_exit(found.question) and not needs_everything(question)
        question, instruction = found.question, found.instruction or templates.ANSWER_INSTRUCTION
        steps.append(Step(0, "split", found.status, turn, "", ""))
        listen(steps[-1])
    turns = Turns(int(split_request), len(chunks), tree.merges(len(groups), merged) if merged else 0)
    fixed = question, chunks, generate, tokenizer, prompts, sizes, gains, turns, exits, listen
    reader = Reader(*fixed, counted=counted, beside=beside)
    state = await _read(reader, groups, merged, steps)
    _refuse_lost(steps, len(chunks), gains)
    answer = await reader.answer(state, instruction, steps)
    return Result(answer, state.memory, state.plan, tuple(steps), len(chunks))


async def _read(reader: Reader, groups: list[range], arity: int, steps: list[Step]) -> State:
    """Return the state after all chunks: one group in order, or several at once and merged as a tree."""
    if len(groups) < 2:
        return await reader.read(groups[0] if groups else range(0), steps)
    found: list[list[Step]] = [[] for _ in groups]
    states = await _together([reader.read(group, found[n]) for n, group in enumerate(groups)])
    steps += [step for part in found for step in part]
    for level in tree.levels(len(groups), arity):
        found = [[] for _ in level]
        states = await _together(
            [reader.merge(m.number, [states[n] for n in m.parts], found[k]) for k, m in enumerate(level)]
        )
        steps += [step for part in found for step in part]
    return states[0]


async def _together(coroutines: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """Return the results of all, in their order. When one raises, the others are stopped first."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refuse_lost(steps: list[Step], total: int, gains: Gains) -> None:
    """Refuse to answer from nothing. Raises Unavailable or QwenlongError when every chunk failed."""
    last = {step.chunk: step for step in steps if step.chunk is not None}
    if last and all(step.status == "failed" for step in last.values()):
        raise Unavailable(f"none of {total} chunks could be read, the last for: {list(last.values())[-1].error}")
    if last and gains.repair and not any(step.used for step in last.values()):
        said = ", ".join(sorted({step.status for step in last.values()}))
        raise QwenlongError(
            f"none of {total} chunks left a trace in the memory: the replies were {said}, and so after a repair; "
            "raise memory_tokens, or use another model"
        )
