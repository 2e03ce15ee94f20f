"""Models as the loop's `generate`: an OpenAI-compatible endpoint, or a directory loaded into this process."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qwenlong.core import seeds, templates
from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.loop import Generate, Messages, Turn

if TYPE_CHECKING:
    from qwenlong.core.llm import Client
    from qwenlong.inference.engine import Local


class Backend(Protocol):
    """A model that can be asked, with its tokenizer and its window in tokens (none: not known)."""

    name: str
    tokenizer: Tokenizer
    window: int | None

    async def complete(
        self, messages: Messages, *, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Turn:
        """Return one turn of the model."""
        ...

    async def close(self) -> None:
        """Let go of connections; call it in the loop that asked."""
        ...


def generator(backend: Backend, *, temperature: float, top_p: float, seed: int) -> Generate:
    """Return the loop's `generate`; each turn's seed comes from `seed` and the turn's index."""

    async def generate(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
        turn_seed = seeds.derive(seed, "turn", turn_index)
        began = time.monotonic()
        turn = await backend.complete(
            messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=turn_seed
        )
        return replace(turn, seconds=round(time.monotonic() - began, 3))

    return generate


class EndpointBackend:
    """A model behind an OpenAI-compatible address."""

    def __init__(self, client: Client, name: str, tokenizer: Tokenizer, window: int | None = None) -> None:
        self.client = client
        self.name = name
        self.tokenizer = tokenizer
        self.window = window

    async def complete(
        self, messages: Messages, *, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Turn:
        """Return one turn. Raises core.llm.Unavailable when the endpoint stays silent."""
        reply = await self.client.chat(messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
        text = reply.text
        # A server may leave out the <think> that its template opened; a reply cut short then looks like an answer.
        # A reply that ended by itself without any tag comes from a server that takes the thinking out.
        inside = "</think>" in text or reply.finish_reason == "length"
        if "<think>" not in text and inside and templates.opens_thinking(self.tokenizer.render_chat(messages)):
            text = "<think>\n" + text
        return Turn(
            text,
            reply.finish_reason,
            # Servers that do not count leave 0.
            n_prompt_tokens=reply.n_prompt_tokens or self.tokenizer.count_chat(messages),
            n_response_tokens=reply.n_response_tokens or self.tokenizer.count(reply.text),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()


class LocalBackend:
    """A model directory in this process."""

    def __init__(self, local: Local, name: str, tokenizer: Tokenizer, window: int | None = None) -> None:
        self._local = local
        self.name = name
        self.tokenizer = tokenizer
        self.window = window

    async def complete(
        self, messages: Messages, *, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Turn:
        """Return one turn, with token ids and log-probabilities."""
        from qwenlong.inference.engine import Sampling

        prompt = self.tokenizer.render_chat(messages)
        prompt_ids = self.tokenizer.encode(prompt)
        sampling = Sampling(max_new_tokens=max_tokens, temperature=temperature, top_p=top_p)
        made = await self._local.generate(prompt_ids, sampling, seed)
        ids = list(made.token_ids)
        # Only the end-of-turn token goes: <think> and </think> may be special tokens too, and must stay.
        shown = ids[:-1] if made.finish_reason == "stop" and ids else ids
        text = self.tokenizer.decode(shown)
        if templates.opens_thinking(prompt):
            text = "<think>\n" + text
        return Turn(text, made.finish_reason, prompt_ids, ids, list(made.log_probs))

    async def close(self) -> None:
        """Do nothing: there are no connections."""


def find_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a directory or a hub id (from the local cache if it is there).

    Raises UsageError when it is neither.
    """
    if Path(name).is_dir():
        return Tokenizer(name)
    try:
        from huggingface_hub import snapshot_download

        return Tokenizer(snapshot_download(name, allow_patterns=["tokenizer*.json", "chat_template*"]))
    except ImportError as error:
        raise UsageError(f"--tokenizer {name!r} is no directory, and huggingface_hub is not installed") from error
    except Exception as error:
        # The hub client raises a dozen kinds, network errors among them; to the user they are one.
        raise UsageError(
            f"no tokenizer {name!r}: it is no directory here, and the hub gave none ({type(error).__name__}); "
            "give --tokenizer a directory with tokenizer.json and a chat template"
        ) from error


def window_of(model: Path) -> int | None:
    """Return the window that a model directory's config.json states, in tokens; none when it states none."""
    from qwenlong.core.files import read_json

    file = model / "config.json"
    value = read_json(file).get("max_position_embeddings") if file.is_file() else None
    return value if isinstance(value, int) else None


def label(model: str) -> str:
    """Return the name of a model for results: the folder's, or its parent's where the folder is just "model"."""
    folder = Path(model)
    return folder.parent.name if folder.name == "model" and folder.parent.name else folder.name


def open_backend(
    model: str,
    *,
    base_url: str | None = None,
    tokenizer: str | None = None,
    api_key_env: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    timeout: float = 600.0,
    retries: int = 4,
    deadline: float | None = None,
    concurrency: int = 32,
    private: bool = False,
) -> Backend:
    """Return a model behind `base_url`, or without one the model directory `model`, loaded here.

    `tokenizer` (default: the model's own) counts tokens for an endpoint. `timeout` (seconds of one try), `retries`,
    `deadline` (seconds of all tries) and `concurrency` (requests in flight) are those of `core.config.EndpointConfig`;
    `private` is that of `core.llm.Client`. `dtype` and `device` are those of a local model: by default bfloat16 on a
    GPU where there is one, else float32.

    Raises UsageError naming what is missing.
    """
    if base_url is not None:
        from qwenlong.core.config import EndpointConfig
        from qwenlong.core.llm import Client

        endpoint = EndpointConfig(
            base_url=base_url,
            model=model,
            api_key_env=api_key_env,
            timeout_seconds=timeout,
            retries=retries,
            deadline_seconds=deadline,
            concurrency=concurrency,
        )
        return EndpointBackend(Client(endpoint, None, private=private), model, find_tokenizer(tokenizer or model))
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise UsageError(f"--model {model!r} is no model directory (no config.json); give one, or --base-url")
    from qwenlong.inference import engine

    # The model reads its own tokens; another tokenizer would be a mistake, not a choice.
    loaded, own = engine.load_generator(folder, *engine.place(dtype, device))
    return LocalBackend(engine.Local(loaded), label(model), own, window_of(folder))
