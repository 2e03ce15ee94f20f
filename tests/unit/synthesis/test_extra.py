"""Candidates of agents on their way into the samples: from a scripted endpoint through every step to the checker."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import honest
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_parquet, write_parquet
from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.mase import output
from qwenlong.synthesis.run import Result, synthesize
from qwenlong.synthesis.splits import split

SETS = ("samples", "heldout", "heldout_long", "memory")


@pytest.fixture(scope="module")
def folder(config: Config, corpus: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `synthesize mase` accepts of an honest endpoint, over the real documents of the tests."""
    from scripted import serving

    root = tmp_path_factory.mktemp("agents")
    write_parquet(root / "corpus/documents.parquet", corpus, Document)
    values = config.model_dump(mode="json")
    with serving() as endpoint:
        endpoint.answer = honest.reply
        values["llm"]["generator"] = {"base_url": endpoint.url, "model": "m", "retries": 0, "concurrency": 8}
        values["synthesis"]["mase"] |= {"clusters": 40, "documents_per_cluster": 2, "rounds": 2, "max_similarity": 0.95}
        values["tracking"]["enabled"] = False
        (root / "config.yaml").write_text(yaml.safe_dump(values))
        words = ["mase", "--config", root / "config.yaml", "--corpus", root / "corpus", "--out", root / "mase"]
        done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return root


@pytest.fixture(scope="module")
def candidates(folder: Path) -> list[Candidate]:
    return output.read(folder / "mase/candidates.jsonl")


def faults(result: Result, tokenizer: Tokenizer) -> Any:
    return check({n: getattr(result, n) for n in SETS}, {d.id: d for d in result.documents}, tokenizer)


