"""What goes beyond the paper's loop, each a setting of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qwenlong.core.errors import UsageError

if TYPE_CHECKING:
    from qwenlong.core.config import AgentConfig


@dataclass(frozen=True)
class Gains:
    """Which gains are on; none by default, which is the paper's loop. The fields are those of AgentConfig.

    Raises UsageError for a value that is none.
    """

    skip: bool = False
    early_exit: bool = False
    recall_tokens: int = 0
    recall_chunks: bool = False
    parallel: int = 1
    order: Literal["question_first", "section_first"] = "question_first"
    repair: bool = False

    def __post_init__(self) -> None:
        if self.parallel < 1:
            raise UsageError(f"parallel = {self.parallel}: give the number of groups that are read at once, 1 or more")
        if self.recall_tokens < 0:
            raise UsageError(f"recall_tokens = {self.recall_tokens}: give 0 (off) or a number of tokens")
        if self.order not in ("question_first", "section_first"):
            raise UsageError(f"order = {self.order!r}: use question_first or section_first")

    @classmethod
    def of(cls, config: AgentConfig) -> Gains:
        """Return the gains that a configuration asks for."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})
