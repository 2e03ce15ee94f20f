"""Options that the agent's commands share: one for each setting of `agent.*`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qwenlong.core.config import AgentConfig

ChunkTokens = Annotated[int | None, typer.Option(min=16, help="document tokens per turn [32000]")]
MemoryTokens = Annotated[int | None, typer.Option(min=8, help="output limit of an update [15000]")]
AnswerTokens = Annotated[int | None, typer.Option(min=8, help="output limit of the answer [12000]")]
Mode = Annotated[
    str, typer.Option(help="paper: one call a chunk, one to split the query, one to answer; fast: with all gains")
]
Skip = Annotated[bool | None, typer.Option(help="the model may say that a chunk has nothing to add [fast: on]")]
EarlyExit = Annotated[
    bool | None, typer.Option(help="the model may stop; never where a question counts, lists or compares [fast: on]")
]
RecallTokens = Annotated[int | None, typer.Option(min=0, help="tokens of earlier memories shown again [fast: 1024]")]
RecallChunks = Annotated[bool | None, typer.Option(help="recall sentences of passed chunks too [fast: on]")]
Parallel = Annotated[int | None, typer.Option(min=1, help="groups of chunks read at the same time [fast: 4]")]
Order = Annotated[str | None, typer.Option(help="question_first, or section_first for many questions on one document")]
Repair = Annotated[bool | None, typer.Option(help="ask once more for an unusable reply [fast: on]")]
PromptFolder = Annotated[Path | None, typer.Option("--prompts", help="folder of templates that replace built-in ones")]


def agent_config(**given: Any) -> AgentConfig:
    """Return the configuration of the options that were given (none: not given).

    Raises ConfigError naming the option and its value.
    """
    from pydantic import ValidationError

    from qwenlong.core.config import AgentConfig
    from qwenlong.core.errors import ConfigError

    if given.get("prompts") is not None:
        given["prompts"] = str(given["prompts"])
    try:
        return AgentConfig.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") + f" {first['input']!r}: " if first["loc"] else ""
        raise ConfigError(name + first["msg"].removeprefix("Value error, ")) from error