def test_they_land_among_the_training_samples_and_pass_the_checker(
    folder: Path, candidates: list[Candidate], tokenizer: Tokenizer, corpus: list[Document], config: Config
) -> None:
    assert {one.template for one in candidates} >= {"mase_dialogue_memory@1", "mase_multiple_choice@1"}
    words = ["run", "--config", folder / "config.yaml", "--corpus", folder / "corpus", "--tokenizer", tokenizer.folder]
    words += ["--out", folder / "run", "--candidates", folder / "mase/candidates.jsonl"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    sets = {name: read_parquet(folder / f"run/{name}.parquet", Sample) for name in SETS}
    taken = [sample for sample in sets["samples"] if sample.generator == "mase@1"]
    assert {sample.task for sample in taken} == {"dialogue_memory", "multiple_choice", "reading_comprehension"}
    assert not [s for name in SETS[1:] for s in sets[name] if s.generator == "mase@1"]
    funnel = json.loads((folder / "run/funnel.json").read_text())
    extra = funnel["extra"]
    assert extra["given"] == len(candidates) == sum(extra["admitted"].values()) + sum(extra["refused"].values())
    for task in ("dialogue_memory", "multiple_choice", "reading_comprehension"):
        row = funnel["tasks"][task]["samples"]
        kept = {name: n for name, n in row["templates"].items() if name.startswith("mase_")}
        assert kept == {name: n for name, n in extra["kept"].items() if name in kept}
        assert 0 < sum(kept.values()) <= row["kept"] / 2 and row["kept"] == 10
    done = CliRunner().invoke(app, ["check", str(folder / "run"), "--tokenizer", str(tokenizer.folder), "--json"])
    report = json.loads(done.output)
    assert done.exit_code == 0 and report["not_derivable"] == len(taken) and report["faults"] == []
    # The sidecar names the file; another order of the same candidates gives the same samples.
    assert "candidates_1" in (folder / "run/samples.parquet.provenance.json").read_text()
    shuffled = random.Random(1).sample(candidates, len(candidates))
    again = synthesize(config, corpus, tokenizer, extra=shuffled)
    assert [s.id for s in again.samples] == [s.id for s in sets["samples"]]


def test_without_candidates_nothing_changes(
    result: Result, config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    again = synthesize(config, corpus, tokenizer, extra=())
    assert again.samples == result.samples and again.funnel == result.funnel and "extra" not in result.funnel


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_their_share_is_bounded(
    share: float, candidates: list[Candidate], config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    changed = config.model_copy(
        update={
            "synthesis": config.synthesis.model_copy(
                update={"max_candidate_share": share, "tasks": ("dialogue_memory", "reading_comprehension")}
            )
        }
    )
    made = synthesize(changed, corpus, tokenizer, extra=candidates)
    for task in changed.synthesis.tasks:
        n = sum(s.generator == "mase@1" for s in made.samples if s.task == task)
        assert n <= share * 10 and (n > 0) == (share > 0)
    assert made.funnel["extra"]["refused"]["task_off"] > 0


def test_what_the_documents_do_not_bear_out_is_refused_and_counted(
    candidates: list[Candidate], config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    reading = next(one for one in candidates if one.template == "mase_reading_comprehension@1")
    letters = next(one for one in candidates if one.choices)
    needle = next(one for one in candidates if one.n_needles)
    _, heldout = split(corpus, config.synthesis.heldout_share, config.synthesis.split_seed)
    span = reading.evidence[0]
    moved = Evidence(document=span.document, start=span.start + 1, end=span.end + 1)
    other = Evidence(document="nowhere/1", start=0, end=9)
    hidden = Evidence(document=heldout[0].id, start=0, end=20)
    bad = {
        "no_document": [replace(reading, evidence=(other,), quotes=("a quote!!",))],
        "heldout_document": [replace(reading, evidence=(hidden,), quotes=(heldout[0].text[:20],))],
        "no_quotes": [replace(reading, quotes=()), replace(reading, quotes=(*reading.quotes, "more"))],
        "ungrounded": [
            replace(reading, evidence=(moved, *reading.evidence[1:])),
            replace(reading, quotes=("another text", *reading.quotes[1:])),
            replace(reading, answers=("what no document says",)),
            replace(needle, answers=(f"{needle.answer_prefix} never said",)),
        ],
        "malformed": [
            replace(letters, choices=letters.choices[:3]),
            replace(letters, choices=(letters.choices[0],) * 4),
            replace(letters, answers=("E",)),
            replace(letters, answers=("A", "B")),
            replace(letters, answers=("",)),
            replace(reading, choices=letters.choices),
            replace(reading, template="fact@1"),
            replace(reading, template="../../x"),
            replace(reading, question=" "),
            replace(reading, evidence=(), quotes=()),
            replace(reading, reasoning_chain=()),
            replace(needle, answer_prefix=""),
            replace(needle, instruction="Write it."),
        ],
        "repeated": [reading],
    }
    extra = [reading, *(one for several in bad.values() for one in several)]
    made = synthesize(config, corpus, tokenizer, extra=extra)
    assert made.funnel["extra"]["refused"] == {why: len(several) for why, several in bad.items()}
    assert made.funnel["extra"]["admitted"] == {"mase_reading_comprehension@1": 1}
    assert faults(made, tokenizer).faults == []


def test_a_broken_file_is_named_before_anything_is_made(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    lines = (folder / "mase/candidates.jsonl").read_text().splitlines()
    for number, line in enumerate(('{"task": "magic"}', "no JSON", json.dumps(json.loads(lines[0]) | {"answers": []}))):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("\n".join([lines[0], line]))
        words = ["run", "--config", str(folder / "config.yaml"), "--corpus", str(folder / "corpus")]
        words += ["--tokenizer", str(tokenizer.folder), "--out", str(tmp_path / "out"), "--candidates", str(file)]
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, DataError) and f"{file}, line 2" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_the_checker_faults_a_needle_that_is_none(
    candidates: list[Candidate], config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    needles = [one for one in candidates if one.n_needles]
    made = synthesize(config, corpus, tokenizer, extra=needles)
    sample = next(s for s in made.samples if s.generator == "mase@1" and s.n_needles == 2)
    documents = {d.id: d for d in made.documents}
    first, *rest = sample.evidence
    cut = first.model_copy(update={"end": first.end - 1})
    wrong = {
        "is no whole message": {"evidence": (cut, *rest)},
        "MRCR's form has 2, 4 or 8": {"evidence": (first,)},
        "n_needles = 3": {"n_needles": 3},
        "documents have the title": {
            "question": sample.question.replace(' in "', ' in "The '),
        },
        "names no place": {"question": "Reproduce the message."},
        "the third of 2 messages": {"question": sample.question.replace("first", "third").replace("second", "third")},
    }
    for words, change in wrong.items():
        broken = sample.model_copy(update=change)
        found = check({"samples": [broken]}, documents, None).faults
        assert any(words in fault for fault in found), (words, found)
    other = {"first": "second", "second": "first"}
    place = next(word for word in other if f"the {word} message" in sample.question)
    swapped = sample.model_copy(update={"question": sample.question.replace(place, other[place], 1)})
    assert any("needle is" in fault for fault in check({"samples": [swapped]}, documents, None).faults)
    assert (
        Counter(s.generator for s in made.samples)["mase@1"] == made.funnel["extra"]["kept"]["mase_dialogue_memory@1"]
    )
