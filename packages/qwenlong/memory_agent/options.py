"""Options that the agent's commands share: one for each setting of `agent.*`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qwenlong.core.config import AgentConfig

Model = Annotated[str, typer.Option(help="model name at --base-url; without it a model directory, loaded here")]
BaseUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible address, up to and with /v1")]
ApiKeyEnv = Annotated[str | None, typer.Option(help="environment variable that holds the key")]
TokenizerName = Annotated[str | None, typer.Option(help="directory or id; default: the model's")]
Window = Annotated[int | None, typer.Option(help="window in tokens; default: a local model's own")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
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
Temperature = Annotated[float, typer.Option(help="sampling temperature; 0 is greedy")]
TopP = Annotated[float, typer.Option(help="nucleus sampling")]
Seed = Annotated[int, typer.Option(help="seed of the sampling")]
Timeout = Annotated[float, typer.Option(min=0.001, help="seconds for one try of a request")]
Retries = Annotated[int, typer.Option(min=0, help="tries of a request after the first")]
Deadline = Annotated[
    float | None, typer.Option(min=0.001, help="seconds for all tries of a request together [no limit]")
]
PromptFolder = Annotated[Path | None, typer.Option("--prompts", help="folder of templates that replace built-in ones")]


def agent_config(given: Mapping[str, Any]) -> AgentConfig:
    """Return the configuration of a command's options: those named as settings that were given (none: not given).

    Raises ConfigError naming the option and its value.
    """
    from pydantic import ValidationError

    from qwenlong.core.config import AgentConfig
    from qwenlong.core.errors import ConfigError

    values = {name: given[name] for name in AgentConfig.model_fields if given.get(name) is not None}
    if "prompts" in values:
        values["prompts"] = str(values["prompts"])
    try:
        return AgentConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") + f" {first['input']!r}: " if first["loc"] else ""
        raise ConfigError(name + first["msg"].removeprefix("Value error, ")) from error
