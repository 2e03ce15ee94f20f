"""How alike right and wrong rollouts of one prompt are: ROUGE-L between the two (the measure of the paper's Table 3).

Where they share most of their words, a negative gradient on the wrong one pushes down what the right one says as well.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rapidfuzz.distance import LCSseq

from qwenlong.core.seeds import rng
from qwenlong.training.rollout_log import RIGHT, Record

#: Pairs that are compared a task; more are drawn from.
MAX_PAIRS = 100
#: Name of the file beside a policy.
FILE = "similarity.json"
#: Prompt, right rollout, wrong rollout.
_Pair = tuple[str, int, int]
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Return the words of a text as ROUGE counts them: lower case, runs of letters and digits."""
    return _WORD.findall(text.lower())


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """Return ROUGE-L's F1 of two lists of words, 2·LCS / (n + m), in [0, 1]; 0 where one of them is empty.

    Bit-parallel: two responses of 50,000 words take half a second.
    """
    if not one or not other:
        return 0.0
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other))


def measure(read: Callable[[], Iterable[Record]], seed: int, max_pairs: int = MAX_PAIRS) -> dict[str, Any]:
    """Return ROUGE-L of right against wrong rollouts of the same prompt and step, by task and for all.

    `read` gives the records, the same each time, those of one uid together; it is called twice, so that only one
    prompt's texts are held. Records without a text and dropped ones are passed over; all turns of a rollout are one
    text. Of each task at most `max_pairs` pairs, chosen by `seed`. Returns {"tasks": {task: entry}, "all": entry}; an
    entry has `rouge_l` (mean of its pairs, in [0, 1]), `pairs`, `pairs_there`, `prompts` and `prompt_tokens` (mean over
    pairs). Tasks without a pair are left out; "all" weighs pairs alike and is none without any.
    """
    there: dict[str, list[_Pair]] = defaultdict(list)
    for uid, records in _groups(read()):
        rewards = {r.rollout: r.reward for r in records}
        right, wrong = (sorted(n for n, r in rewards.items() if (r >= RIGHT) is side) for side in (True, False))
        there[records[0].task] += [(uid, one, other) for one in right for other in wrong]
    chosen: dict[str, list[_Pair]] = defaultdict(list)
    for task, pairs in sorted(there.items()):
        pairs.sort()
        for pair in pairs if len(pairs) <= max_pairs else rng(seed, "similarity", task).sample(pairs, max_pairs):
            chosen[pair[0]].append(pair)

    found: dict[str, list[tuple[str, float, int]]] = defaultdict(list)
    for uid, records in _groups(read()):
        texts: dict[int, list[str]] = defaultdict(list)
        length = max(r.n_prompt_tokens for r in records)
        for record in sorted(records, key=lambda r: (r.rollout, r.turn)):
            texts[record.rollout] += words(record.text or "")
        for _, one, other in sorted(chosen.get(uid, [])):
            found[records[0].task].append((uid, rouge_l(texts[one], texts[other]), length))
    entries = {task: _entry(values, len(there[task])) for task, values in sorted(found.items())}
    everything = [value for _, values in sorted(found.items()) for value in values]
    whole = _entry(everything, sum(map(len, there.values()))) if everything else None
    return {"tasks": entries, "all": whole}


def _groups(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Yield the records of each prompt of a step that have a text and a reward."""
    usable = (record for record in records if record.text is not None and not record.dropped)
    for uid, members in itertools.groupby(usable, key=lambda record: record.uid):
        yield uid, list(members)


def _entry(values: Sequence[tuple[str, float, int]], there: int) -> dict[str, float | int]:
    return {
        "rouge_l": sum(value for _, value, _ in values) / len(values),
        "pairs": len(values),
        "pairs_there": there,
        "prompts": len({uid for uid, _, _ in values}),
        "prompt_tokens": sum(length for _, _, length in values) / len(values),
    }


def metrics(measured: dict[str, Any]) -> dict[str, float]:
    """Return what to log of a stage: the mean and the number of pairs, by task and for all."""
    entries = measured["tasks"] | ({"all": measured["all"]} if measured["all"] else {})
    return {
        f"rouge_l/{name}/{key}": float(entry[value])
        for name, entry in sorted(entries.items())
        for key, value in (("mean", "rouge_l"), ("pairs", "pairs"))
    }
