"""Sizes that fit a window: what was asked for, or less of everything in the same proportion."""

from __future__ import annotations

from qwenlong.core import templates
from qwenlong.core.config import AgentConfig
from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import budget
from qwenlong.memory_agent.gains import Gains
from qwenlong.memory_agent.prompting import Prompts

#: Chunks that are assumed: more than any document has, for the prompt names their number.
_CHUNKS = 99_999
#: Least that anything is done with.
LEAST = {"chunk_tokens": 16, "memory_tokens": 8, "answer_tokens": 8}
#: Shares of the sizes are tried in steps of a thousandth.
_STEPS = 1000


def check(config: AgentConfig, request: str, prompts: Prompts, tokenizer: Tokenizer, window: int) -> None:
    """Raise UsageError when some turn of `request`, which is split first, cannot fit `window` with these sizes."""
    gains = Gains.of(config)
    merged = budget.arity(config.chunk_tokens, config.memory_tokens, gains.parallel) if gains.parallel > 1 else 0
    budget.check(
        request,
        f"{templates.ANSWER_INSTRUCTION}\n{request}",
        _CHUNKS,
        config.chunk_tokens,
        prompts=prompts,
        tokenizer=tokenizer,
        sizes=budget.Sizes(config.memory_tokens, config.answer_tokens, window),
        gains=gains,
        may_exit=gains.early_exit,
        split=request,
        merged=merged,
    )


def fitted(config: AgentConfig, request: str, prompts: Prompts, tokenizer: Tokenizer, window: int) -> AgentConfig:
    """Return `config` with the largest sizes, at most its own, that fit `window` with this request.

    Chunk, memory, answer and recall shrink alike. Raises UsageError when not even the least fits.
    """

    def sized(step: int) -> AgentConfig:
        sizes = {name: max(least, getattr(config, name) * step // _STEPS) for name, least in LEAST.items()}
        # A recall of nothing would turn the gain off.
        recall = max(min(config.recall_tokens, 1), config.recall_tokens * step // _STEPS)
        return config.model_copy(update=sizes | {"recall_tokens": recall})

    def fits(step: int) -> bool:
        try:
            check(sized(step), request, prompts, tokenizer, window)
        except UsageError:
            return False
        return True

    if fits(_STEPS):
        return config
    low, high = 0, _STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if low == 0:
        check(sized(0), request, prompts, tokenizer, window)
    return sized(low)
