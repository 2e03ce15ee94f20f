"""Tables of what `qwenlong evaluate score` makes of scripted predictions, by the benchmarks' own rules."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qwenlong.core.files import write_jsonl
from qwenlong.core.records import Prediction
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.registry import BENCHMARKS
from qwenlong.evaluation.tables import layout

RUN = CliRunner()


def choice(number: int, difficulty: str, length: str, answer: str) -> dict[str, Any]:
    """A record of LongBench-V2."""
    options = {f"choice_{letter}": f"option {letter}" for letter in "ABCD"}
    about = {"_id": f"c{number}", "domain": "test", "sub_domain": "test", "difficulty": difficulty, "length": length}
    return {**about, "question": "Which?", **options, "answer": answer, "context": "A text."}


def open_question(number: int, dataset: str) -> dict[str, Any]:
    """A record of LongBench-V1."""
    about = {"_id": f"q{number}", "dataset": dataset, "length": 3}
    return {**about, "input": "Who?", "context": "A text of Ada Lovelace.", "answers": ["Ada Lovelace"]}


CHOICES = [
    choice(0, "easy", "short", "A"),
    choice(1, "easy", "long", "B"),
    choice(2, "hard", "short", "C"),
    choice(3, "hard", "medium", "D"),
]
QUESTIONS = [
    open_question(2 * n + k, dataset)
    for n, dataset in enumerate(("2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper"))
    for k in (0, 1)
]


def scored(root: Path, model: str, benchmark: str, records: list[dict[str, Any]], responses: list[str]) -> None:
    """Write predictions, and their scores by the command."""
    folder = root / "evaluation" / model / benchmark
    examples = root / f"{benchmark}.jsonl"
    write_jsonl(examples, records)
    rows = [
        Prediction(
            id=record["_id"],
            response=response,
            finish_reason="stop",
            n_prompt_tokens=1,
            n_response_tokens=1,
            model=model,
        )
        for record, response in zip(records, responses, strict=True)
    ]
    write_jsonl(folder / "predictions.jsonl", rows)
    words = ["--examples", str(examples), "--predictions", str(folder / "predictions.jsonl"), "--no-judge"]
    done = RUN.invoke(app, ["score", benchmark, *words, "--out", str(folder / "scores.json")])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models: base always says A and never a name; rl_4 is right, of the names in one subset."""
    root = tmp_path_factory.mktemp("results")
    scored(root, "base", "longbench_v2", CHOICES, ["The correct answer is (A)"] * 4)
    scored(root, "rl_4", "longbench_v2", CHOICES, [f"The correct answer is ({c['answer']})" for c in CHOICES])
    scored(root, "base", "longbench_v1_qa", QUESTIONS, ["Therefore, the answer is (Nobody)"] * 10)
    names = [
        f"Therefore, the answer is ({'Ada Lovelace' if q['dataset'] == '2wikimqa' else 'Nobody'})" for q in QUESTIONS
    ]
    scored(root, "rl_4", "longbench_v1_qa", QUESTIONS, names)
    return root


def column_of(results: Path, table: str, model: str) -> dict[str, str]:
    """Our numbers of a row, by column."""
    done = RUN.invoke(app, ["tables", "--results", str(results), "--table", table, "--format", "csv"])
    assert done.exit_code == 0, done.output
    cells = csv.DictReader(io.StringIO(done.stdout))
    return {c["column"]: c["ours"] and f"{float(c['ours']):g}" for c in cells if c["model"] == model}


def test_slices_of_longbench_v2(results: Path) -> None:
    """Table 11 from one file of scores."""
    names = ("overall", "easy", "hard", "short", "medium", "long")
    assert column_of(results, "11", "base") == dict(zip(names, ("25", "50", "0", "50", "0", "0"), strict=True))
    assert column_of(results, "11", "rl_4") == dict.fromkeys(names, "100")


def test_groups_of_longbench_v1(results: Path) -> None:
    """Table 12; its average is over subsets."""
    found = column_of(results, "12", "rl_4")
    assert (found["avg"], found["2wikimultihopqa"], found["hotpotqa"], found["qasper"]) == ("20", "100", "0", "0")


def test_the_main_table_has_both_and_says_that_no_judge_was_asked(results: Path) -> None:
    """Table 7: two columns, no average; the rule that stood in for the paper's is named."""
    found = column_of(results, "7", "rl_4")
    assert (found["longbench_v2"], found["longbench_v1_qa"]) == ("100", "20")
    assert found["avg"] == found["docmath"] == ""
    text = RUN.invoke(app, ["tables", "--results", str(results), "--table", "7"]).stdout
    said = "longbench\\_v1\\_qa of rl\\_4 is scored by cover\\_em\\_strict, without the judge that paper needs"
    assert said in text and "evaluation/rl_4/docmath/scores.json" in text


def test_every_benchmark_of_the_tables_can_be_run() -> None:
    """Their metrics are there, too: each is the average, a group, or a slice that its items name."""
    # BFCL's come with a harness of their own.
    assert {name for name in layout.BENCHMARKS} <= set(BENCHMARKS)
    slices = {"short", "medium", "long"}
    for table in layout.LAYOUTS.values():
        for measure in table.measures.values():
            for part in measure.parts:
                groups = BENCHMARKS[part.benchmark].groups if part.metric != "avg" else ()
                assert part.metric in {"avg", *groups, *slices}
    assert {name for name, one in BENCHMARKS.items() if one.agent and name in layout.BENCHMARKS} == set(
        layout.AGENT_BENCHMARKS
    )
