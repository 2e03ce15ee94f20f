"""The official harness as a process of its own environment, with our model: prompts, memories and loop are its own.

The model is asked here, not there, so that turns are journalled, seeded, counted, and an endpoint serves as well as a
model directory. The harness's prompted mode is used: tools in the system prompt, calls as a Python list.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.llm import LLMError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Asking
from qwenlong.memory_agent.loop import Turn
from qwenlong.rewards.extract import after_thinking

#: What the harness's process is given of the environment: no key of any service is among it.
_PASSED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HTTPS_PROXY",
    "NO_PROXY",
)
#: Bytes that a line may have.
_LINE = 2**28
#: Conversations under way at a time; those of one scenario wait for each other.
THREADS = 32


@dataclass
class Played:
    """What became of one of the harness's conversations."""

    turns: list[Turn] = field(default_factory=list)
    error: DataError | LLMError | None = None
    ended: bool = False


def official_id(name: str, memory: str) -> str:
    """Return the harness's id of a record: that of the record with the memory's name in it."""
    return name.replace("memory", f"memory_{memory}", 1)


def interpreter(environment: Path) -> Path:
    """Return the environment's Python. Raises UsageError when there is none with the harness."""
    python = environment / "bin" / "python"
    if not python.is_file() or not any(environment.glob("lib/python3*/site-packages/bfcl_eval")):
        raise UsageError(
            f"evaluation.bfcl_environment = {str(environment)!r} holds no bfcl-eval; make it with "
            "`scripts/bfcl_env.sh install`, or leave the key empty for the project's own loop"
        )
    return python


async def play(
    environment: Path,
    memory: str,
    ids: Sequence[str],
    asking: Asking,
    tokenizer: Tokenizer,
    max_tokens: int,
    answer_tokens: int,
) -> dict[str, Played]:
    """Hold the earlier conversations of the questions `ids` and the questions; return what became of each, by id.

    A conversation whose prompt exceeds `max_tokens` or whose endpoint fails has an error, and the others go on.
    Raises UsageError for an environment without the harness, QwenlongError with the end of its log when it fails.
    """
    python = interpreter(environment)
    played: dict[str, Played] = {}
    job = {"category": f"memory_{memory}", "ids": [official_id(name, memory) for name in ids], "threads": THREADS}
    with tempfile.TemporaryDirectory(prefix="qwenlong-bfcl-") as scratch, (Path(scratch) / "log").open("w+b") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-P", str(Path(__file__).with_name("official_driver.py"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            # The harness looks for its embedding model in the folder where it runs before it asks the hub.
            cwd=environment,
            env={name: os.environ[name] for name in _PASSED if name in os.environ} | {"BFCL_PROJECT_ROOT": scratch},
            limit=_LINE,
        )
        assert process.stdin is not None and process.stdout is not None
        stdin = process.stdin

        async def tell(value: dict[str, Any]) -> None:
            stdin.write(json.dumps(value).encode() + b"\n")
            await stdin.drain()

        async def answer(request: dict[str, Any]) -> None:
            one = played.setdefault(request["id"], Played())
            try:
                messages, step = request["messages"], request["step"]
                size = tokenizer.count_chat(messages)
                if size > max_tokens:
                    raise DataError(
                        f"{request['id']}: a prompt of {size} tokens; evaluation.max_input_tokens is {max_tokens}"
                    )
                turn = await asking(f"official/{request['id']}")(messages, answer_tokens, step)
            except (DataError, LLMError) as error:
                one.error = error
                await tell({"ask": request["ask"], "error": str(error)})
                return
            one.turns.append(turn)
            text = after_thinking(turn.text) or ""
            told = {"text": text, "read": turn.prompt_tokens, "written": turn.completion_tokens}
            await tell({"ask": request["ask"], **told})

        try:
            async with asyncio.TaskGroup() as group:
                await tell(job)
                async for line in process.stdout:
                    said = json.loads(line)
                    if "ask" in said:
                        group.create_task(answer(said))
                        continue
                    one = played.setdefault(said["end"], Played())
                    one.ended = True
                    if said["error"] is not None and one.error is None:
                        one.error = DataError(f"{said['end']}: the official harness failed: {said['error']}")
            code = await process.wait()
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code != 0:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            raise QwenlongError(f"the official harness ended with {code}: {log.read().decode('utf-8', 'replace')}")
    return played
