"""`qwenlong agent serve` as a process over a scripted endpoint: what clients see, and what they must not."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving_helpers import KEY, SIZES, Running, serving, until
from typer.testing import CliRunner

import scripted
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.commands import app

BOOK = "The lighthouse stood on the rock and the waves came in from the west. " * 60 + "\n\n"
NEEDLE = "The keeper's name was Annabel-Moonraker."
LONG = BOOK + NEEDLE + "\n\n" + BOOK
UPSTREAM_KEY = "upstream-secret-0123456789"


def reader(body: dict[str, Any]) -> Any:
    """Answer as a good model would; a chat that is no prompt of the agent gets its own last words back."""
    prompt = body["messages"][-1]["content"]
    if prompt.startswith("Split"):
        return "<question>Who kept the lighthouse?</question><format>One word.</format>"
    if "\nSection" in prompt:
        return f"<memory>{'Annabel-Moonraker' if 'Annabel' in prompt else 'nothing'}</memory><plan>on</plan>"
    if prompt.startswith("You have read"):
        return "Annabel-Moonraker" if "Annabel" in prompt else "unknown"
    return f"echo {prompt}"


def words(endpoint: Any, tokenizer: Tokenizer) -> list[str]:
    """The server's options over a scripted endpoint, with small sizes."""
    return ["--base-url", endpoint.url, "--model", "m", "--tokenizer", str(tokenizer.folder), *SIZES]


@pytest.fixture(scope="module")
def pair(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Running]]:
    """One endpoint and one server for all tests that need no options."""
    with scripted.serving() as upstream:
        log = tmp_path_factory.mktemp("shared") / "server.log"
        with serving(log, *words(upstream, tokenizer)) as server:
            yield upstream, server


@pytest.fixture
def upstream(pair: tuple[Any, Running]) -> Any:
    """The shared server's endpoint, as good as new."""
    pair[0].answer = reader
    pair[0].requests.clear()
    pair[0].hung_up = 0
    return pair[0]


@pytest.fixture
def server(pair: tuple[Any, Running], upstream: Any) -> Running:
    return pair[1]


