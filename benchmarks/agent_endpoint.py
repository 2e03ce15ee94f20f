"""A scripted OpenAI-compatible endpoint with the costs of a model server: slots, shared rates, a prefix cache.

    python benchmarks/agent_endpoint.py --tokenizer models/nano [--port 0]     # prints its address

What it charges for a request, and really sleeps:

- prefill: prompt tokens / `prefill_rate`; tokens found in the prefix cache cost `hit_cost` of that;
- decode: reply tokens / `decode_rate`, one request alone at most `request_rate` tokens a second.

Both are work of one machine: running requests (at most `slots`, the rest wait in order) share its time equally, up to
what each can use. The prefix cache holds whole blocks of `block` tokens, found by their content and all that stands
before them, least recently used out first, `cache_tokens` in all; a prompt's blocks are there from the moment its
prefill starts, as in vLLM. With `ngram` a reply costs the steps that n-gram speculative decoding needs for it: a step
looks its last three tokens up in what was read and written, proposes the `PROPOSED` that followed, keeps those that
are right and writes one more; a step that proposes costs `1 + PROPOSAL_COST`.

The model's name picks the reader (`agent_readers`) that writes the replies. `POST /settings` replaces settings and
clears cache and counts, `GET /stats` returns the counts. Only loopback is bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import selectors
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import agent_readers
from aiohttp import web

from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.loop import Turn

#: N-gram decoding: tokens looked up, tokens proposed, and what checking a proposal adds to a step.
LOOKED_UP, PROPOSED, PROPOSAL_COST = 3, 5, 0.1
#: What is counted since the last settings; busy_seconds are the machine's, the same in every run.
STATS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "busy_seconds")


@dataclass(frozen=True)
class Settings:
    """Costs of the server; rates in tokens a second."""

    slots: int = 8
    prefill_rate: float = 125_000.0
    decode_rate: float = 5_000.0
    request_rate: float = 1_000.0
    block: int = 16
    cache_tokens: int = 175_000
    hit_cost: float = 0.1
    ngram: bool = False
    seed: int = 17


class PrefixCache:
    """Blocks of prompts by content and prefix, least recently used out first."""

    def __init__(self, block: int, tokens: int) -> None:
        self._block, self._room = block, tokens // block
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, ids: Sequence[int]) -> int:
        """Return how many leading tokens of a prompt are there, and put all of its blocks in."""
        hit, before, missing = 0, 0, False
        keys = []
        for start in range(0, len(ids) - self._block + 1, self._block):
            before = hash((before, *ids[start : start + self._block]))
            missing = missing or before not in self._blocks
            hit += 0 if missing else self._block
            keys.append(before)
        # The end of a prompt goes first: a block is of no use without those before it.
        for key in reversed(keys):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._room:
            self._blocks.popitem(last=False)
        # A server computes at least the last token, for its logits.
        return min(hit, len(ids) - 1)


def decode_steps(prompt: Sequence[int], reply: Sequence[int]) -> float:
    """Return the cost in plain steps of writing `reply` with n-gram speculative decoding."""
    ids = list(prompt)
    latest = {tuple(ids[i : i + LOOKED_UP]): i + LOOKED_UP for i in range(len(ids) - LOOKED_UP)}
    cost, at = 0.0, 0
    while at < len(reply):
        start = latest.get(tuple(ids[-LOOKED_UP:]))
        right = 0
        if start is not None:
            proposal = ids[start : start + PROPOSED]
            while right < min(len(proposal), len(reply) - at - 1) and proposal[right] == reply[at + right]:
                right += 1
        cost += 1.0 if start is None else 1.0 + PROPOSAL_COST
        for token in reply[at : at + right + 1]:
            # The n-gram that ends before this token is now followed by it.
            latest[tuple(ids[-LOOKED_UP:])] = len(ids)
            ids.append(token)
        at += right + 1
    return cost


@dataclass
class _Job:
    #: Phases left as (seconds of the machine, largest share of it), the current one last.
    phases: list[tuple[float, float]]
    done: asyncio.Future[None]


class Machine:
    """One machine whose time running jobs share equally, each up to its phase's largest share; `slots` bounds them."""

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self._jobs: list[_Job] = []
        self._at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def work(self, phases: Sequence[tuple[float, float]]) -> None:
        """Wait until phases of (seconds of the machine, largest share of it) are done; the caller holds a slot."""
        self._advance()
        job = _Job([p for p in reversed(phases) if p[0] > 0], asyncio.get_running_loop().create_future())
        if job.phases:
            self._jobs.append(job)
            self._schedule()
            await job.done

    def _shares(self) -> list[float]:
        shares, left = [0.0] * len(self._jobs), 1.0
        order = sorted(range(len(self._jobs)), key=lambda n: self._jobs[n].phases[-1][1])
        for rank, n in enumerate(order):
            shares[n] = min(self._jobs[n].phases[-1][1], left / (len(order) - rank))
            left -= shares[n]
        return shares

    def _advance(self) -> None:
        """Bring all jobs to now; whatever ends on the way changes the shares from that moment on."""
        now = asyncio.get_running_loop().time()
        while self._jobs and self._at < now:
            shares = self._shares()
            ends = min(job.phases[-1][0] / share for job, share in zip(self._jobs, shares, strict=True))
            step = min(ends, now - self._at)
            self._at += step
            for job, share in zip(self._jobs, shares, strict=True):
                work, most = job.phases.pop()
                if work - step * share > 1e-9:
                    job.phases.append((work - step * share, most))
                elif not job.phases and not job.done.done():
                    job.done.set_result(None)
            self._jobs = [job for job in self._jobs if job.phases]
        self._at = now

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._jobs:
            ends = min(job.phases[-1][0] / share for job, share in zip(self._jobs, self._shares(), strict=True))
            self._timer = asyncio.get_running_loop().call_later(ends, self._tick)

    def _tick(self) -> None:
        self._advance()
        self._schedule()


