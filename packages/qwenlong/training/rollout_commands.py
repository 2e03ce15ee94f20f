"""`qwenlong train rollouts`: what a stage rolled out, on a terminal or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlong.training.selection_commands import app

if TYPE_CHECKING:
    from qwenlong.training.rollout_log import Record

#: Characters of a response on a terminal; --full shows all.
WIDTH = 1200


@app.command()
def rollouts(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A policy's folder, or a stage's state folder.")],
    step: Annotated[int | None, typer.Option(min=1, help="Only this step.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only rollouts with a reward below 0.5.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Model calls shown at most.")] = 10,
    full: Annotated[bool, typer.Option("--full", help="Whole responses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: every call, texts or not.")] = False,
) -> None:
    """Show rollouts of a stage: reward, advantage, entropy, and the responses that were kept."""
    import json
    from itertools import islice

    from qwenlong.core.console import reported
    from qwenlong.core.errors import DataError, UsageError
    from qwenlong.core.records import TASKS
    from qwenlong.training import rollout_log

    with reported():
        if task is not None and task not in TASKS:
            raise UsageError(f"--task = {task!r} is unknown; name one of {', '.join(TASKS)}")
        found = rollout_log.read(folder, step=step, task=task, wrong=wrong, texts=not as_json)
        shown = 0
        for record in islice(found, limit):
            typer.echo(json.dumps(asdict(record), sort_keys=True) if as_json else _text(record, full))
            shown += 1
        if not shown:
            asked = [f"step {step}" if step else "", task or "", "wrong" if wrong else ""]
            kind = "rollout" if as_json else "rollout with a text"
            raise DataError(
                f"{folder}: no {kind} for {', '.join(filter(None, asked)) or 'any step'}; ask for less"
                + ("" if as_json else ", or for --json: texts are kept of training.log_rollout_groups prompts a step")
            )


def _text(record: Record, full: bool) -> str:
    from qwenlong.synthesis.show import safe
    from qwenlong.training.rollout_log import cut

    marks = [
        name
        for name, holds in (
            ("cut off", record.truncated),
            ("dropped", record.dropped),
            ("judged", record.judged),
            ("masked", record.masked),
        )
        if holds
    ]
    advantage = "none" if record.advantage is None else f"{record.advantage:+.3f}"
    text = record.text or ""
    head = (
        f"step {record.step}  {record.task}  {record.sample}  rollout {record.rollout} turn {record.turn}\n"
        f"reward {record.reward:.3f}  advantage {advantage}  entropy {record.entropy:.3f}  "
        f"{record.n_prompt_tokens:,} + {record.n_response_tokens:,} tokens"
        + (f"  [{', '.join(marks)}]" if marks else "")
    )
    return f"{safe(head)}\n{safe(text if full else cut(text, WIDTH))}\n{'-' * 72}"
