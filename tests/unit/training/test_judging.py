"""The judge inside training: what a rollout reports, what a step logs, when the run gives up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from omegaconf import OmegaConf

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.training.verl_plugin import judging
from scripted import serving

PAYLOAD = {"task": "doc_multi_hop", "answers": ["Paris"], "question": "Which city?", "answer_prefix": ""}
WRONG = "Therefore, the answer is the city of light."


def row(**values: Any) -> dict[str, Any]:
    return {"truncated": False, "turns": 1, "judged": False, "dropped": False, "judge_requests": 0} | values


def test_a_trajectory_is_counted_once_however_many_turns() -> None:
    asked = row(turns=5, judged=True, dropped=True, judge_requests=4, truncated=True)
    info = [asked] * 5 + [row(), row(judged=True, judge_requests=1)]
    assert judging.outcome_metrics(info, [*"aaaaa", "b", "c"]) == {
        "rollout/truncated_share": 1 / 3,
        "rollout/turns_mean": 7 / 3,
        "judge/calls": 2,
        "judge/failed": 1,
        "judge/requests": 5,
    }
    assert judging.outcome_metrics([], [])["rollout/turns_mean"] == 0


def test_a_judge_that_never_decides_stops_the_run() -> None:
    def step(silence: judging.Silence, calls: int, failed: int) -> None:
        silence.update({"judge/calls": calls, "judge/failed": failed})

    silence = judging.Silence()
    # One verdict starts the count anew; steps without a question are no news.
    for calls, failed in ((4, 4), (4, 4), (4, 3), (4, 4), (0, 0), (4, 4), (0, 0)):
        step(silence, calls, failed)
    with pytest.raises(QwenlongError, match=r"none of the 2 answers .* 3 steps.*llm\.reward_judge"):
        step(silence, 2, 2)
    idle = judging.Silence()
    for _ in range(10):
        step(idle, 0, 0)


def test_workers_share_what_the_endpoint_allows() -> None:
    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", concurrency=32, requests_per_minute=100)
    part = judging.client(endpoint.model_dump(), 8).endpoint
    assert (part.concurrency, part.requests_per_minute, part.tokens_per_minute) == (4, 12, None)
    assert judging.client(endpoint.model_dump(), 64).endpoint.concurrency == 1
    assert judging.client(endpoint.model_dump(), 1).endpoint == endpoint


def test_the_agent_loop_reports_what_became_of_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwenlong.training.verl_plugin import agent_loops

    monkeypatch.setattr(agent_loops, "_CACHE", {})
    with serving() as server:
        endpoint = EndpointConfig(base_url=server.url, model="judge", retries=0, patience_seconds=60.0)
        loop = agent_loops.SingleLoop.__new__(agent_loops.SingleLoop)
        loop.config = OmegaConf.create(
            {
                "data": {"qwenlong": {"judge": endpoint.model_dump()}},
                "actor_rollout_ref": {"rollout": {"agent": {"num_workers": 4}}},
            }
        )

        async def run() -> list[dict[str, Any]]:
            found = []
            for said, response in (
                ("[[YES]]", WRONG),
                ("[[NO]]", WRONG),
                ("[[YES]]", "Therefore, the answer is Paris."),
                ("perhaps", WRONG),
                ({"status": 503}, WRONG),
                ({"status": 401}, WRONG),
                ({"text": "[[YES]]", "pause": 30.0}, WRONG),
                ("[[YES]]", "<think>Paris"),
            ):
                server.answer = lambda body, said=said: said
                # A short patience only with who is slow: a slow machine would try it elsewhere.
                patience = 1.0 if "pause" in said else 60.0
                judge = loop._judge()
                judge.endpoint = judge.endpoint.model_copy(update={"patience_seconds": patience})
                found.append(await loop._reward(PAYLOAD, response))
            await loop._judge().close()
            return found

        found = asyncio.run(run())
        concurrency = json.loads(loop._judge().endpoint.model_dump_json())["concurrency"]
    assert concurrency == 8
    names = ("reward", "dropped", "judged", "judge_requests")
    assert [tuple(one[name] for name in names) for one in found] == [
        (1.0, False, True, 1),
        (0.0, False, True, 1),
        (1.0, False, False, 0),
        (0.0, True, True, 2),
        (0.0, True, True, 1),
        (0.0, True, True, 1),
        (0.0, True, True, 1),
        (0.0, False, False, 0),
    ]
