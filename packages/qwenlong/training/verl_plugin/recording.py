"""From verl's batch to the records of `training.rollout_log`."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transfer_queue as tq

from qwenlong.core import tracking
from qwenlong.core.logs import redact_text
from qwenlong.core.tokens import Tokenizer
from qwenlong.training import rollout_log
from qwenlong.training.batch import Plan, Rows, row_entropies
from qwenlong.training.rollout_log import Record


class StageLog:
    """A logger of verl that logs to the stage's MLflow run. Tracking that fails is said and stops nothing."""

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log a step's metrics, under names that MLflow takes."""
        try:
            tracking.log_metrics(metric_values(data), step)
        except Exception as error:
            print(f"metrics of step {step} are not in MLflow ({redact_text(str(error))[:200]})", file=sys.stderr)


def metric_values(data: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among `data` by names of the characters that MLflow allows.

    >>> metric_values({"val/acc@4": 1, "a//b": 2.0, "text": "x", "p(99%)": 3})
    {'val/acc_at_4': 1.0, 'a/b': 2.0, 'p_99__': 3.0}
    """
    numbers = {}
    for name, value in data.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        numbers[re.sub(r"[^/\w.\- :]", "_", re.sub(r"/+", "/", name.replace("@", "_at_")))] = number
    return numbers


class Recorder:
    """Writes what was rolled out, a file a step, below a stage's state folder."""

    def __init__(self, folder: Path, groups: int, tokenizer: str) -> None:
        self.folder, self.groups = folder, groups
        self._tokenizer = tokenizer
        self._tokens: Tokenizer | None = None

    def record(
        self, step: int, batch: Any, rows: Rows, result: Plan, fields: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Write the records of a step and return what to log. `fields`: the rows' `extra_fields`, in their order.

        Of the responses only those whose tokens are kept are fetched: digests come from where they were generated.
        """
        live = [index for index, padding in enumerate(rows.padding) if not padding]
        rewards: dict[str, set[float]] = defaultdict(set)
        for index in live:
            rewards[rows.group[index]].add(float(rows.rewards[index]))
        tasks = {rows.group[index]: rows.task[index] for index in live}
        chosen = set(
            rollout_log.shown_groups({g: (t, len(rewards[g]) > 1) for g, t in tasks.items()}, self.groups, step)
        )
        kept = self._responses(batch, [index for index in live if rows.group[index] in chosen])
        entropies = row_entropies(rows)
        records = []
        for index in live:
            info, call = fields[index]["reward_extra_info"], fields[index]["call"]
            tag = batch.tags[index]
            advantage = float(result.advantages[index])
            ids = kept.get(index)
            n_tokens = int(tag["response_len"])
            removed = int(result.masked_tokens[index])
            records.append(
                Record(
                    step=step,
                    uid=rows.group[index],
                    sample=call["sample"],
                    task=rows.task[index],
                    rollout=int(rows.trajectory[index].rsplit("_", 1)[1]),
                    turn=rows.turn[index],
                    n_prompt_tokens=int(tag["prompt_len"]),
                    n_response_tokens=n_tokens,
                    truncated=call["truncated"],
                    reward=float(rows.rewards[index]),
                    dropped=bool(rows.dropped[index]),
                    judged=bool(info["judged"]),
                    advantage=advantage if advantage == advantage else None,
                    entropy=float(entropies[index]),
                    masked=n_tokens > 0 and removed == n_tokens,
                    masked_tokens=removed,
                    sha256=call["sha256"],
                    token_ids=ids,
                    text=None if ids is None else self._decode(ids),
                )
            )
        before = rollout_log.read_digests(rollout_log.path_of(self.folder, step))
        rollout_log.write_step(self.folder, step, records)
        if not before:
            return {}
        # An interrupted run comes by here again: on CPUs it must draw the same tokens.
        same = sum(before.get((r.uid, r.rollout, r.turn)) == r.sha256 for r in records)
        return {"rollout/repeated_alike": same / len(records)}

    def _responses(self, batch: Any, chosen: Sequence[int]) -> dict[int, list[int]]:
        if not chosen:
            return {}
        keys = [batch.keys[index] for index in chosen]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["responses"])
        return {index: row.tolist() for index, row in zip(chosen, data["responses"].unbind(), strict=True)}

    def _decode(self, ids: Sequence[int]) -> str:
        self._tokens = self._tokens or Tokenizer(self._tokenizer)
        return self._tokens.decode(ids)

    def publish(self, step: int) -> None:
        """Store a step's texts with the stage's MLflow run. Tracking that fails is said and stops nothing."""
        try:
            columns = rollout_log.table(rollout_log.read(rollout_log.path_of(self.folder, step)))
            if columns:
                tracking.log_table(columns, f"{rollout_log.FOLDER}/step_{step:06d}.json")
        except Exception as error:
            print(f"rollouts of step {step} are not in MLflow ({redact_text(str(error))[:200]})", file=sys.stderr)
