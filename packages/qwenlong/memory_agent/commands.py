"""`qwenlong agent` and `qwenlong answer`: questions about documents of any length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import QwenlongError
from qwenlong.memory_agent import batch_command, one_pass, options, vllm_command
from qwenlong.memory_agent.serve_command import serve

if TYPE_CHECKING:
    from qwenlong.memory_agent.answering import Agent, Patience
    from qwenlong.memory_agent.chunks import Chunks
    from qwenlong.memory_agent.loop import Result

app = typer.Typer(help="Answer questions about documents longer than the model's window.", no_args_is_help=True)
app.command("batch")(batch_command.batch)
app.command("serve")(serve)
app.command("vllm")(vllm_command.vllm)
answer_app = typer.Typer()
answer_app.command("answer")(one_pass.answer)

Documents = Annotated[
    list[Path],
    typer.Option("--document", help="file or folder (see docs/memory_agent.md), or - for standard input; repeat it"),
]
Question = Annotated[str, typer.Option("--question", help="what to find out, and how to write the answer")]


@app.callback()
def group() -> None:
    """Answer questions about documents longer than the model's window."""


@app.command("answer")
def answer(
    document: Documents,
    question: Question,
    model: options.Model,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    tokenizer: options.TokenizerName = None,
    chunk_tokens: options.ChunkTokens = None,
    memory_tokens: options.MemoryTokens = None,
    answer_tokens: options.AnswerTokens = None,
    window: options.Window = None,
    mode: options.Mode = "paper",
    skip: options.Skip = None,
    early_exit: options.EarlyExit = None,
    recall_tokens: options.RecallTokens = None,
    recall_chunks: options.RecallChunks = None,
    parallel: options.Parallel = None,
    order: options.Order = None,
    repair: options.Repair = None,
    prompts: options.PromptFolder = None,
    journal: Annotated[Path | None, typer.Option(help="folder of finished turns; the same command resumes")] = None,
    trace: Annotated[Path | None, typer.Option(help="HTML page to write with every turn")] = None,
    timeout: options.Timeout = 600.0,
    retries: options.Retries = 4,
    deadline: options.Deadline = None,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.95,
    seed: options.Seed = 17,
    as_json: options.AsJson = False,
) -> None:
    """Read documents chunk by chunk into a memory, then answer from it."""
    given = dict(locals())
    import asyncio

    from qwenlong.core.files import digest_path
    from qwenlong.memory_agent import answering, documents
    from qwenlong.memory_agent.backends import open_backend
    from qwenlong.memory_agent.trace import write_trace

    with reported():
        config = options.agent_config(given)
        documents.check(document)
        backend = open_backend(
            model,
            base_url=base_url,
            tokenizer=tokenizer,
            api_key_env=api_key_env,
            timeout=timeout,
            retries=retries,
            deadline=deadline,
        )
        limit = window if window is not None else backend.window
        weights = digest_path(model) if journal is not None and base_url is None else ""
        agent = answering.Agent(backend, config, temperature, top_p, seed, limit, weights)
        with agent.sections(document) as sections:
            result = asyncio.run(_fold(question, sections, agent, journal, answering.Patience()))
            if trace is not None:
                write_trace(trace, question, result, sections, model)
        typer.echo(json.dumps(answering.summary(result), ensure_ascii=False) if as_json else result.answer)
        if result.answer and not result.clean:
            typer.echo(f"warning: not clean, {answering.shortcoming(result)}", err=True)
        if not result.answer:
            raise QwenlongError(
                f"no answer: the last turn ended by {result.steps[-1].turn.finish_reason!r} without one; "
                "raise --answer-tokens, or look at --trace"
            )


async def _fold(question: str, sections: Chunks, agent: Agent, journal: Path | None, patience: Patience) -> Result:
    from contextlib import nullcontext

    from qwenlong.core.progress import Progress
    from qwenlong.memory_agent.journal import Journal, place

    owner = agent.belongs_to(question, None, sections.digest)
    book = Journal(place(journal, owner), owner) if journal is not None else None
    generate = patience.wrap(agent.generate())
    with book if book is not None else nullcontext(), Progress("reading", len(sections) + 2, "call") as progress:
        try:
            return await agent.ask(
                question,
                None,
                sections,
                book.wrap(generate) if book is not None else generate,
                on_step=lambda step: progress.advance(status=step.status),
            )
        finally:
            await agent.backend.close()