@pytest.fixture
def start(endpoint: Any, tokenizer: Tokenizer, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers with options of their own; they end with the test."""
    endpoint.answer = reader
    with ExitStack() as stack:

        def one(*options: str, env: dict[str, str] | None = None) -> Running:
            log = tmp_path / f"server{len(list(tmp_path.iterdir()))}.log"
            return stack.enter_context(serving(log, *words(endpoint, tokenizer), *options, env=env))

        yield one


def client(server: Running, key: str = "none", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=key, max_retries=0, **more)


def ask(server: Running, **body: Any) -> httpx.Response:
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    return httpx.post(f"{server.url}/chat/completions", json=whole, timeout=120)


def two(document: str = LONG, question: str = "Who kept the lighthouse? One word.") -> list[Any]:
    return [{"role": "user", "content": document}, {"role": "user", "content": question}]


def test_long_and_short_through_the_official_client(server: Running, upstream: Any) -> None:
    """Whole and streamed, direct and read; steps on request; usage adds up; the short one passes on unchanged."""
    api = client(server)
    assert [model.id for model in api.models.list()] == ["m"] and api.models.retrieve("m").id == "m"

    short = api.chat.completions.create(
        model="m", messages=[{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}],
        temperature=0.3, top_p=0.5, seed=9, stop=["x"], max_tokens=20, n=1, extra_body={"top_k": 5},
    )  # fmt: skip
    assert short.choices[0].message.content == "echo hello" and short.usage and short.usage.prompt_tokens == 100
    assert upstream.requests == [
        {"model": "m", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}],
         "temperature": 0.3, "top_p": 0.5, "seed": 9, "stop": ["x"], "max_tokens": 20, "n": 1, "top_k": 5}
    ]  # fmt: skip
    assert short.model_extra == {"qwenlong": {"mode": "direct"}}
    pieces = list(api.chat.completions.create(model="m", messages=[{"role": "user", "content": "a b c"}], stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "echo a b c "
    assert pieces[-1].choices[0].finish_reason == "stop" and len(pieces) == 5

    before = len(upstream.requests)
    read = api.chat.completions.create(model="m", messages=two(), extra_body={"qwenlong_steps": True}, seed=4)
    calls = len(upstream.requests) - before
    assert read.choices[0].message.content == "Annabel-Moonraker" and read.choices[0].finish_reason == "stop"
    about = read.model_extra["qwenlong"]  # type: ignore[index]
    assert about["mode"] == "agent" and about["rule"] == "messages" and about["clean"] is True
    total = about["chunks"]["total"]
    assert total >= 5 and about["chunks"] == {"total": total, "read": total, "skipped": 0, "failed": 0, "unread": 0}
    assert calls == about["calls"] == total + 2 == len(about["steps"])
    assert [step["kind"] for step in about["steps"]] == ["split", *["update"] * total, "answer"]
    assert read.usage and (read.usage.prompt_tokens, read.usage.completion_tokens) == (100 * calls, 10 * calls)

    stream = api.chat.completions.create(
        model="m", messages=two(), stream=True, stream_options={"include_usage": True}, seed=4,
        extra_body={"qwenlong_steps": True},
    )  # fmt: skip
    text, thought, reasons, usage, steps, listed = "", "", [], None, 0, 0
    for piece in stream:
        usage = piece.usage or usage
        for choice in piece.choices:
            text += choice.delta.content or ""
            thought += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
        own = (piece.model_extra or {}).get("qwenlong", {})
        steps += "step" in own
        listed += len(own.get("steps", ()))
    assert text == "Annabel-Moonraker" and reasons == ["stop"] and steps == listed == calls
    assert thought.count("\n") == calls and "Annabel" not in thought
    assert usage and usage.total_tokens == 110 * calls
    # The same seed asked the same questions again.
    assert upstream.requests[before : before + calls] == upstream.requests[before + calls :]


def test_one_message_and_the_field_of_its_own(server: Running, upstream: Any) -> None:
    one = ask(server, messages=[{"role": "user", "content": f"{LONG}\n\nWho kept the lighthouse?"}]).json()
    assert one["choices"][0]["message"]["content"] == "Annabel-Moonraker" and one["qwenlong"]["rule"] == "paragraphs"
    parts = [{"type": "text", "text": LONG}, {"type": "text", "text": "\nQuestion: Who?"}]
    assert ask(server, messages=[{"role": "user", "content": parts}]).json()["qwenlong"]["rule"] == "marker"
    named = ask(server, qwenlong={"document": NEEDLE, "question": "Who?"}).json()
    assert named["qwenlong"]["rule"] == "field" and named["qwenlong"]["chunks"]["total"] == 1
    assert "steps" not in named["qwenlong"]
    stopped = ask(server, qwenlong={"document": NEEDLE, "question": "Who?"}, stop=["-Moon"], max_tokens=9).json()
    assert stopped["choices"][0] == {
        "index": 0, "message": {"role": "assistant", "content": "Annabel"}, "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
    assert upstream.requests[-1]["max_tokens"] == 9 and upstream.requests[-2]["max_tokens"] == 64


def test_failed_chunks_are_told(server: Running, upstream: Any) -> None:
    """Updates whose thinking never ends leave the run unclean, and an answer cut short says length."""

    def answer(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        if "\nSection" in prompt and "Annabel" not in prompt:
            return {"text": "<think>never", "finish": "length"}
        if prompt.startswith("You have read"):
            return {"text": "<think>never", "finish": "length"}
        return reader(body)

    upstream.answer = answer
    reply = ask(server, messages=two()).json()
    chunks = reply["qwenlong"]["chunks"]
    assert chunks["failed"] > 0 and chunks["failed"] + chunks["read"] == chunks["total"]
    assert reply["qwenlong"]["clean"] is False
    assert reply["choices"][0]["message"]["content"] == "" and reply["choices"][0]["finish_reason"] == "length"


USER = {"role": "user", "content": "hi"}
BAD = [
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role"),
    ({"messages": "hi"}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "messages"),
    ({"temperature": 3}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"n": 0}, 400, "n"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": 1.5}, 400, "max_tokens"),
    ({"seed": "x"}, 400, "seed"),
    ({"stop": [1]}, 400, "stop"),
    ({"stream": "yes"}, 400, "stream"),
    ({"qwenlong": {"document": "x", "answer": "y"}}, 400, "qwenlong.answer"),
    ({"qwenlong": {"document": ""}}, 400, "qwenlong.document"),
    ({"model": "other"}, 404, "model"),
    ({"model": 5}, 400, "model"),
    # A document that is read cannot honour these.
    ({"messages": two(), "n": 2}, 400, "n"),
    ({"messages": two(), "tools": [{"type": "function"}]}, 400, "tools"),
    ({"messages": two(), "logprobs": True}, 400, "logprobs"),
    ({"messages": two(), "response_format": {"type": "json_object"}}, 400, "response_format"),
    ({"messages": two(), "presence_penalty": 0.5}, 400, "presence_penalty"),
    ({"messages": two(), "top_k": 5}, 400, "top_k"),
    ({"messages": [{"role": "user", "content": "word" * 9000}]}, 400, "messages"),
]


def test_bad_requests_are_refused_by_name(server: Running, upstream: Any) -> None:
    """Each in OpenAI's shape, with its parameter, and none reaches the model; neutral values are no fault."""
    for body, status, param in BAD:
        reply = ask(server, **body)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (status, param), (body, reply.text)
        assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
        assert param.split(".")[0] in error["message"]
    assert upstream.requests == []
    neutral = {"n": 1, "logprobs": False, "presence_penalty": 0, "tools": None, "response_format": {"type": "text"}}
    assert ask(server, messages=two(), user="u", **neutral).status_code == 200


def test_bad_bodies_and_addresses(start: Callable[..., Running], endpoint: Any) -> None:
    server = start("--max-request-mb", "1")
    url = f"{server.url}/chat/completions"
    headers = {"content-type": "application/json"}
    good = json.dumps({"model": "m", "messages": [USER]})
    for content, status in [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"\xff\xfe", 400), (b"[" * 100_000, 400),
        (good.replace("hi", "\\ud800").encode(), 400),
        (good.replace("{", '{"temperature": NaN, ', 1).encode(), 400),
        (good.replace("{", '{"top_k": ' + "[" * 5000 + "]" * 5000 + ", ", 1).encode(), 400),
        (good.replace("{", '{"seed": 1' + "0" * 6000 + ", ", 1).encode(), 400),
        (b" " * (2**20 + 1), 413), (iter([b" " * 2**19] * 3), 413),
    ]:  # fmt: skip
        reply = httpx.post(url, content=content, headers=headers)
        assert reply.status_code == status and reply.json()["error"]["message"], reply.text
    # Declared as too large: refused before a byte of it is sent.
    host, port = server.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 99999999999\r\n\r\n")  # fmt: skip
        assert b" 413 " in raw.recv(65536)
    assert httpx.post(url, content=good, headers={"content-type": "text/plain"}).status_code == 415
    assert httpx.post(url, content=good, headers=headers | {"host": "evil.example"}).status_code == 403
    assert httpx.get(f"{server.url}/models", headers={"host": "evil.example:80"}).status_code == 403
    assert httpx.get(url).status_code == 405 and httpx.get(url).json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{server.url}/nothing").status_code == 404
    assert httpx.get(f"{server.url}/models/other").json()["error"]["code"] == "model_not_found"
    assert httpx.get(f"{server.root}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    assert endpoint.requests == []
    assert httpx.post(url, content=good, headers=headers).status_code == 200


def test_keys_and_documents_stay_out_of_the_log(start: Callable[..., Running], endpoint: Any) -> None:
    """With all logs on, failures of the upstream that repeat prompt and key included."""
    failing = False

    def answer(body: dict[str, Any]) -> Any:
        if failing:
            return {"status": 500, "body": (json.dumps(body) + UPSTREAM_KEY).encode()}
        return reader(body)

    endpoint.answer = answer
    env = {"MY_SERVER_KEY": KEY, "MY_UPSTREAM_KEY": UPSTREAM_KEY}
    options = ("--api-key-env", "MY_SERVER_KEY", "--upstream-key-env", "MY_UPSTREAM_KEY", "--retries", "1")
    server = start(*options, env=env)
    for wrong in ("Bearer wrong", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer", KEY, f"Basic {KEY}", ""):
        headers = {"Authorization": wrong} if wrong else {}
        refused = httpx.post(f"{server.url}/chat/completions", json={"model": "m"}, headers=headers)
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/models", headers=headers).status_code == 401
    with pytest.raises(openai.AuthenticationError):
        client(server, "wrong").models.list()
    api = client(server, KEY)
    assert api.chat.completions.create(model="m", messages=two()).choices[0].message.content == "Annabel-Moonraker"
    api.chat.completions.create(model="m", messages=[{"role": "user", "content": NEEDLE}])
    assert all(headers["Authorization"] == f"Bearer {UPSTREAM_KEY}" for headers in endpoint.headers)
    failing = True
    for messages in (two(), [{"role": "user", "content": NEEDLE}]):
        with pytest.raises(openai.InternalServerError) as raised:
            api.chat.completions.create(model="m", messages=messages)
        assert raised.value.status_code == 503 and UPSTREAM_KEY not in str(raised.value)
        assert "Annabel" not in str(raised.value)
    log = server.logged()
    assert log.count("chat/completions ") == 11 and "status=503" in log and "status_500" in log
    for secret in (KEY, UPSTREAM_KEY, "Annabel", "lighthouse", "keeper", "Moonraker"):
        assert secret not in log, secret


def test_an_upstream_that_is_down_slow_or_busy(start: Callable[..., Running], endpoint: Any) -> None:
    """503, 504 and 429 with Retry-After; a torn stream is an error event, never a short answer."""
    # A short limit only for who is to meet it: a slow machine would meet it elsewhere.
    hurried, server = start("--retries", "1", "--timeout", "1"), start("--retries", "1", "--timeout", "60")
    api = client(server)
    for said, status in [
        ({"status": 500, "body": b"x"}, 503), ({"body": b"no json"}, 503), ({"drop": True}, 503),
        ({"text": "x" * 999, "reset": True}, 503), ({"pause": 30.0, "text": "late"}, 504),
        ({"status": 429, "body": b"x", "headers": {"Retry-After": "0"}}, 429), ({"status": 401, "body": b"x"}, 503),
        ({"status": 422, "body": b"bad top_k"}, 422),
    ]:  # fmt: skip
        endpoint.answer = lambda body, said=said: said
        for messages in ([USER], two()):
            reply = ask(hurried if status == 504 else server, messages=messages)
            assert reply.status_code == status, (said, reply.text)
            assert ("retry-after" in reply.headers) == (status in (429, 503, 504) and said.get("status") != 401)
    # The read begins well and breaks: the stream ends with an error.
    endpoint.answer = lambda body: {"status": 500, "body": b"x"} if "answer" in endpoint.stage(body) else reader(body)
    endpoint.stage = lambda body: "answer" if body["messages"][-1]["content"].startswith("You have read") else ""
    with pytest.raises(openai.APIError, match="cannot be reached or fails"):
        list(api.chat.completions.create(model="m", messages=two(), stream=True))
    endpoint.answer = lambda body: {"text": "a b c", "torn": True}
    with pytest.raises(openai.APIError, match="broke off"):
        list(api.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))
    # An end of line that JSON does not know passes through whole.
    raw = 'data: {"choices": [{"index": 0, "delta": {"content": "a\u2028b"}, "finish_reason": "stop"}]}'
    endpoint.answer = lambda body: {"body": f": hi\r\n\r\n{raw}\n\ndata: [DONE]\n\n".encode()}
    odd = list(api.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))
    assert [piece.choices[0].delta.content for piece in odd] == ["a\u2028b"]
    # An upstream that recovers within the tries is no news.
    tries: list[int] = []
    endpoint.answer = lambda body: {"status": 500, "body": b"x"} if not tries.append(1) and len(tries) % 2 else "fine"
    assert ask(server).json()["choices"][0]["message"]["content"] == "fine"
    stream = api.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in stream) == "fine "


