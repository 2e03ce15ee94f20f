"""Questions in a model's words: what it may change, what keeps the rules' wording, and nothing is asked twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_walks import settings_of
from town_documents import towns

from qwenlong.core import templates
from qwenlong.core.config import Config
from qwenlong.core.llm import Outcome
from qwenlong.core.records import Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.decontaminate import Seen
from qwenlong.synthesis.rewrite import _placed, fault, rewrite
from qwenlong.synthesis.run import Result, synthesize


@pytest.fixture(scope="module")
def result(tokenizer: Tokenizer) -> Result:
    documents, edges = towns(12)
    few = {"samples_per_task": 6, "heldout_per_task": 3, "memory_samples_per_task": 1}
    return synthesize(settings_of(**few), documents, tokenizer, edges=edges)


def sample(question: str, answer: str) -> Sample:
    return Sample(
        id="x", task="doc_multi_hop", question_type="multi-fact", question=question, instruction="", documents=("a",),
        answers=(answer,), category="general", source="s", generator="walks@1", template="walk_bfs@1", n_tokens=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Which structure did the person born in Tarn design in 1187?", ""),
        ("Which structure did the person born there design in 1187?", "lost_names"),
        ("Which structure did the person born in Tarn design?", "lost_names"),
        ("Which structure did Ada, born in Tarn, design in 1187?", "added_names"),
        ("Which structure, the Arlow Bridge, did the person born in Tarn design in 1187?", "added_names"),
        ("The one born in Tarn designed it in 1187.", "no_question"),
        ("Which structure did the person born in Tarn design in 1187" + " of all" * 20 + "?", "no_question"),
        ("Is salt what the person born in Tarn sold in 1187?", "holds_answer"),
    ],
)
def test_a_rewritten_question_keeps_what_the_question_names(text: str, kind: str) -> None:
    original = "Who or what was designed in 1187 by the one that was born in Tarn?"
    assert fault(sample(original, "salt" if kind == "holds_answer" else "Arlow Bridge"), text) == kind


def test_letters_of_steps_may_go_and_initials_may_not() -> None:
    original = "Let A be the one that was born in Tarn. Who or what did A sell to someone with the initials B. Q.?"
    kept = "What did the person born in Tarn sell to somebody called B. Q.?"
    assert fault(sample(original, "salt"), kept) == ""
    assert fault(sample(original, "salt"), kept.replace("B. Q.", "B. R.")) == "lost_names"
    assert fault(sample(original, "salt"), kept.replace(" to", " with C. D. to")) == "added_names"


def configured(endpoint: Any, **values: object) -> Config:
    one = {"base_url": endpoint.url, "model": "m", "retries": 0, "concurrency": 2} | values
    return settings_of(graph={"rewriter": one})


def asked_for(body: dict[str, Any]) -> str:
    """Return the question that a request shows."""
    lines = body["messages"][0]["content"].split("\n")
    return lines[2] if lines[1].startswith("#") and lines[3] == lines[1] else ""


def test_without_an_endpoint_nothing_changes(result: Result, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert rewrite(settings_of(), result, tokenizer, tmp_path) is result and list(tmp_path.iterdir()) == []


def test_questions_change_and_all_else_is_proved_again(
    endpoint: Any, result: Result, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    endpoint.answer = lambda body: json.dumps(
        {"question": "Do tell: " + asked_for(body)[0].lower() + asked_for(body)[1:]}
    )
    made = rewrite(configured(endpoint), result, tokenizer, tmp_path)
    number = len(result.samples) + len(result.heldout) + len(result.memory)
    counts = made.funnel["rewritten"]
    assert (
        counts["asked"] == number == len(endpoint.requests)
        and counts["rewritten"] + counts.get("too_long", 0) == number
    )
    assert counts["rewritten"] >= number / 2
    documents = {d.id: d for d in result.documents}
    for before, after in zip(result.samples, made.samples, strict=True):
        if "rewritten" not in after.checks:
            assert after == before
            continue
        assert after.question.startswith("Do tell: ") and after.id != before.id
        assert after.n_tokens == tokenizer.count_chat(templates.messages(after, documents, tokenizer))
        assert after.n_tokens <= after.checks["length_target"] and after.answers == before.answers
    report = check({"samples": made.samples, "heldout": made.heldout, "memory": made.memory}, documents, tokenizer)
    assert report.faults == []
    endpoint.requests.clear()
    again = rewrite(configured(endpoint), result, tokenizer, tmp_path)
    assert again.samples == made.samples and endpoint.requests == []
    usage = json.loads((tmp_path / "rewrite" / "usage.json").read_text())
    assert usage["this_run"]["rewriter"]["replies"] == 0 and usage["all_runs"]["rewriter"]["replies"] == number


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"status": 503}, "unavailable"),
        ("as you wish", "malformed"),
        ('{"question": ["?"]}', "invalid"),
        ('{"question": "What is it that nobody ever asked for?"}', "lost_names"),
        ({"text": '{"question": "x"}', "finish": "length"}, "truncated"),
    ],
)
def test_what_goes_wrong_keeps_the_wording_and_is_counted(
    endpoint: Any, result: Result, tokenizer: Tokenizer, tmp_path: Path, said: Any, kind: str
) -> None:
    endpoint.answer = lambda body: said
    made = rewrite(configured(endpoint), result, tokenizer, tmp_path)
    assert (made.samples, made.heldout, made.memory) == (result.samples, result.heldout, result.memory)
    counts = Counter(made.funnel["rewritten"])
    lost = counts["asked"] - counts["not_asked"]
    assert counts[kind] == lost > 0 and counts["rewritten"] == 0


def test_a_wording_that_another_sample_has_is_not_taken(result: Result, tokenizer: Tokenizer) -> None:
    documents = {d.id: d for d in result.documents}
    one, other, held = result.samples[0], result.samples[1], result.heldout[0]
    seen = {"train": Seen(), "heldout": Seen()}
    seen["train"].add(other.question)
    seen["heldout"].add(held.question)
    for text, kind in ((other.question, "repeated"), (held.question, "repeated"), ("What is new?", "rewritten")):
        counts: Counter[str] = Counter()
        made = _placed(one, Outcome(value=text), documents, tokenizer, seen, "train", "samples", counts)
        assert counts == {"asked": 1, kind: 1} and (made is one) == (kind == "repeated")
