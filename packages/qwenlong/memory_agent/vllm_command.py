"""`qwenlong agent vllm`: the command line that serves a model to the agent with the pinned vLLM."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import UsageError


def speculation(tokens: int, longest: int = 4, shortest: int = 2) -> list[str]:
    """Return vLLM's options for n-gram speculative decoding; none with 0 `tokens`.

    Where the last `shortest` to `longest` tokens stand in the prompt, the `tokens` that follow them there are proposed
    and checked in one forward pass: it pays where an update copies its old memory. The distribution
    that replies are drawn from stays the same.

    Raises UsageError for lengths that are none.
    """
    if tokens < 0:
        raise UsageError(f"--ngram {tokens}: give 0 (off) or the number of tokens proposed at a time")
    if not 1 <= shortest <= longest:
        raise UsageError(f"--ngram-min {shortest}, --ngram-max {longest}: give 1 <= min <= max")
    if not tokens:
        return []
    settings = {
        "method": "ngram",
        "num_speculative_tokens": tokens,
        "prompt_lookup_max": longest,
        "prompt_lookup_min": shortest,
    }
    return ["--speculative-config", json.dumps(settings)]


def line(model: str, port: int, window: int, options: list[str], cpu: bool) -> str:
    """Return a command line for a shell: vLLM on GPUs, or scripts/vllm_cpu.sh."""
    if cpu:
        words = ["scripts/vllm_cpu.sh", "serve", model, str(port), "--max-model-len", str(window)]
    else:
        words = ["vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(window)]
        words += ["--served-model-name", "local"]
    # The parts of a prompt that stay are read once.
    return shlex.join([*words, "--enable-prefix-caching", *options])


def vllm(
    model: Annotated[Path, typer.Argument(help="model directory")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="port on 127.0.0.1")] = 8000,
    window: Annotated[int | None, typer.Option(min=64, help="window in tokens; default: the model's own")] = None,
    ngram: Annotated[int, typer.Option(help="tokens that n-gram speculation proposes at a time; 0: off")] = 0,
    ngram_max: Annotated[int, typer.Option(help="longest run of tokens looked up in the prompt")] = 4,
    ngram_min: Annotated[int, typer.Option(help="shortest run of tokens looked up in the prompt")] = 2,
    cpu: Annotated[bool, typer.Option("--cpu", help="on CPUs, by scripts/vllm_cpu.sh")] = False,
) -> None:
    """Print the command that serves a model with vLLM, and the one that puts the agent in front of it."""
    from qwenlong.memory_agent.backends import window_of

    with reported():
        if not (model / "config.json").is_file():
            raise UsageError(f"{str(model)!r} is no model directory (no config.json); give one")
        room = window or window_of(model)
        if room is None:
            raise UsageError(f"{str(model / 'config.json')!r} states no window; give --window")
        typer.echo(line(str(model), port, room, speculation(ngram, ngram_max, ngram_min), cpu))
        agent = ["qwenlong", "agent", "serve", "--base-url", f"http://127.0.0.1:{port}/v1", "--model", "local"]
        typer.echo(shlex.join([*agent, "--tokenizer", str(model)]))
