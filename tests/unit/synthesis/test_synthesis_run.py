"""Synthesis as a whole, on real documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from qwenlong.core import templates
from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import read_parquet, write_parquet
from qwenlong.core.records import TASKS, Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.corpus import decontaminate
from qwenlong.rewards.rules import score
from qwenlong.synthesis import output, warmup
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.parse import entity
from qwenlong.synthesis.run import Result, synthesize

SETS = ("samples", "heldout", "heldout_long", "memory")


def every(result: Result) -> list[Sample]:
    return [sample for name in SETS for sample in getattr(result, name)]


def changed(config: Config, **values: object) -> Config:
    return config.model_copy(update={"synthesis": config.synthesis.model_copy(update=values)})


def test_every_task_is_there_in_every_set(result: Result) -> None:
    for name in SETS:
        assert {sample.task for sample in getattr(result, name)} == set(TASKS), name
    assert Counter(sample.task for sample in result.samples) == dict.fromkeys(TASKS, 10)


def test_checker_derives_every_answer_again(result: Result, tokenizer: Tokenizer) -> None:
    documents = {document.id: document for document in result.documents}
    report = check({name: getattr(result, name) for name in SETS}, documents, tokenizer)
    assert report.faults == []
    assert report.derived == report.checked == report.tokens_counted == len(every(result))


def test_lengths(result: Result, config: Config, tokenizer: Tokenizer) -> None:
    documents = {document.id: document for document in result.documents}
    for sample in [*result.samples, *result.heldout]:
        assert sample.n_tokens <= sample.checks["length_target"] in config.synthesis.length_targets
    for sample in result.heldout_long:
        assert sample.n_tokens >= config.synthesis.long_length_target > config.base.window
    for sample in result.memory:
        shown = templates.select_documents(sample, documents)
        assert tokenizer.count(templates.render_documents(shown)) <= 448


def test_no_entity_on_both_sides(result: Result) -> None:
    documents = {document.id: document for document in result.documents}

    def entities(*names: str) -> set[tuple[str, str]]:
        shown = {document for name in names for sample in getattr(result, name) for document in sample.documents}
        return {(documents[name].source, entity(documents[name])) for name in shown}

    train, heldout = entities("samples", "memory"), entities("heldout", "heldout_long")
    assert train and heldout and not train & heldout


def test_funnel_adds_up(result: Result) -> None:
    for row in result.funnel["tasks"].values():
        for name, steps in row.items():
            drops = sum(steps[step] for step in ("duplicate", "contaminated", "too_long", "not_extended"))
            assert steps["candidates"] == drops + steps["kept"], name
            assert sum(steps["templates"].values()) == steps["kept"] == sum(steps["length_targets"].values())


def test_warmup_target_of_every_sample_scores_one(result: Result) -> None:
    documents = {document.id: document for document in result.documents}
    for sample in every(result):
        response = warmup.target(sample, documents)
        fields = sample.model_dump(exclude={"task", "answers"})
        assert score(sample.task, response, sample.answers, **fields) == 1.0, (sample.id, response)
        assert len(warmup.reason(sample).split()) <= warmup.MAX_REASON_WORDS
        for wrong in ("", "<think>\nstill thinking about " + sample.answers[0], "Therefore, the answer is zzz."):
            assert score(sample.task, wrong, sample.answers, **fields) < 1.0


def test_memory_targets_carry_the_evidence_to_the_answer(result: Result, tokenizer: Tokenizer) -> None:
    documents = {document.id: document for document in result.documents}
    for sample in result.memory:
        turns = warmup.memory_targets(sample, documents, tokenizer, chunk_tokens=160)
        assert len(turns) >= 3
        assert all(turn.target.startswith("<memory>") and "</plan>" in turn.target for turn in turns[:-1])
        # Once complete, a memory stays complete: the last update plans to answer.
        assert turns[-2].target.endswith(f"<plan>{warmup.PLAN_DONE}</plan>")
        assert score(sample.task, turns[-1].target, sample.answers, answer_prefix=sample.answer_prefix) == 1.0
        assert sample.instruction in turns[-1].messages[0]["content"]


def test_same_bytes_whatever_the_hash_seed(config: Config, tokenizer: Tokenizer, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from qwenlong.core.config import Config;"
        "from qwenlong.core.files import read_jsonl; from qwenlong.core.records import Document;"
        "from qwenlong.core.tokens import Tokenizer; from qwenlong.synthesis import run;"
        "result = run.synthesize(Config.model_validate_json(sys.argv[1]), read_jsonl(sys.argv[2], Document),"
        " Tokenizer(sys.argv[3]));"
        "print([s.model_dump_json() for n in ('samples', 'heldout', 'heldout_long', 'memory')"
        " for s in getattr(result, n)], result.funnel)"
    )
    small = changed(config, samples_per_task=3, heldout_per_task=2, memory_samples_per_task=1)
    words = [small.model_dump_json(), str(Path(__file__).parent / "documents.jsonl"), str(tokenizer.folder)]
    printed = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]


def test_order_of_documents_does_not_matter_and_the_seed_does(
    config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    small = changed(config, samples_per_task=3, heldout_per_task=1, memory_samples_per_task=1)
    first = synthesize(small, corpus, tokenizer)
    assert synthesize(small, corpus[::-1], tokenizer).samples == first.samples
    other = small.model_copy(update={"run": small.run.model_copy(update={"seed": 18})})
    assert {s.id for s in synthesize(other, corpus, tokenizer).samples} != {s.id for s in first.samples}


def test_refusals(config: Config, corpus: list[Document], tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="0 documents"):
        synthesize(config, [], tokenizer)
    with pytest.raises(ConfigError, match=r"long_length_target = 512 is not above base.window = 512"):
        synthesize(changed(config, long_length_target=512), corpus, tokenizer)
    dialogues = [document for document in corpus if document.source == "chitchat"]
    with pytest.raises(DataError, match="no corpus_numerical sample"):
        synthesize(config, dialogues, tokenizer)


@pytest.fixture(scope="module")
def folder(
    config: Config, corpus: list[Document], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder that the command wrote."""
    base = tmp_path_factory.mktemp("synthesis")
    write_parquet(base / "corpus" / "documents.parquet", corpus, Document)
    values = config.model_dump(mode="json", include={"run", "base", "synthesis"}) | {"tracking": {"enabled": False}}
    (base / "config.yaml").write_text(yaml.safe_dump(values))
    words = ["--config", base / "config.yaml", "--corpus", base / "corpus", "--tokenizer", tokenizer.folder]
    done = CliRunner().invoke(app, ["run", *map(str, words), "--out", str(base / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tasks"]["doc_multi_hop"]["samples"]["kept"] == 10
    return base / "out"


def test_commands_run_check_show_graph(folder: Path, tokenizer: Tokenizer, result: Result, tmp_path: Path) -> None:
    assert read_parquet(folder / "samples.parquet", Sample) == result.samples
    assert (folder / "samples.parquet.provenance.json").is_file()
    done = CliRunner().invoke(app, ["check", str(folder), "--tokenizer", str(tokenizer.folder), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["faults"] == []
    sample = result.samples[0]
    done = CliRunner().invoke(app, ["show", sample.id, "--data", str(folder)])
    assert done.exit_code == 0 and sample.question in done.stdout and sample.answers[0] in done.stdout
    import networkx as nx

    done = CliRunner().invoke(app, ["graph", str(folder), "--out", str(tmp_path / "g.graphml")])
    assert done.exit_code == 0
    graph = nx.read_graphml(tmp_path / "g.graphml")
    assert any(data["relation"] == "Capital - name" for _, _, data in graph.edges(data=True))


def test_check_command_names_a_fault(folder: Path, result: Result, tmp_path: Path) -> None:
    broken = result.samples[0].model_copy(update={"answers": ("17 or so",)})
    output_samples = [broken, *result.samples[1:]]
    for name in SETS:
        write_parquet(
            tmp_path / f"{name}.parquet", output_samples if name == "samples" else getattr(result, name), Sample
        )
    write_parquet(tmp_path / "documents.parquet", result.documents, Document)
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert done.exit_code == 1
    assert isinstance(done.exception, DataError) and broken.id in str(done.exception)
    assert output.SETS == SETS


def test_questions_of_a_benchmark_are_dropped_and_counted(
    config: Config, corpus: list[Document], tokenizer: Tokenizer, result: Result
) -> None:
    evaluated = [sample.question for sample in result.samples if sample.task == "corpus_numerical"][:3]
    index = decontaminate.index({"b": (evaluated, [])})
    found = synthesize(config, corpus, tokenizer, benchmark=index.question)
    assert not {sample.question for sample in every(found)} & set(evaluated)
    assert not any(index.question(sample.question) for sample in every(found))
    assert found.funnel["tasks"]["corpus_numerical"]["samples"]["benchmark"] >= len(evaluated)
    assert Counter(sample.task for sample in found.samples) == dict.fromkeys(TASKS, 10)
