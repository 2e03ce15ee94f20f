"""The reward of a rollout: the rule first, then the judge; an outage never makes an answer wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwenlong.rewards.extract import final_answer
from qwenlong.rewards.judge import ChatClient, equivalent
from qwenlong.rewards.rules import score

#: Tasks whose rule can miss a right answer; a letter or a ratio below 1 is not a failed rule (SPEC section 3).
JUDGED_TASKS = frozenset({"corpus_numerical", "doc_multi_hop", "reading_comprehension"})
#: Tries until a reply of the judge has a verdict.
VERDICT_TRIES = 2


@dataclass(frozen=True)
class Reward:
    """The reward of one rollout.

    value: in [0, 1]; NaN when dropped. rule: what the rule gave. judge: the verdict, None when not asked or unparsed.
    dropped: the judge gave no verdict, so the rollout counts neither as right nor as wrong. reason: why it was dropped.
    """

    value: float
    rule: float
    judge: bool | None = None
    dropped: bool = False
    reason: str = ""

    @property
    def asked(self) -> bool:
        """Whether the judge was asked, whatever came of it."""
        return self.judge is not None or self.dropped


async def reward(
    task: str,
    response: str,
    answers: Sequence[str],
    *,
    question: str,
    judge: ChatClient | None = None,
    patience: float | None = None,
    **fields: Any,
) -> Reward:
    """Return the reward of `response`; the judge is asked only where the rule gives 0 and an answer is there.

    Raises ValueError for an unknown task. An unreachable judge, one without a verdict, and one that has not decided
    after `patience` seconds (waiting for its turn, tries and pauses together; None: no limit) give dropped=True.
    """
    rule = score(task, response, answers, **fields)
    answer = final_answer(response)
    if judge is None or rule > 0 or task not in JUDGED_TASKS or answer is None:
        return Reward(rule, rule)
    from qwenlong.core.llm import LLMError

    try:
        async with asyncio.timeout(patience):
            for attempt in range(VERDICT_TRIES):
                verdict = await equivalent(judge, question, answers, answer, attempt=attempt)
                if verdict is not None:
                    return Reward(float(verdict), rule, verdict)
    except LLMError as error:
        return Reward(math.nan, rule, None, True, f"judge gave no reply: {error}")
    except TimeoutError:
        return Reward(math.nan, rule, None, True, f"judge gave no reply: none within {patience:g} s")
    return Reward(math.nan, rule, None, True, "judge gave no verdict")
