"""Five hundred samples made wrong, by kind: the checker refuses them all; clean ones it accepts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutants import KINDS, Mutant, mutants
from typer.testing import CliRunner

from qwenlong.cli import app
from qwenlong.core.config import Config
from qwenlong.core.files import read_parquet, write_parquet
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.output import write
from qwenlong.synthesis.run import Result

EACH = 64


@pytest.fixture(scope="module")
def made(result: Result, tokenizer: Tokenizer) -> list[Mutant]:
    documents = {document.id: document for document in result.documents}
    return list(mutants([*result.samples, *result.heldout, *result.memory], documents, tokenizer, EACH, 17))


@pytest.fixture(scope="module")
def folder(config: Config, result: Result, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "synthesis"
    write(config, result, out, {})
    return out


def test_there_are_five_hundred_of_every_kind_over_all_templates(made: list[Mutant], result: Result) -> None:
    assert len(made) >= 500 and Counter(mutant.kind for mutant in made) == dict.fromkeys(KINDS, EACH)
    templates = {sample.template for sample in (*result.samples, *result.heldout, *result.memory)}
    assert {mutant.template for mutant in made} == templates
    hows = {way.__name__ for ways in KINDS.values() for way in ways} | {"leak"}
    assert {mutant.how for mutant in made} == hows


def test_every_mutant_is_refused(made: list[Mutant], tokenizer: Tokenizer) -> None:
    accepted = defaultdict(list)
    for mutant in made:
        if check(mutant.sets, mutant.documents, tokenizer).ok:
            accepted[mutant.kind].append((mutant.how, mutant.template))
    assert dict(accepted) == {}


def test_a_second_answer_is_called_ambiguous(made: list[Mutant], tokenizer: Tokenizer) -> None:
    for mutant in (mutant for mutant in made if mutant.kind == "second answer"):
        faults = check(mutant.sets, mutant.documents, tokenizer).faults
        assert any("is ambiguous" in fault for fault in faults), (mutant.template, faults)


def test_the_unchanged_samples_are_accepted(result: Result, tokenizer: Tokenizer) -> None:
    documents = {document.id: document for document in result.documents}
    sets = {name: getattr(result, name) for name in ("samples", "heldout", "heldout_long", "memory")}
    report = check(sets, documents, tokenizer)
    assert report.faults == [] and report.derived == report.checked == report.tokens_counted > 60


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "split leak"])
def test_the_command_refuses_a_folder_with_one_mutant(
    made: list[Mutant], folder: Path, tokenizer: Tokenizer, tmp_path: Path, kind: str
) -> None:
    mutant = next(mutant for mutant in made if mutant.kind == kind)
    for file in folder.glob("*.parquet"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    samples = read_parquet(folder / "samples.parquet", Sample)
    write_parquet(tmp_path / "samples.parquet", [*samples[1:], *mutant.sets["samples"]], Sample)
    write_parquet(tmp_path / "documents.parquet", mutant.documents.values(), Document)
    done = CliRunner().invoke(
        app, ["synthesize", "check", str(tmp_path), "--tokenizer", str(tokenizer.folder), "--json"]
    )
    assert done.exit_code == 1
    assert mutant.sets["samples"][0].id in " ".join(json.loads(done.stdout)["faults"])


def test_the_command_counts_by_task_and_template(folder: Path, tokenizer: Tokenizer, result: Result) -> None:
    command = ["synthesize", "check", str(folder), "--tokenizer", str(tokenizer.folder)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["faults"] == [] and said["not_derivable_share"] == 0 and said["derived"] == said["samples"]
    rows = {(row["task"], row["template"]): row for row in said["templates"]}
    assert sum(row["samples"] for row in rows.values()) == said["samples"]
    assert rows["reading_comprehension", "fact@1"]["derived"] == rows["reading_comprehension", "fact@1"]["samples"] > 0
    table = CliRunner().invoke(app, command).stdout
    assert "not derivable" in table.splitlines()[0] and "fact@1" in table


def test_too_many_that_are_not_derivable_fail_the_command(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for file in folder.glob("*.parquet"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    samples = read_parquet(folder / "samples.parquet", Sample)
    proposed = samples[0].model_copy(update={"template": "mase_viewpoint@1"})
    write_parquet(tmp_path / "samples.parquet", [proposed, *samples[1:]], Sample)
    command = ["synthesize", "check", str(tmp_path), "--tokenizer", str(tokenizer.folder), "--json"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--max-not-derivable", "0.1"]).exit_code == 0
    done = CliRunner().invoke(app, [*command, "--max-not-derivable", "0"])
    assert done.exit_code == 1 and "--max-not-derivable 0.00%" in str(done.exception)
    assert CliRunner().invoke(app, [*command, "--max-not-derivable", "1.5"]).exit_code == 2


def test_a_broken_folder_is_named(folder: Path, tmp_path: Path) -> None:
    def said() -> str:
        done = CliRunner().invoke(app, ["synthesize", "check", str(tmp_path / "x")])
        assert done.exit_code == 1
        return str(done.exception)

    assert "x is no folder" in said()
    (tmp_path / "x").mkdir()
    assert "has no samples.parquet, memory.parquet, heldout.parquet, heldout_long.parquet, documents.parquet" in said()
    for file in folder.glob("*.parquet"):
        (tmp_path / "x" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "x" / "memory.parquet").unlink()
    assert "x has no memory.parquet; give the folder" in said()
    whole = (folder / "memory.parquet").read_bytes()
    for broken in (b"", b"PAR1 no table", whole[: len(whole) // 2], b"\0" * 8 + whole[8:]):
        (tmp_path / "x" / "memory.parquet").write_bytes(broken)
        assert "memory.parquet" in said() and "run its stage again" in said()
    (tmp_path / "x" / "memory.parquet").write_bytes((folder / "documents.parquet").read_bytes())
    assert "memory.parquet, row 0" in said()
    rows = pq.read_table(folder / "memory.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([*rows[1:], rows[0] | {"evidence": "[{"}]), tmp_path / "x" / "memory.parquet")
    assert f"memory.parquet, row {len(rows) - 1}: evidence = '[{{' is not JSON" in said()
    (tmp_path / "x" / "memory.parquet").write_bytes(whole)
    documents = read_parquet(folder / "documents.parquet", Document)
    write_parquet(tmp_path / "x" / "documents.parquet", [*documents, documents[0]], Document)
    assert f"1 ids stand there twice ({documents[0].id})" in said()
    write_parquet(tmp_path / "x" / "documents.parquet", documents, Document)
    for name in ("samples", "memory", "heldout", "heldout_long"):
        write_parquet(tmp_path / "x" / f"{name}.parquet", [], Sample)
    assert "holds no sample" in said()
