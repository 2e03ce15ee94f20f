"""`qwenlong agent` and `qwenlong answer`: questions about documents of any length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.memory_agent import options

if TYPE_CHECKING:
    from qwenlong.core.config import AgentConfig
    from qwenlong.memory_agent.backends import Backend
    from qwenlong.memory_agent.loop import Result

app = typer.Typer(help="Answer questions about documents longer than the model's window.", no_args_is_help=True)
answer_app = typer.Typer()

Documents = Annotated[list[Path], typer.Option("--document", help="text, Markdown, HTML, JSON or PDF file; repeat it")]
Question = Annotated[str, typer.Option("--question", help="what to find out, and how to write the answer")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Temperature = Annotated[float, typer.Option(help="sampling temperature; 0 is greedy")]
TopP = Annotated[float, typer.Option(help="nucleus sampling")]
Seed = Annotated[int, typer.Option(help="seed of the sampling")]


@app.callback()
def group() -> None:
    """Answer questions about documents longer than the model's window."""


@app.command("answer")
def answer(
    document: Documents,
    question: Question,
    model: Annotated[str, typer.Option(help="model name at --base-url; without it a model directory, loaded here")],
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible address, up to and with /v1")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="environment variable that holds the key")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="directory or id; default: the model's")] = None,
    chunk_tokens: options.ChunkTokens = None,
    memory_tokens: options.MemoryTokens = None,
    answer_tokens: options.AnswerTokens = None,
    window: Annotated[int | None, typer.Option(help="window in tokens; default: a local model's own")] = None,
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
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = 17,
    as_json: AsJson = False,
) -> None:
    """Read documents chunk by chunk into a memory, then answer from it."""
    import asyncio

    from qwenlong.core.files import digest_path

    with reported():
        config = options.agent_config(
            chunk_tokens=chunk_tokens,
            memory_tokens=memory_tokens,
            answer_tokens=answer_tokens,
            mode=mode,
            skip=skip,
            early_exit=early_exit,
            recall_tokens=recall_tokens,
            recall_chunks=recall_chunks,
            parallel=parallel,
            order=order,
            repair=repair,
            prompts=prompts,
        )
        settings = config.model_dump() | {"temperature": temperature, "top_p": top_p, "seed": seed}
        text = _read(document)
        backend = _open(model, base_url, tokenizer, api_key_env)
        limit = window if window is not None else backend.window
        address = base_url or (digest_path(model) if journal is not None else "")
        result, sections = asyncio.run(_fold(question, text, backend, config, settings, limit, journal, address))
        if trace is not None:
            _write_trace(trace, question, result, sections, model)
        typer.echo(json.dumps(_summary(result), ensure_ascii=False) if as_json else result.answer)
        if not result.answer:
            raise QwenlongError(
                f"no answer: the last turn ended by {result.steps[-1].turn.finish_reason!r} without one; "
                "raise --answer-tokens, or look at --trace"
            )


@answer_app.command("answer")
def one_pass(
    document: Documents,
    question: Question,
    model: Annotated[str, typer.Option(help="model directory, loaded here")],
    max_tokens: Annotated[int | None, typer.Option(min=1, help="output limit; default: the rest of the window")] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = 17,
    as_json: AsJson = False,
) -> None:
    """Answer from whole documents in one pass, without a server."""
    import asyncio

    with reported():
        text = _read(document)
        backend = _open(model, None, None, None)
        reply = asyncio.run(_one_pass(question, text, backend, max_tokens, temperature, top_p, seed))
        typer.echo(json.dumps(reply, ensure_ascii=False) if as_json else reply["answer"])
        if not reply["answer"]:
            raise QwenlongError("no answer: the output limit fell inside the thinking; raise --max-tokens")


def _read(paths: list[Path]) -> str:
    from qwenlong.memory_agent.documents import render

    return render(paths)


