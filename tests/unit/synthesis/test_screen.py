"""Screening: 20 samples that need no document are caught, clean ones stay; outages lose and repeat nothing."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qwenlong.core import templates
from qwenlong.core.config import Config, ScreenConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import read_json, read_parquet, write_parquet
from qwenlong.core.records import Document, Evidence, Sample, Task
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import blind
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.output import SETS
from qwenlong.synthesis.run import Result, synthesize
from qwenlong.synthesis.screen import STEPS, widened

FACTS = {
    "What is the capital of France?": "Paris",
    "Which planet is the largest of the solar system?": "Jupiter",
    "Who wrote the play Hamlet?": "William Shakespeare",
    "What is the chemical symbol of gold?": "Au",
    "How many days has a leap year?": "366",
    "Which ocean is the deepest?": "Pacific",
    "What gas do plants take up for photosynthesis?": "carbon dioxide",
}


def planted(home: Document, number: int, question: str, answer: str, template: str, **values: Any) -> Sample:
    task: Task = "multiple_choice" if values.get("choices") else "reading_comprehension"
    return Sample(
        id=f"planted-{number:02d}", task=task, question_type="planted", question=question, instruction="Answer.",
        documents=(home.id,), evidence=(Evidence(document=home.id, start=0, end=20),), answers=(answer,),
        category=home.category, source=home.source, generator="test", template=template, n_tokens=100, **values,
    )  # fmt: skip


def plant(home: Document) -> list[Sample]:
    """Seven general facts, seven that give themselves away, six whose first option is always right."""
    facts = [planted(home, n, q, a, "planted_fact@1") for n, (q, a) in enumerate(FACTS.items())]
    leaks = [
        ("The keeper of the lighthouse of Sark is called Ada Moreau. Who keeps that lighthouse?", "Ada Moreau"),
        ("Given that the bridge at Linz has a length of 388 metres, how long is it?", "388"),
        ("In the year in which the Paris exhibition showed its tower, which city showed a tower?", "Paris"),
        ("What do you get when you add 412 and 39?", "451"),
        ("A shop sells 35 pears and 17 plums. How many fruits are sold together?", "52"),
        ("A field of 120 by 30 metres has how many square metres?", "3600"),
        ("Which colour does the red door of the old mill have?", "red"),
    ]
    given = [planted(home, 7 + n, q, a, "planted_leak@1") for n, (q, a) in enumerate(leaks)]
    first = [
        planted(home, 14 + n, f"Which stone lies in box {n}?", "A", "planted_first@1",
                choices=(f"opal {n}", f"ruby {n}", f"jade {n}", f"onyx {n}"))
        for n in range(6)
    ]  # fmt: skip
    return [*facts, *given, *first]


def knowing(body: dict[str, Any]) -> str:
    """A model that knows the facts, reads what it is shown, and guesses a letter where it is shown nothing."""
    text = body["messages"][0]["content"]
    question = re.search(r"^Question: (.*)$", text, re.MULTILINE)
    answer = FACTS.get(question[1], "") if question else ""
    if not answer:
        draw = random.Random(f"{body['seed']}{text[-200:]}")
        # It finds what it is asked for in documents half the time, and names a letter by chance without.
        reads = "[1]" in text and draw.random() < 0.5
        answer = gold(text) if reads else draw.choice("ABCD")
    return f"<think>\nLet me see.\n</think>\nTherefore, the answer is {answer}."


#: Question with options to answer of the clean samples: filled by the fixture.
GOLD: dict[str, str] = {}


def gold(text: str) -> str:
    """The answer of the question in a prompt; a question without options may open one with them."""
    return GOLD[max((key for key in GOLD if key in text), key=len, default="")]


@pytest.fixture(scope="module")
def clean(config: Config, corpus: list[Document], tokenizer: Tokenizer) -> Result:
    synthesis = config.synthesis.model_copy(
        update={"samples_per_task": 24, "screen": ScreenConfig(rules=True), "heldout_per_task": 2}
    )
    made = synthesize(config.model_copy(update={"synthesis": synthesis}), corpus, tokenizer)
    GOLD.update({templates.full_question(sample): sample.answers[0] for sample in made.samples})
    GOLD[""] = "none"
    return made


def written(clean: Result, path: Path, every: int) -> Path:
    for name in SETS:
        extra = plant(clean.documents[0]) if name == "samples" else []
        write_parquet(path / f"{name}.parquet", [*getattr(clean, name)[::every], *extra], Sample)
    write_parquet(path / "documents.parquet", clean.documents, Document)
    return path


@pytest.fixture
def folder(clean: Result, tmp_path: Path) -> Path:
    return written(clean, tmp_path / "in", 1)


@pytest.fixture
def few(clean: Result, tmp_path: Path) -> Path:
    """A fifth of the clean samples, and all planted ones."""
    return written(clean, tmp_path / "few", 5)


def configured(path: Path, url: str, **screen: Any) -> Path:
    endpoint = {"base_url": url, "model": "m", "retries": 0, "concurrency": 4, "timeout_seconds": 20}
    values = {
        "llm": {"generator": endpoint},
        "synthesis": {"screen": {"max_input_tokens": 2000, "require_robust": False, "blind_tries": 4, "k": 2} | screen},
        "tracking": {"enabled": False},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(values))
    return path / "config.yaml"


def run(folder: Path, config: Path, out: Path, *words: str) -> Any:
    call = ["screen", str(folder), "--config", str(config), "--out", str(out), "--set", "samples", "--json", *words]
    return CliRunner().invoke(app, call)


def test_all_that_was_planted_is_caught_and_the_clean_stay(
    folder: Path, clean: Result, endpoint: Any, tmp_path: Path
) -> None:
    endpoint.answer = knowing
    done = run(folder, configured(tmp_path, endpoint.url, blind_tries=8), tmp_path / "out")
    assert done.exit_code == 0, done.output
    kept = read_parquet(tmp_path / "out" / "samples.parquet", Sample)
    assert not [sample.id for sample in kept if sample.id.startswith("planted")]
    lost = {sample.id for sample in clean.samples} - {sample.id for sample in kept}
    assert len(lost) <= 0.01 * len(clean.samples), lost
    funnel = read_json(tmp_path / "out" / "funnel.json")["samples"]
    assert funnel["samples"] == sum(funnel[step] for step in STEPS) == len(clean.samples) + 20
    assert funnel["blind_rule"] >= 13 and funnel["answered_blind"] >= 7
    assert funnel["rules"].keys() >= {"in_question", "computed", "position"}
    # Both bars: six of eight among four options, one where nothing can be guessed.
    assert {"6", "1"} <= funnel["blind_bar"].keys() and funnel["blind_unprovable"] == 0
    for sample in kept:
        assert sample.checks["blind_tries"] == 8 and sample.checks["verified_by"] == "m"
    # No prompt of a blind try shows a document, every robust one shows more than the sample's.
    texts = [body["messages"][0]["content"] for body in endpoint.requests]
    blind_texts = [text for text in texts if "[1]" not in text]
    assert len(blind_texts) == 8 * (len(clean.samples) + 20 - funnel["blind_rule"])
    assert len(texts) > len(blind_texts)


def test_without_a_model_the_rules_alone(folder: Path, clean: Result, tmp_path: Path) -> None:
    done = run(folder, configured(tmp_path, "http://127.0.0.1:9/v1"), tmp_path / "out", "--no-model")
    assert done.exit_code == 0, done.output
    kept = {sample.id for sample in read_parquet(tmp_path / "out" / "samples.parquet", Sample)}
    caught = {f"planted-{n:02d}" for n in range(20)} - kept
    assert caught == {f"planted-{n:02d}" for n in range(7, 20)}
    assert len({sample.id for sample in clean.samples} - kept) <= 0.01 * len(clean.samples)


def test_what_a_model_loses_among_more_documents_is_dropped(
    few: Path, clean: Result, endpoint: Any, tmp_path: Path
) -> None:
    endpoint.answer = lambda _: "Therefore, the answer is nothing of the kind."
    out = tmp_path / "out"
    done = run(few, configured(tmp_path, endpoint.url, require_robust=True, measure_difficulty=True), out)
    assert done.exit_code == 0, done.output
    funnel = read_json(out / "funnel.json")["samples"]
    # What has no room for one more document is not measured, and stays.
    assert funnel["not_robust"] > 0 and funnel["kept"] == funnel["unmeasured"]["robust"]
    endpoint.answer = lambda body: (
        f"Therefore, the answer is {gold(body['messages'][0]['content'])}"
        if "[1]" in body["messages"][0]["content"]
        else "I cannot know."
    )
    done = run(few, configured(tmp_path, endpoint.url, require_robust=True, measure_difficulty=True), tmp_path / "b")
    kept = read_parquet(tmp_path / "b" / "samples.parquet", Sample)
    by_id = {sample.id: sample for sample in kept}
    assert {sample.id for sample in clean.samples[::5]} <= by_id.keys()
    assert all(by_id[s.id].difficulty.pass_at_k == 1 for s in clean.samples[::5] if s.task == "doc_multi_hop")  # type: ignore[union-attr]


def test_outages_leave_samples_open_and_nothing_is_asked_twice(
    few: Path, clean: Result, endpoint: Any, tmp_path: Path
) -> None:
    config, out = configured(tmp_path, endpoint.url), tmp_path / "out"
    count = Counter[str]()

    def failing(body: dict[str, Any]) -> Any:
        count["asked"] += 1
        # One in ten fails; not so many in a row that the map gives up.
        return {"status": 500, "text": ""} if count["asked"] % 10 == 0 else knowing(body)

    endpoint.answer = failing
    done = run(few, config, out)
    assert done.exit_code == 1 and isinstance(done.exception, QwenlongError)
    funnel = read_json(out / "funnel.json")["samples"]
    undecided = read_parquet(out / "samples_open.parquet", Sample)
    kept = read_parquet(out / "samples.parquet", Sample)
    assert funnel["open"] == len(undecided) > 0
    assert funnel["samples"] == sum(funnel[step] for step in STEPS)
    assert not {sample.id for sample in kept} & {sample.id for sample in undecided}
    answered = {json.dumps(body, sort_keys=True) for n, body in enumerate(endpoint.requests, 1) if n % 10}
    endpoint.requests.clear()
    endpoint.answer = knowing
    assert run(few, config, out).exit_code == 0
    again = [body for body in endpoint.requests if json.dumps(body, sort_keys=True) in answered]
    assert again == []
    assert read_parquet(out / "samples_open.parquet", Sample) == []
    whole = tmp_path / "whole"
    assert run(few, config, whole).exit_code == 0
    for name in ("samples.parquet", "samples_open.parquet", "documents.parquet", "funnel.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_a_reply_without_an_answer_is_a_wrong_one(few: Path, endpoint: Any, tmp_path: Path, finish: str) -> None:
    endpoint.answer = lambda body: {"text": knowing(body), "finish": finish}
    assert run(few, configured(tmp_path, endpoint.url), tmp_path / "out").exit_code == 0
    funnel = read_json(tmp_path / "out" / "funnel.json")["samples"]
    assert funnel["answered_blind"] == 0 and funnel["open"] == 0


def test_a_refused_request_measures_nothing_and_drops_nothing(few: Path, endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = lambda _: {"status": 413, "text": "too long"}
    assert run(few, configured(tmp_path, endpoint.url, require_robust=True), tmp_path / "out").exit_code == 0
    funnel = read_json(tmp_path / "out" / "funnel.json")["samples"]
    assert funnel["kept"] == funnel["samples"] - funnel["blind_rule"] == funnel["unmeasured"]["blind"]


def test_wrong_use(few: Path, endpoint: Any, tmp_path: Path) -> None:
    config = configured(tmp_path, endpoint.url)
    assert "another one" in str(run(few, config, few).exception)
    done = CliRunner().invoke(app, ["screen", str(few), "--config", str(config), "--out", "o", "--set", "nothing"])
    assert "--set nothing is unknown" in str(done.exception)
    (tmp_path / "bare.yaml").write_text("tracking: {enabled: false}\n")
    assert "llm.generator are not set" in str(run(few, tmp_path / "bare.yaml", tmp_path / "o").exception)


def test_more_documents_neither_repeat_nor_answer(clean: Result) -> None:
    corpus = {document.id: document for document in clean.documents}
    seen = 0
    for sample in clean.samples:
        wide = widened(sample, corpus, 2, 2000, 1)
        if wide is None:
            continue
        seen += 1
        added = [name for name in wide.documents if name not in sample.documents]
        assert 1 <= len(added) <= 2 and [n for n in wide.documents if n not in added] == list(sample.documents)
        assert sample.n_tokens + sum(corpus[name].n_tokens for name in added) <= 2000
        assert not any(blind.right(sample).casefold() in corpus[name].text.casefold() for name in added)
    assert seen > len(clean.samples) / 2
    assert widened(clean.samples[0], corpus, 2, clean.samples[0].n_tokens, 1) is None


def test_the_set_is_balanced_while_it_is_made(clean: Result) -> None:
    by_template: dict[str, Counter[tuple[str, str]]] = {}
    for sample in clean.samples:
        assert blind.by_itself(sample) == ""
        by_template.setdefault(sample.template, Counter()).update(blind.guesses(sample))
    sizes = Counter(sample.template for sample in clean.samples)
    for template, hits in by_template.items():
        assert max(hits.values()) <= max(blind.FEW, (sizes[template] + 1) / 2), (template, hits)
    funnel = clean.funnel["tasks"]
    assert sum(row["samples"]["blind"] for row in funnel.values()) > 0


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which has the highest Area: France, Spain or Italy?", "Spain"),
        ("Which came first, the battle of Ulm or the battle of Jena?", "the battle of Ulm"),
        ("How many of France, Spain and Italy have an Area above 3 km?", "3"),
        ("By how much is the Area of 2019 above that of 2021, in km?", "2"),
        ("Which has the lowest EBITDA in Sep-20: Sanco Industries Ltd. or Future Ltd.?", "Future Ltd."),
        ("Which share of Togo is lowest: lowest 10% or highest 10%?", "lowest 10%"),
        ("If the Area of Poland were twice what it is, which would have the higher one: Poland or Mali?", "Poland"),
        ('Reproduce the message number 73 in "Conversation 30 – part 45".', "I am in 28"),
        ('Who says "Out, damned spot!"?', "Lady Macbeth"),
    ],
)
def test_what_a_question_offers_is_not_given_away(question: str, answer: str, clean: Result) -> None:
    assert blind.by_itself(planted(clean.documents[0], 1, question, answer, "t@1")) == ""