def test_a_client_that_leaves_stops_the_work(server: Running, upstream: Any) -> None:
    """Reading stops at the next call, whole or streamed; a stream that is passed on is broken off upstream."""

    def slowly(body: dict[str, Any]) -> Any:
        time.sleep(0.2)
        return reader(body)

    upstream.answer = slowly
    whole = {"model": "m", "messages": two(LONG * 4)}
    for stream in (False, True):
        before = len(upstream.requests)
        with pytest.raises(httpx.ReadTimeout):
            body = whole | {"stream": stream}
            with httpx.stream("POST", f"{server.url}/chat/completions", json=body, timeout=0.5) as reply:
                if stream:
                    # Read some progress, then leave.
                    next(reply.iter_lines())
                    raise httpx.ReadTimeout("left")
                reply.read()
        assert until(lambda: httpx.get(f"{server.root}/health").json()["running"] == 0)
        time.sleep(0.3)
        made = len(upstream.requests) - before
        time.sleep(0.8)
        assert len(upstream.requests) - before == made <= 6
    assert server.logged().count("status=gone") == 2
    upstream.answer = lambda body: {"text": "word " * 200, "between": 0.05}
    with httpx.stream("POST", f"{server.url}/chat/completions", json=whole | {"messages": [USER], "stream": True}) as r:
        next(r.iter_lines())
    assert until(lambda: upstream.hung_up == 1)


