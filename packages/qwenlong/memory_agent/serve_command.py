"""`qwenlong agent serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import ConfigError, UsageError
from qwenlong.memory_agent import options

if TYPE_CHECKING:
    from qwenlong.core.config import AgentConfig


def serve(
    model: options.Model,
    base_url: options.BaseUrl = None,
    upstream_key_env: Annotated[str | None, typer.Option(help="variable with the key of --base-url")] = None,
    tokenizer: options.TokenizerName = None,
    window: Annotated[int | None, typer.Option(min=64, help="window in tokens; default: what the model states")] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 takes a free one")] = 8077,
    api_key_env: Annotated[str | None, typer.Option(help="variable with the key that clients must send")] = None,
    chunk_tokens: options.ChunkTokens = None,
    memory_tokens: options.MemoryTokens = None,
    answer_tokens: options.AnswerTokens = None,
    mode: options.Mode = "paper",
    skip: options.Skip = None,
    early_exit: options.EarlyExit = None,
    recall_tokens: options.RecallTokens = None,
    recall_chunks: options.RecallChunks = None,
    parallel: options.Parallel = None,
    order: options.Order = None,
    repair: options.Repair = None,
    prompts: options.PromptFolder = None,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.95,
    seed: options.Seed = 17,
    max_request_mb: Annotated[int, typer.Option(min=1, help="largest request body in MiB")] = 64,
    max_concurrent: Annotated[int, typer.Option(min=1, help="requests worked on at once")] = 64,
    max_waiting: Annotated[int, typer.Option(min=0, help="requests that wait; more get 429")] = 256,
    timeout: options.Timeout = 600.0,
    retries: options.Retries = 4,
    request_timeout: Annotated[float, typer.Option(min=0.1, help="seconds for one request, all its calls")] = 3600.0,
    grace: Annotated[float, typer.Option(min=1, help="seconds for running requests after SIGTERM")] = 30.0,
    dtype: Annotated[str | None, typer.Option(help="of a local model [bfloat16 on a GPU, else float32]")] = None,
    device: Annotated[str | None, typer.Option(help="of a local model; default: the GPU if there is one")] = None,
) -> None:
    """Serve /v1/chat/completions: what fits the window directly, longer documents through the agent."""
    given = dict(locals())

    with reported():
        config = options.agent_config(given)
        sizes = {name: given[name] for name in given if name.endswith("_tokens") and given[name] is not None}
        upstream = {"api_key_env": upstream_key_env, "timeout": timeout, "retries": retries}
        limits = {
            "request_bytes": max_request_mb * 2**20,
            "running": max_concurrent,
            "waiting": max_waiting,
            "work_seconds": request_timeout,
            "grace_seconds": grace,
        }
        _serve(
            model,
            base_url,
            tokenizer,
            window,
            (host, port),
            _key(api_key_env),
            config,
            sizes,
            {"temperature": temperature, "top_p": top_p, "seed": seed},
            upstream | {"concurrency": max_concurrent},
            limits,
            {"dtype": dtype, "device": device},
        )


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"--api-key-env {variable!r}: no such environment variable, or it is empty; export the key")
    return key


def _serve(
    model: str,
    base_url: str | None,
    tokenizer: str | None,
    window: int | None,
    address: tuple[str, int],
    key: str | None,
    config: AgentConfig,
    sizes: dict[str, int],
    sampling: dict[str, Any],
    upstream: dict[str, Any],
    limits: dict[str, Any],
    local: dict[str, Any],
) -> None:
    try:
        from qwenlong.memory_agent import server
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'qwenlong[agent]'") from error
    from qwenlong.core.logs import redact_text, setup
    from qwenlong.memory_agent import fitting, guards
    from qwenlong.memory_agent.backends import open_backend
    from qwenlong.memory_agent.prompting import Prompts
    from qwenlong.memory_agent.service import Sampling, Service

    setup()
    # Before anything is loaded: what would be refused anyway.
    guards.check_exposure(address[0], key)
    if base_url is not None:
        _check_address(base_url)
    listening = server.bind(*address)
    with listening:
        backend = open_backend(model, base_url=base_url, tokenizer=tokenizer, private=True, **upstream, **local)
        room = window or backend.window or _stated(model, base_url, tokenizer, upstream)
        prompts = Prompts(config.prompts, backend.tokenizer)
        # What was asked for by name is refused, not shrunk, where no question at all would leave room for it.
        small = config.model_copy(update={**fitting.LEAST, "recall_tokens": 0} | sizes)
        fitting.check(small, "", prompts, backend.tokenizer, room)
        service = Service(backend, config, room, Sampling(**sampling))
        bounds = guards.Bounds(**limits)
        app = server.application(service, frozenset({backend.name}), key, bounds, address[0])
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        behind = redact_text(base_url) if base_url else "this process"
        line = f"{backend.name} ({behind}, window {room}) at http://{shown}:{port}/v1"
        server.run(app, listening, bounds, lambda: typer.echo(line))


def _check_address(base_url: str) -> None:
    import httpx

    from qwenlong.core.llm.places import folder_of
    from qwenlong.core.logs import redact_text

    if folder_of(base_url) is not None:
        return
    try:
        address = httpx.URL(base_url)
    except httpx.InvalidURL:
        address = httpx.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise UsageError(f"--base-url {redact_text(base_url)!r} is no address; give http://HOST:PORT/v1")


def _stated(model: str, base_url: str | None, tokenizer: str | None, upstream: dict[str, Any]) -> int:
    """Return the window that the endpoint lists for its model, else the one in the tokenizer's directory."""
    import httpx

    from qwenlong.core.llm.places import Place, folder_of, locate
    from qwenlong.memory_agent.backends import window_of

    if base_url is not None:
        service = folder_of(base_url)
        place = Place(base_url) if service is None else locate(service)
        base_url, key = place.url, place.key or os.environ.get(upstream["api_key_env"] or "", "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            listed = httpx.get(base_url.rstrip("/") + "/models", headers=headers, timeout=10.0).json()["data"]
            found = next(one.get("max_model_len") for one in listed if one["id"] == model)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
            found = None
        if isinstance(found, int):
            return found
    stated = window_of(Path(tokenizer or model))
    if stated is None:
        raise UsageError(f"the window of {model!r} is not known: no server or config.json states it; give --window")
    return stated
