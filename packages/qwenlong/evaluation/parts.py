"""What of this package decides a response, and what a score: so that other scoring asks no model again."""

from __future__ import annotations

from qwenlong.core.files import code_digest

#: What works on scores alone.
AFTER_SCORES = (
    "evaluation.compare",
    "evaluation.compare_command",
    "evaluation.rescore_command",
    "evaluation.tables",
)
#: What works on stored responses. A benchmark's own file asks and scores, and is not among them.
AFTER_RESPONSES = (
    *AFTER_SCORES,
    "evaluation.judging",
    "evaluation.metrics",
    "evaluation.printing",
    "evaluation.rules",
    "evaluation.score_command",
    "evaluation.scoring",
)


def asking_digest() -> str:
    """Return the digest of the code that responses depend on."""
    return code_digest("evaluation", "inference", "memory_agent", without=AFTER_RESPONSES)
