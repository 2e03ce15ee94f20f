"""`qwenlong score`: reward JSON lines by rule, and by judge where the rule fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from qwenlong.core.config import EndpointConfig
    from qwenlong.rewards.service import Reward


def score(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="lines with task, response, answers, question, …")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.jsonl", help="one line a response: value, rule, judge, dropped")
    ],
    rule: Annotated[str, typer.Option(help="task whose rule is used; auto: each line's own task")] = "auto",
    judge: Annotated[str, typer.Option(help="none, or a configuration file whose llm.reward_judge is asked")] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
) -> None:
    """Score responses: the rule first, the judge where the rule gives 0."""
    summary = score_file(source, target, rule, judge)
    if as_json:
        typer.echo(json.dumps(summary, sort_keys=True))
        return
    mean = "none" if summary["mean"] is None else f"{summary['mean']:.4f}"
    typer.echo(f"{summary['scored']} scored, {summary['dropped']} dropped, mean reward {mean} -> {target}")


def score_file(source: Path, target: Path, rule: str, judge: str) -> dict[str, Any]:
    """Score a file of JSON lines and return the counts. Raises DataError naming file, line and field."""
    import asyncio

    from qwenlong.core.files import write_jsonl
    from qwenlong.core.records import TASKS

    if rule not in ("auto", *TASKS):
        raise UsageError(f"--rule {rule!r} is no task; use auto or one of {', '.join(TASKS)}")
    rows = _read(source, rule)
    endpoint = _endpoint(judge)
    # What the judge was paid for outlives a kill: the same command finds it there.
    replies = target.with_name(f"{target.name}.replies") if endpoint is not None else None
    if replies is not None:
        from qwenlong.core import ownership

        ownership.lock(replies / ".lock", "`score`", target)
    rewards = asyncio.run(_score_rows(rows, endpoint, replies))
    write_jsonl(target, [_line(row, reward) for row, reward in zip(rows, rewards, strict=True)])
    values = [reward.value for reward in rewards if not reward.dropped]
    return {
        "scored": len(values),
        "dropped": len(rewards) - len(values),
        "judged": sum(reward.judge is not None for reward in rewards),
        "mean": sum(values) / len(values) if values else None,
        "output": str(target),
    }


def _endpoint(judge: str) -> EndpointConfig | None:
    if judge == "none":
        return None
    from qwenlong.core.config_files import load

    endpoint = load(judge).llm.reward_judge
    if endpoint is None:
        raise UsageError(f"{judge}: llm.reward_judge = null; name an endpoint there, or use --judge none")
    return endpoint


def _read(source: Path, rule: str) -> list[dict[str, Any]]:
    from qwenlong.core.records import TASKS

    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{source} does not exist; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 (byte {error.start}); convert it first") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON ({error.msg}); mend the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} holds {type(row).__name__}, not an object; mend the line")
        if rule != "auto":
            row["task"] = rule
        if row.get("task") not in TASKS:
            raise DataError(f"{where}: task = {row.get('task')!r}; use one of {', '.join(TASKS)}, or --rule")
        if not isinstance(row.get("response"), str):
            raise DataError(f"{where}: response = {row.get('response')!r} is not text; add it")
        answers = row.get("answers")
        if not isinstance(answers, list) or not answers or not all(isinstance(gold, str) for gold in answers):
            raise DataError(f"{where}: answers = {answers!r} is not a list of texts; add the gold answers")
        rows.append(row)
    return rows


async def _score_rows(
    rows: list[dict[str, Any]], endpoint: EndpointConfig | None, replies: Path | None = None
) -> list[Reward]:
    import asyncio

    from qwenlong.rewards.service import reward

    client = None
    if endpoint is not None:
        from qwenlong.core.llm import Client

        client = Client(endpoint, replies)

    async def one(row: dict[str, Any]) -> Reward:
        return await reward(
            row["task"],
            row["response"],
            row["answers"],
            question=str(row.get("question", "")),
            judge=client,
            answer_prefix=str(row.get("answer_prefix", "")),
        )

    try:
        return list(await asyncio.gather(*map(one, rows)))
    finally:
        if client is not None:
            await client.close()


def _line(row: dict[str, Any], reward: Reward) -> dict[str, Any]:
    value = None if reward.dropped else reward.value  # JSON has no NaN
    result = {
        "value": value,
        "rule": reward.rule,
        "judge": reward.judge,
        "dropped": reward.dropped,
        "reason": reward.reason,
    }
    return ({"id": row["id"]} if "id" in row else {}) | {"task": row["task"]} | result
