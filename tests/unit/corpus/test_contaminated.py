"""Real questions of two benchmarks, planted in five disguises among a thousand of the same benchmarks' others.

benchmark_questions.jsonl holds all questions of FRAMES (google/frames-benchmark, Apache-2.0) and 276 of MMLU-Pro
(TIGER-Lab/MMLU-Pro, MIT), unchanged.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import planted
import pytest
from corpus_files import PROSE, config, folder

from qwenlong.core.config import BenchmarkTexts, CorpusConfig
from qwenlong.core.files import write_jsonl
from qwenlong.corpus import decontaminate, shards
from qwenlong.corpus.build import build
from qwenlong.corpus.load import load

FILE = Path(__file__).parent / "benchmark_questions.jsonl"
EVALUATED = 50


def long(text: str) -> bool:
    return len(re.findall(r"\w+", text)) >= 16


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """The evaluated questions first: 30 of FRAMES and 20 of MMLU-Pro, of 16 words and more; behind them the others."""
    found = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(5)
    chosen: list[dict[str, Any]] = []
    for name, count in (("frames", 30), ("mmlu_pro", 20)):
        chosen += rng.sample([r for r in found if r["benchmark"] == name and long(r["question"])], count)
    ids = {record["id"] for record in chosen}
    return [*chosen, *(record for record in found if record["id"] not in ids)]


@pytest.fixture(scope="module")
def settings(records, tmp_path_factory) -> tuple[BenchmarkTexts, ...]:
    root = tmp_path_factory.mktemp("evaluated")
    known = []
    for name in ("frames", "mmlu_pro"):
        write_jsonl(root / f"{name}.jsonl", [r for r in records[:EVALUATED] if r["benchmark"] == name])
        answers = ("options",) if name == "mmlu_pro" else ()
        known.append(BenchmarkTexts(name=name, path=str(root / f"{name}.jsonl"), fields=("question",), answers=answers))
    return tuple(known)


def disguised(number: int, record: dict[str, Any]) -> str:
    """Return the question verbatim, in other dress, inside a longer text, with its options, or 13 words of it."""
    question = record["question"]
    words = re.findall(r"\S+", question)
    options = "\n".join(
        f"({letter}) {text}" for letter, text in zip("ABCDEFGHIJ", record.get("options", ()), strict=False)
    )
    return [
        question,
        re.sub(r"[,.?!]", " — ", question).upper().replace(" ", "  "),
        f"{PROSE * 20}\nSomebody asked: “{question}” {PROSE * 20}",
        f"Choose one. {question.lower()}\n{options or '(A) yes (B) no'}",
        f"{PROSE * 3} {' '.join(words[1:16])} {PROSE * 3}",
    ][number % 5]


def test_fifty_are_caught_and_of_a_thousand_others_at_most_one_in_a_hundred(records, settings) -> None:
    index = decontaminate.read(settings)
    dirty = [disguised(n, record) for n, record in enumerate(records[:EVALUATED])]
    for n, text in enumerate(dirty):
        name = records[n]["benchmark"]
        assert name in index.document(text) and name in index.question(text), (n % 5, text)
    others = [r["question"] + "\n" + "\n".join(r.get("options", ())) for r in records[EVALUATED:]]
    assert len(others) >= 1000
    for ask in (index.document, index.question):
        assert sum(bool(ask(text)) for text in others) <= len(others) // 100


def test_both_commands_drop_the_fifty_and_no_clean_document(records, settings, tmp_path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    rng = random.Random(6)
    for n, record in enumerate(records[:EVALUATED]):
        (place / f"bad{n:02d}.txt").write_text(f"{disguised(n, record)}\n{' '.join(planted.prose(rng, 120))}")
    write_jsonl(place / "clean.jsonl", [{"text": " ".join(planted.prose(rng, 80))} for _ in range(1000)])
    run = config(folders=[folder(place).model_dump()], decontaminate=settings, workers=1)
    documents, stats = build(run, tmp_path)
    assert stats["sources"]["notes"]["dropped"] == {"contaminated": EVALUATED} and len(documents) == 1000
    assert stats["contaminated"] == {"frames": 30, "mmlu_pro": 20}
    files, _ = load(run.corpus, tmp_path, tmp_path / "loaded")
    counts = shards.run(files, tmp_path / "out", run.corpus, 5)
    assert (counts["kept"], counts["dropped"]) == (1000, {"contaminated": EVALUATED})
    assert counts["contaminated"] == stats["contaminated"]


def test_of_a_chat_only_what_the_user_says_is_asked(tmp_path) -> None:
    story = "the quick brown fox jumps over the lazy dog and goes home to sleep in its den"
    chat = [{"role": "user", "content": "Write a story about a very quick fox please, in prose"}]
    chat += [{"role": "assistant", "content": story}]
    write_jsonl(tmp_path / "m.jsonl", [{"prompt": json.dumps(chat)}])
    index = decontaminate.read([BenchmarkTexts(name="m", path=str(tmp_path / "m.jsonl"), fields=("prompt",))])
    assert index.question(chat[0]["content"].upper()) == ("m",) and index.question(story) == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'id,Question\n1,"Who, of all people, built the old bridge over the river?"\n'),
        ("a.tsv", "id\tQuestion\n1\tWho, of all people, built the old bridge over the river?\n"),
        ("a.json", '{"Question": "Who, of all people, built the old bridge over the river?"}\n{"Question": "Why?"}\n'),
    ],
)
def test_files_as_benchmarks_publish_them(tmp_path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    index = decontaminate.read([BenchmarkTexts(name="b", path=str(tmp_path / name), fields=("Question",))])
    assert index.question("who of all people built the old bridge over the river") == ("b",)


def test_every_benchmark_of_the_paper_is_named(root) -> None:
    from qwenlong.core import config_files

    corpus: CorpusConfig = config_files.load(root / "configs" / "paper.yaml").corpus
    assert {one.name for one in corpus.decontaminate} == {
        *("docmath", "longbench_v2", "frames", "mrcr", "corpusqa", "longbench_v1_qa"),
        *("mmlu_pro", "aime24", "aime25", "gpqa_diamond", "bfcl_v4_memory", "longmemeval"),
    }