def test_too_many_at_once_get_429(start: Callable[..., Running], endpoint: Any) -> None:
    """Two run, one waits, the fourth is sent away and told when to come back; a waiting client may leave."""
    server = start("--max-concurrent", "2", "--max-waiting", "1")
    release = threading.Event()

    def held(body: dict[str, Any]) -> Any:
        release.wait(120)
        return "done"

    endpoint.answer = held
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask, server) for _ in range(2)]
        assert until(lambda: httpx.get(f"{server.root}/health").json()["running"] == 2)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/chat/completions", json={"model": "m", "messages": [USER]}, timeout=0.3)
        assert until(lambda: httpx.get(f"{server.root}/health").json()["waiting"] == 0)
        waiting = pool.submit(ask, server)
        assert until(lambda: httpx.get(f"{server.root}/health").json()["waiting"] == 1)
        refused = ask(server)
        assert refused.status_code == 429 and refused.headers["retry-after"].isdigit()
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert endpoint.most == 2
        release.set()
        assert [one.result().status_code for one in (*running, waiting)] == [200] * 3
    assert ask(server).status_code == 200


def test_sixty_four_at_once_none_lost(server: Running, upstream: Any) -> None:
    """Half read a document, half pass through, half of each streamed; each gets its own answer."""

    def own(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        if prompt.startswith("Split"):
            return f"<question>{prompt.rpartition('Request:')[2].strip()}</question><format></format>"
        if "\nSection" in prompt:
            found = [word for word in prompt.split() if word.startswith("keeper-")]
            return f"<memory>{' '.join(dict.fromkeys(found))}</memory><plan>on</plan>"
        return " ".join(dict.fromkeys(w for w in prompt.split() if w.startswith("keeper-")))

    upstream.answer = own
    api = client(server, timeout=120)

    def one(number: int) -> str:
        said = f"keeper-{number}"
        messages = two(f"{BOOK}\n\n{said}\n\n{BOOK}", "Who?") if number % 2 else [{"role": "user", "content": said}]
        if number % 4 < 2:
            return api.chat.completions.create(model="m", messages=messages).choices[0].message.content or ""
        pieces = api.chat.completions.create(model="m", messages=messages, stream=True)
        return "".join(piece.choices[0].delta.content or "" for piece in pieces).strip()

    with ThreadPoolExecutor(64) as pool:
        said = list(pool.map(one, range(64)))
    assert said == [f"keeper-{number}" for number in range(64)]


def test_sigterm_lets_running_requests_end(start: Callable[..., Running], endpoint: Any) -> None:
    """The one that runs is answered, nothing new is taken, and the exit is clean; past the grace it is cut off."""
    endpoint.answer = lambda body: {"text": "late", "pause": 1.0}
    server = start()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server)
        assert until(lambda: len(endpoint.requests) == 1)
        server.process.send_signal(signal.SIGTERM)
        assert running.result().json()["choices"][0]["message"]["content"] == "late"
    assert server.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        ask(server)
    endpoint.answer = lambda body: {"text": "late", "pause": 40.0}
    server = start("--grace", "1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server)
        assert until(lambda: len(endpoint.requests) == 2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        reply = running.result()
        assert reply.status_code == 503 and reply.json()["error"]["code"] == "stopping"
    assert server.process.wait(60) == 0 and time.monotonic() - began < 30


def test_a_request_has_a_time_limit(start: Callable[..., Running], endpoint: Any) -> None:
    """Over all its calls together, each of which is well within it; a slow machine has time for one that is quick."""
    endpoint.answer = lambda body: {"text": "late", "pause": 0.0 if body["messages"][-1]["content"] == "hi" else 2.0}
    server = start("--request-timeout", "5")
    assert ask(server, messages=two()).status_code == 504 and len(endpoint.requests) > 1
    assert ask(server).status_code == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "no key guards it"),
        (["--host", "::"], "no key guards it"),
        (["--api-key-env", "QWENLONG_NO_SUCH_KEY"], "no such environment variable"),
        (["--mode", "slow"], "--mode 'slow'"),
        (["--skip"], "set mode: fast"),
        (["--window", "100"], "window"),
        (["--window", "1024", "--chunk-tokens", "5000"], "lower chunk_tokens"),
        (["--tokenizer", "no/such"], "no tokenizer 'no/such'"),
        (["--base-url", "http://"], "is no address"),
        (["--base-url", "ftp://x/v1"], "is no address"),
        (["--window", "0"], "greater than or equal to 64"),
    ],
)
def test_wrong_usage_is_named(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    """Nothing is served; a busy port is named too."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        common = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tokenizer", str(tokenizer.folder)]
        common += ["--port", "0", *([] if "--window" in options else ["--window", "1024"])]
        done = CliRunner().invoke(app, ["serve", *common, *options])
        assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output
        taken = CliRunner().invoke(app, ["serve", *common[:-2], "--port", str(busy.getsockname()[1])])
        assert taken.exit_code == 2 and "cannot listen on" in taken.output


def test_a_model_directory_instead_of_an_endpoint(model: Path, tmp_path: Path) -> None:
    """Direct and read, whole and streamed, without any upstream; several choices; what it cannot do is named."""
    with serving(tmp_path / "local.log", "--model", str(model), *SIZES) as server:
        api = client(server)
        name = api.models.list().data[0].id
        assert name == "noise"
        hi: list[Any] = [{"role": "user", "content": "hi"}]
        first, again = (
            api.chat.completions.create(model=name, messages=hi, max_tokens=12, n=3, seed=5, temperature=1.0)
            for _ in range(2)
        )
        assert [choice.message.content for choice in first.choices] == [c.message.content for c in again.choices]
        assert len({choice.message.content for choice in first.choices}) == 3
        assert first.usage and first.usage.completion_tokens <= 36
        stream = list(api.chat.completions.create(model=name, messages=hi, max_tokens=12, seed=5, stream=True,
                                                  temperature=1.0))  # fmt: skip
        streamed = "".join(piece.choices[0].delta.content or "" for piece in stream)
        assert streamed == first.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="response_format"):
            api.chat.completions.create(model=name, messages=hi, response_format={"type": "json_object"})
        read = api.chat.completions.create(model=name, messages=two(), max_tokens=8)
        about = read.model_extra["qwenlong"]  # type: ignore[index]
        assert about["mode"] == "agent" and about["calls"] == about["chunks"]["total"] + 2