def _open(model: str, base_url: str | None, tokenizer: str | None, api_key_env: str | None) -> Backend:
    from qwenlong.memory_agent.backends import open_backend

    return open_backend(model, base_url=base_url, tokenizer=tokenizer, api_key_env=api_key_env)


async def _fold(
    question: str,
    text: str,
    backend: Backend,
    config: AgentConfig,
    settings: dict[str, Any],
    window: int | None,
    journal: Path | None,
    address: str,
) -> tuple[Result, list[str]]:
    from contextlib import nullcontext

    from qwenlong.core.files import digest_value
    from qwenlong.core.progress import Progress
    from qwenlong.memory_agent import backends, loop
    from qwenlong.memory_agent.chunking import split
    from qwenlong.memory_agent.journal import Journal
    from qwenlong.memory_agent.prompting import Prompts

    tokenizer = backend.tokenizer
    prompts = Prompts(config.prompts, tokenizer)
    # Made harmless first: the tokens of a chunk are those that the prompt shows.
    sections = split(prompts.safe(text), tokenizer, config.chunk_tokens)
    generate = backends.generator(
        backend, temperature=settings["temperature"], top_p=settings["top_p"], seed=settings["seed"]
    )
    key = digest_value([question, text, backend.name, address, tokenizer.digest, settings, prompts.digest])
    book = Journal(journal / f"{key[:24]}.jsonl") if journal is not None else None
    with book if book is not None else nullcontext(), Progress("reading", len(sections) + 2, "call") as progress:
        folding = loop.fold(
            question,
            "",
            sections,
            book.wrap(generate) if book is not None else generate,
            tokenizer=tokenizer,
            memory_tokens=config.memory_tokens,
            answer_tokens=config.answer_tokens,
            window=window,
            split_request=True,
            gains=loop.Gains.of(config),
            prompts=prompts,
            on_step=lambda step: progress.advance(status=step.status),
        )
        try:
            result = await folding
        finally:
            await backend.close()
    return result, sections


async def _one_pass(
    question: str, text: str, backend: Backend, max_tokens: int | None, temperature: float, top_p: float, seed: int
) -> dict[str, Any]:
    from qwenlong.core import templates
    from qwenlong.memory_agent.parsing import after_thinking

    values = {"documents": text, "question": question, "instruction": templates.ANSWER_INSTRUCTION}
    messages = [{"role": "user", "content": templates.fill("reading_comprehension", values)}]
    needed = backend.tokenizer.count_chat(messages)
    room = 50_000 if backend.window is None else backend.window - needed
    if room < (max_tokens or 1):
        raise UsageError(
            f"the prompt has {needed} tokens and the window {backend.window}; use `qwenlong agent answer`, "
            "which reads longer documents, or lower --max-tokens"
        )
    limit = max_tokens if max_tokens is not None else min(room, 50_000)
    turn = await backend.complete(messages, max_tokens=limit, temperature=temperature, top_p=top_p, seed=seed)
    return {
        "answer": after_thinking(turn.text) or "",
        "finish_reason": turn.finish_reason,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
    }


def _summary(result: Result) -> dict[str, Any]:
    return {
        "answer": result.answer,
        "memory": result.memory,
        "chunks": result.chunks(),
        "clean": result.clean,
        "calls": len(result.steps),
        "prompt_tokens": sum(step.turn.prompt_tokens for step in result.steps),
        "completion_tokens": sum(step.turn.completion_tokens for step in result.steps),
        "steps": [step.summary() for step in result.steps],
    }


def _write_trace(path: Path, question: str, result: Result, sections: list[str], model: str) -> None:
    import jinja2

    from qwenlong.core.files import write_text

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "pages")
    page = jinja2.Environment(loader=loader, autoescape=True).get_template("trace.html.j2")
    aligned = ["" if step.chunk is None else sections[step.chunk] for step in result.steps]
    values = {"question": question, "result": result, "sections": aligned, "chunks": result.chunks(), "model": model}
    write_text(path, page.render(values))