class Endpoint:
    """The server's state; `application()` serves it."""

    def __init__(self, tokenizer: Tokenizer, settings: Settings) -> None:
        self._tokenizer = tokenizer
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take settings, with an empty cache and zero counts."""
        self.settings = settings
        self._cache = PrefixCache(settings.block, settings.cache_tokens)
        self._machine = Machine(settings.slots)
        self.stats = {
            "requests": 0,
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "completion_tokens": 0,
            "busy_seconds": 0.0,
        }

    async def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the completion of a request after the time that it takes. Raises KeyError for an unknown model."""
        settings, machine = self.settings, self._machine
        reader = agent_readers.READERS[request["model"]]
        prompt = self._tokenizer.encode(self._tokenizer.render_chat(request["messages"]))
        limit = int(request.get("max_tokens") or 2**31)
        said = agent_readers.reply(request["messages"][-1]["content"], limit, reader, settings.seed)
        reply = self._tokenizer.encode(said)
        finish = "length" if len(reply) > limit else "stop"
        if finish == "length":
            reply = reply[:limit]
            said = self._tokenizer.decode(reply)
        decode = (decode_steps(prompt, reply) if settings.ngram else len(reply)) / settings.decode_rate
        async with machine.slots:
            cached = self._cache.take(prompt)
            prefill = (len(prompt) - cached + settings.hit_cost * cached) / settings.prefill_rate
            await machine.work([(prefill, 1.0), (decode, min(1.0, settings.request_rate / settings.decode_rate))])
        counts = (1, len(prompt), cached, len(reply), prefill + decode)
        for name, count in zip(self.stats, counts, strict=True):
            self.stats[name] += count
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(reply),
            "total_tokens": len(prompt) + len(reply),
        }
        return {
            "object": "chat.completion",
            "model": request["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": finish}],
            "usage": usage
            | {"total_tokens": len(prompt) + len(reply), "prompt_tokens_details": {"cached_tokens": cached}},
        }

    def application(self) -> web.Application:
        """Return the HTTP application."""

        async def chat(http: web.Request) -> web.Response:
            try:
                return web.json_response(await self.complete(await http.json()))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                message = f"{type(error).__name__}: {error}; models are {', '.join(agent_readers.READERS)}"
                return web.json_response({"error": {"message": message}}, status=400)

        async def configure(http: web.Request) -> web.Response:
            self.configure(replace(self.settings, **await http.json()))
            return web.json_response(asdict(self.settings))

        async def stats(_: web.Request) -> web.Response:
            return web.json_response(self.stats)

        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_post("/v1/chat/completions", chat)
        application.router.add_post("/settings", configure)
        application.router.add_get("/stats", stats)
        return application


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where all that runs in it sleeps: seconds that no other process changes.

    `asyncio.run(…, loop_factory=Clock)`; nothing in it may wait for anything outside.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Idle(self))

    def time(self) -> float:
        """Return the seconds slept so far."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _Idle(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for something outside of the loop")
        self._clock.sleep(max(0.0, timeout))
        return super().select(0)


class Inside:
    """The endpoint in this process, as a backend of the agent."""

    window = None

    def __init__(self, endpoint: Endpoint, reader: str, tokenizer: Tokenizer) -> None:
        self.endpoint, self.name, self.tokenizer = endpoint, reader, tokenizer

    async def complete(self, messages: list[dict[str, str]], *, max_tokens: int, **_: object) -> Turn:
        """Return the reader's turn."""
        request = {"model": self.name, "messages": messages, "max_tokens": max_tokens}
        made = await self.endpoint.complete(request)
        choice, usage = made["choices"][0], made["usage"]
        tokens = {"n_prompt_tokens": usage["prompt_tokens"], "n_response_tokens": usage["completion_tokens"]}
        return Turn(choice["message"]["content"], choice["finish_reason"], **tokens)

    async def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def running(tokenizer: Path) -> Iterator[str]:
    """Run the endpoint in a process of its own; yields its address without /v1."""
    command = [sys.executable, str(Path(__file__)), "--tokenizer", str(tokenizer)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the endpoint did not start; run benchmarks/agent_endpoint.py by hand")
        yield json.loads(line)["address"]
    finally:
        process.terminate()
        process.wait()


async def _serve(endpoint: Endpoint, port: int) -> None:
    runner = web.AppRunner(endpoint.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, bound = runner.addresses[0][:2]
    print(json.dumps({"address": f"http://{host}:{bound}"}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=Path("models/nano"))
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Endpoint(Tokenizer(arguments.tokenizer), Settings()), arguments.port))


if __name__ == "__main__":
    main()
