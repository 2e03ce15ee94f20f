"""`qwenlong answer`: one pass over documents that fit the window, on a model directory, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.memory_agent import options

if TYPE_CHECKING:
    from qwenlong.memory_agent.backends import Backend

#: Output limit where the window leaves more room, in tokens: that of the published quick start.
MAX_TOKENS = 50_000
#: Characters per token above which a document is too long without being counted.
_SURELY_LONG = 64


def answer(
    document: Annotated[list[Path], typer.Option("--document", help="any file that `agent answer` reads; repeat it")],
    question: Annotated[str, typer.Option("--question", help="what to find out, and how to write the answer")],
    model: Annotated[str, typer.Option(help="model directory, loaded here")],
    max_tokens: Annotated[int | None, typer.Option(min=1, help="output limit; default: the rest of the window")] = None,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.95,
    seed: options.Seed = 17,
    window: Annotated[int | None, typer.Option(min=1, help="window in tokens; default: the model's own")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 [bfloat16 on a GPU]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda [the GPU if there is one]")] = None,
    thinking: Annotated[bool, typer.Option("--thinking", help="print the thinking before the answer")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Answer from whole documents in one pass, without a server."""
    import asyncio

    with reported():
        from qwenlong.memory_agent.backends import open_backend
        from qwenlong.memory_agent.documents import render

        if not question.strip():
            raise UsageError("--question is empty; say what is to be found out")
        text = render(document)
        backend = open_backend(model, dtype=dtype, device=device)
        limit = window or backend.window
        reply = asyncio.run(ask(backend, question, text, limit, max_tokens, temperature, top_p, seed))
        thought = reply.pop("thinking")
        if as_json:
            typer.echo(json.dumps(reply | ({"thinking": thought} if thinking else {}), ensure_ascii=False))
        else:
            typer.echo(f"<think>\n{thought}\n</think>\n\n{reply['answer']}" if thinking else reply["answer"])
        if not reply["answer"]:
            raise QwenlongError(
                f"no answer: the reply ended by {reply['finish_reason']!r} after {reply['completion_tokens']} tokens "
                + ("inside its thinking; raise --max-tokens" if reply["finish_reason"] == "length" else "without one")
            )
        if reply["finish_reason"] == "length":
            typer.echo("warning: the answer was cut off by the output limit; raise --max-tokens", err=True)


async def ask(
    backend: Backend,
    question: str,
    text: str,
    window: int | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
) -> dict[str, Any]:
    """Return answer, thinking, finish reason and tokens. Raises UsageError where prompt and reply exceed the window."""
    from qwenlong.core import templates
    from qwenlong.memory_agent.parsing import after_thinking, thinking
    from qwenlong.memory_agent.prompting import Prompts

    tokenizer = backend.tokenizer
    if window is not None and len(text) > _SURELY_LONG * window:
        raise _too_long(f"{len(text)} characters", window)
    safe = Prompts(tokenizer=tokenizer).safe
    values = {"documents": safe(text), "question": safe(question), "instruction": templates.ANSWER_INSTRUCTION}
    messages = [{"role": "user", "content": templates.fill("reading_comprehension", values)}]
    needed = tokenizer.count_chat(messages)
    room = MAX_TOKENS if window is None else window - needed
    if room < (max_tokens or 1):
        output = f" and {max_tokens} of output" if max_tokens else ""
        raise _too_long(f"a prompt of {needed} tokens{output}", window)
    limit = max_tokens if max_tokens is not None else min(room, MAX_TOKENS)
    turn = await backend.complete(messages, max_tokens=limit, temperature=temperature, top_p=top_p, seed=seed)
    return {
        "answer": after_thinking(turn.text) or "",
        "thinking": thinking(turn.text),
        "finish_reason": turn.finish_reason,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
    }


def _too_long(what: str, window: int | None) -> UsageError:
    return UsageError(
        f"{what} and a window of {window} tokens: too much for one pass; use `qwenlong agent answer`, which reads "
        "longer documents, or lower --max-tokens"
    )
