"""Every path that asks a model, against a real one: SmolLM2-135M behind `transformers serve` on loopback.

What so small a model gets right is not the matter (benchmarks/llm_paths.md has it): every path runs to its end, what it
counts adds up, nothing that it accepts is invented, and a second run asks the server nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenlong.core.files import read_jsonl, read_parquet
from qwenlong.core.llm import Journal
from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.mase import output
from qwenlong.synthesis.mase.run import STEPS

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests/unit/synthesis")]

import llm_paths  # noqa: E402
from table_documents import table_documents  # noqa: E402

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llm_paths.Paths]:
    work = tmp_path_factory.mktemp("paths")
    documents = read_jsonl(ROOT / "tests/unit/synthesis/documents.jsonl", Document) + table_documents()
    with llm_paths.model_folder(ROOT / "data/cache") as folder, llm_paths.served(folder, work) as server:
        yield llm_paths.Paths(work, documents, server, llm_paths.SMALL)


def journal(file: Path) -> list[dict[str, Any]]:
    with Journal(file) as book:
        return book.entries()


def corpus(folder: Path) -> dict[str, Document]:
    return {d.id: d for d in read_parquet(folder / "corpus/documents.parquet", Document)}


def test_corpus_judge(paths: llm_paths.Paths) -> None:
    row = paths.measured(paths.corpus_judge)
    assert row.asked == llm_paths.SMALL.documents == row.accepted + sum(row.lost.values())
    assert row.usable == row.accepted + row.lost.get("unfit", 0)
    assert row.asked <= row.replies <= 3 * row.asked
    folder = paths.work / "corpus_judge"
    counts = json.loads((folder / "out/counts.json").read_text())
    assert counts["judge"]["open"] == 0 and counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    entries = [entry for file in (folder / "out/work/judge").glob("*.jsonl") for entry in journal(file)]
    assert sorted(entry["id"] for entry in entries) == sorted(corpus(folder))
    assert sum(entry["usage"]["replies"] for entry in entries) == row.replies


def test_extract(paths: llm_paths.Paths) -> None:
    row = paths.measured(paths.extract)
    folder = paths.work / "extract"
    found = json.loads((folder / "out/funnel.json").read_text())["llm@1"]
    assert row.asked == found["passages"] == row.usable + sum(found["refusals"].values()) == llm_paths.SMALL.passages
    steps = ("ungrounded", "not_in_quote", "not_a_node", "repeated", "kept")
    assert found["triples"] == sum(found[step] for step in steps) and found["passages_unavailable"] == 0
    documents = corpus(folder)
    for edge in map(json.loads, (folder / "out/edges.jsonl").read_text().splitlines()):
        assert (
            edge["target"].partition(":")[2].split()[0] in documents[edge["document"]].text[edge["start"] : edge["end"]]
        )
    entries = journal(folder / "out/journal/extractor.jsonl")
    assert len(entries) == row.asked <= row.replies == sum(entry["usage"]["replies"] for entry in entries)


@pytest.mark.parametrize("real", [["proposer", "solver", "verifier"], ["solver"], ["verifier"]])
def test_mase(paths: llm_paths.Paths, real: list[str]) -> None:
    row = paths.measured(lambda: paths.mase(real))
    folder = paths.work / ("mase_" + "_".join(real))
    found = json.loads((folder / "out/funnel.json").read_text())["all"]
    kinds = len(llm_paths.SMALL.kinds)
    assert found["proposed"] == kinds == sum(found[step] for step in STEPS) and found["unavailable"] == 0
    # The real model was asked in each case.
    assert row.asked > 0 and row.asked <= row.replies
    documents = corpus(folder)
    candidates = output.read(folder / "out/candidates.jsonl")
    assert len(candidates) == found["accepted"]
    for one in candidates:
        spans = zip(one.evidence, one.quotes, strict=True)
        assert all(documents[span.document].text[span.start : span.end] == quote for span, quote in spans)
    paid = sum(e["usage"]["replies"] for r in real for e in journal(folder / f"out/journal/{r}.jsonl"))
    assert paid == row.replies


def test_nl2sql(paths: llm_paths.Paths) -> None:
    row = paths.measured(paths.nl2sql)
    assert row.asked > 0 and row.asked == row.accepted + sum(row.lost.values()) and "unavailable" not in row.lost
    folder = paths.work / "nl2sql/out/journal"
    entries = [entry for role in ("writer", "solver") if (folder / f"{role}.jsonl").is_file()
               for entry in journal(folder / f"{role}.jsonl")]  # fmt: skip
    assert row.asked <= row.replies == sum(entry["usage"]["replies"] for entry in entries)


def test_screen(paths: llm_paths.Paths) -> None:
    row = paths.measured(paths.screen)
    assert row.asked == 2 * (llm_paths.SMALL.rollouts // 2) == row.accepted + sum(row.lost.values())
    # Each sample was asked without its documents, twice, and then at most once among more of them.
    assert 2 * row.asked <= row.replies <= 3 * row.asked and "open" not in row.lost
    kept = read_parquet(paths.work / "screen/out/samples.parquet", Sample)
    assert len(kept) == row.accepted and all("blind_mean" in sample.checks for sample in kept)


def test_reward_judge(paths: llm_paths.Paths) -> None:
    row = paths.measured(paths.reward_judge)
    assert row.asked == llm_paths.SMALL.rollouts == row.accepted + sum(row.lost.values())
    assert row.asked <= row.replies <= 3 * row.asked
    said = [json.loads(line) for line in (paths.work / "reward_judge/out.jsonl").read_text().splitlines()]
    assert all((one["judge"] is None) == one["dropped"] == (one["value"] is None) for one in said)
