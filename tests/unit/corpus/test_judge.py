"""The LLM judge, asked over HTTP: a small server on this machine speaks the endpoint's protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from corpus_archives import config, factbook, registry

from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.corpus.build import build
from qwenlong.corpus.judge import verdict


class Handler(BaseHTTPRequestHandler):
    """Answers by country: Spain is unfit, about Italy it rambles, or everything is unfit."""

    prompts: list[str] = []
    all_unfit = False

    def do_POST(self) -> None:
        """Reply as a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.prompts.append(prompt)
        reply = "It has facts. [[YES]]"
        if "Title: Spain" in prompt or self.all_unfit:
            reply = "Nothing in it. [[NO]]"
        elif "Title: Italy" in prompt:
            reply = "[[YES]] or perhaps not"
        data = json.dumps({"choices": [{"message": {"content": reply}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Config]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    Handler.prompts, Handler.all_unfit = [], False
    table = registry(tmp_path / "s.csv", {"facts": (factbook(tmp_path / "cache"), "professional", "factbook")})
    values = config(table, "facts", judge_filter=True).model_dump()
    values["run"]["results"] = str(tmp_path / "results")
    values["llm"]["generator"] = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "retries": 0}
    yield Config.model_validate(values)
    server.shutdown()
    server.server_close()


def test_unfit_documents_go_unparsed_ones_stay(settings: Config, tmp_path: Path) -> None:
    documents, stats = build(settings, tmp_path / "cache")
    assert [document.title for document in documents] == ["France", "Germany", "Italy"]
    assert stats["sources"]["facts"]["dropped"] == {"judge": 1}
    assert stats["sources"]["facts"]["judge_unparsed"] == 1 and stats["documents"] == 3
    assert len(Handler.prompts) == 4
    assert any("Title: France" in prompt and "Capital - name: Paris" in prompt for prompt in Handler.prompts)
    # A second build asks nothing twice.
    assert build(settings, tmp_path / "cache") == (documents, stats)
    assert len(Handler.prompts) == 4


def test_when_nothing_is_fit_the_corpus_is_empty(settings: Config, tmp_path: Path) -> None:
    Handler.all_unfit = True
    with pytest.raises(DataError, match="the corpus is empty: source facts .* judge 4"):
        build(settings, tmp_path / "cache")


def test_without_an_endpoint_the_key_is_named(settings: Config, tmp_path: Path) -> None:
    without = settings.model_copy(update={"llm": settings.llm.model_copy(update={"generator": None})})
    with pytest.raises(ConfigError, match="corpus.judge_filter = true needs llm.generator"):
        build(without, tmp_path / "cache")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Fine. [[YES]]", True), ("No.\n[[NO]]\n", False), ("[[YES]] [[NO]]", False), ("yes", None), ("", None)],
)
def test_verdicts(reply: str, expected: bool | None) -> None:
    assert verdict(reply) is expected
