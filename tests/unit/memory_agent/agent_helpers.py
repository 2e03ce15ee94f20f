"""Real small parts for tests: a trained tokenizer, a random Qwen3-MoE, an HTTP endpoint that says what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qwenlong.core.tokens import Tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("assistant\n", "assistant\n<think>\n")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def make_tokenizer(folder: Path, chat_template: str = CHATML) -> Tokenizer:
    """Train a tokenizer of 400 entries on the prompt templates and save it as a Hugging Face directory."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from qwenlong.core import templates

    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=400, **options)
    fast.train_from_iterator([p.read_text() for p in sorted((templates.FOLDER / "v1").glob("*.txt"))], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(chat_template)
    return Tokenizer(folder)


def make_model(folder: Path, window: int = 1024) -> Path:
    """Save a tokenizer and a random Qwen3-MoE of a few thousand parameters; it writes noise, the same each time."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    make_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        intermediate_size=32,
        max_position_embeddings=window,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=0,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


@contextmanager
def endpoint(reply: Callable[[dict[str, Any]], tuple[int, dict[str, Any] | str]]) -> Iterator[tuple[str, list[Any]]]:
    """Serve chat completions: `reply` maps a request to a status and a body, text being a whole completion's text.

    Yields the base URL and the list of requests, which grows.
    """
    requests: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append(request)
            status, body = reply(request)
            if isinstance(body, str):
                choice = {"message": {"role": "assistant", "content": body}, "finish_reason": "stop"}
                body = {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
