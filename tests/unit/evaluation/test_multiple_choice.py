"""LongBench-V2, MMLU-Pro, GPQA-Diamond, AIME: files to items, prompts, scores of real and synthetic records."""

from __future__ import annotations

import csv
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "memory_agent"))

from agent_helpers import make_tokenizer

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks import gpqa_diamond
from qwenlong.evaluation.interface import Item
from qwenlong.evaluation.registry import find
from qwenlong.evaluation.rules.choices import LETTERS

DATA = Path(__file__).parents[2] / "data" / "benchmarks"
MMLU = DATA / "mmlu_pro" / "hf_test-00000-of-00001.parquet"
SHOTS = DATA / "mmlu_pro" / "hf_validation-00000-of-00001.parquet"
LONG = {
    "_id": "a1",
    "domain": "Single-Document QA",
    "sub_domain": "Literary",
    "difficulty": "hard",
    "length": "long",
    "question": "When was it dredged first?",
    "choice_A": "1911",
    "choice_B": "1954",
    "choice_C": "1923",
    "choice_D": "never",
    "answer": "A",
    "context": "The harbour was dredged in 1911. " * 200,
}
GATED = {
    "Record ID": "synthetic1",
    "Question": "Which is prime?",
    "Correct Answer": "97\n",
    "Incorrect Answer 1": "91",
    "Incorrect Answer 2": "87",
    "Incorrect Answer 3": "93",
    "High-level domain": "Physics",
}
SAYS = {
    "longbench_v2": "The correct answer is ({})",
    "mmlu_pro": "the answer is ({})",
    "gpqa_diamond": "Answer: {}",
    "aime24": r"\boxed{{{}}}",
}
SMALL = {"question_id": 0, "question": "Q", "options": ["x", "y"], "answer": "A", "category": "law"}
RECORDS = {"longbench_v2": LONG, "gpqa_diamond": GATED, "mmlu_pro": SMALL, "aime24": {"question": "Q", "answer": "7"}}
#: Finished thinking first, so that all the rest is read.
HOSTILE = (
    "<think></think>",
    "A ",
    "answer: x ",
    "Answer:\n",
    r"\boxed{",
    "{}}{",
    "1",
    "* ",
    "the answer is ",
    "a\u0301\u0316",
)


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def mean(items: list[tuple[Item, str]], rule: str = "accuracy") -> float:
    return sum(item.score(response)[rule] for item, response in items) / len(items)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def mmlu() -> list[Any]:
    return list(find("mmlu_pro").load(MMLU, None))


def test_mmlu_pro_is_whole_and_its_golds_are_right(mmlu: list[Any]) -> None:
    assert len(mmlu) == find("mmlu_pro").source.records == 12_032
    assert {item.group for item in mmlu} == set(find("mmlu_pro").groups)
    golds = [item.record.answer for item in mmlu]
    said = [(item, SAYS["mmlu_pro"].format(gold)) for item, gold in zip(mmlu, golds, strict=True)]
    assert mean(said) == mean(said, "official") == 1.0
    random.Random(17).shuffle(golds)
    said = [(item, SAYS["mmlu_pro"].format(gold)) for item, gold in zip(mmlu, golds, strict=True)]
    # By chance two letters agree with the sum of the squares of their shares, 0.101; five standard errors are 0.014.
    assert mean(said) == pytest.approx(0.101, abs=0.014)


def test_guessing_and_saying_nothing_in_mmlu_pro(mmlu: list[Any]) -> None:
    chance = sum(1 / len(item.record.options) for item in mmlu) / len(mmlu)
    nothing = [(item, "") for item in mmlu]
    assert (mean(nothing), mean(nothing, "unextracted")) == (0.0, 1.0)
    assert mean(nothing, "official") == pytest.approx(chance)
    draw = random.Random(17)
    guessed = [(i, SAYS["mmlu_pro"].format(LETTERS[draw.randrange(len(i.record.options))])) for i in mmlu]
    assert mean(guessed) == pytest.approx(chance, abs=0.015)
    share_of_a = sum(item.record.answer == "A" for item in mmlu) / len(mmlu)
    assert mean([(item, "the answer is (A)") for item in mmlu]) == pytest.approx(share_of_a)


@pytest.mark.parametrize("year", ["24", "25"])
def test_aime_golds_with_and_without_leading_zeros(year: str) -> None:
    items = find(f"aime{year}").load(DATA / "aime" / f"aime{year}.jsonl", None)
    assert [item.id for item in items] == [str(number) for number in range(30)]
    golds = [json.loads(line)["answer"] for line in (DATA / "aime" / f"aime{year}.jsonl").read_text().splitlines()]
    assert any(gold.startswith("0") for gold in golds) == (year == "24")
    for write in (str, lambda gold: f"{int(gold):03d}", int):
        for rule in ("accuracy", "official"):
            assert mean([(i, f"\\boxed{{{write(g)}}}") for i, g in zip(items, golds, strict=True)], rule) == 1.0
    assert mean([(i, f"\\boxed{{{g}}}") for i, g in zip(items, golds[1:] + golds[:1], strict=True)]) == 0.0
    assert mean([(i, i.record.question) for i in items]) == 0.0  # copying the problem
    assert find(f"aime{year}").samples == 32


@pytest.mark.parametrize(
    "record",
    [
        {"problem": "How many?", "answer": 25, "id": 60},
        {"problem": "How many?", "answer": "025", "problem_idx": 60},
        {"question": "How many?", "answer": 25.0, "id": "60"},
    ],
)
def test_aime_files_of_other_columns(record: dict[str, Any], tmp_path: Path) -> None:
    (item,) = find("aime25").load(lines(tmp_path / "f.jsonl", record), None)
    assert (item.id, item.score(r"\boxed{25}")["accuracy"]) == ("60", 1.0)


def test_longbench_v2_in_parts(tmp_path: Path) -> None:
    (item,) = find("longbench_v2").load(lines(tmp_path / "f.jsonl", LONG), None)
    assert (item.id, item.group, item.slices) == ("a1", "hard", ("long", "Single-Document QA"))
    question, instruction, text = item.problem()
    assert "(D) never" in question and "The correct answer is (X)" in instruction and text == LONG["context"]


def test_the_middle_is_cut_and_the_question_stays(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (item,) = find("longbench_v2").load(lines(tmp_path / "f.jsonl", LONG), None)
    chat = item.messages(tokenizer, 600)
    assert tokenizer.count_chat(chat) <= 600 < tokenizer.count_chat(item.messages(tokenizer, 10**6))
    for part in ("When was it dredged first?", "(A) 1911", "(D) never", "The correct answer is (X)", "\n...\n"):
        assert part in chat[0]["content"]
    with pytest.raises(DataError, match=r"a1.*max_input_tokens"):
        item.messages(tokenizer, 20)


def test_four_orders_put_the_right_option_at_each_letter_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [GATED | {"Record ID": f"synthetic{n}"} for n in range(40)]
    items = find("gpqa_diamond").load(lines(tmp_path / "f.jsonl", *rows), None)
    assert find("gpqa_diamond").samples == 4
    for item in items:
        variants = [item.variant(sample) for sample in range(4)]
        assert sorted(v.gold for v in variants) == list("ABCD")
        assert sum(v.score("Answer: A")["accuracy"] for v in variants) == 1.0
        for variant in variants:
            text = variant.messages(tokenizer, 10**6)[0]["content"]
            assert f"\n{variant.gold}) 97\n" in text
            assert variant.score(f"Answer: {variant.gold}")["accuracy"] == 1.0
    assert len({item.gold for item in items}) == 4, "the first order depends on the record"
    assert items[0].variant(2).variant(0) == items[0]
    # Fixed for ever: a change makes stored predictions worthless.
    assert [gpqa_diamond.order("synthetic1", sample) for sample in (0, 1, 4)] == ORDERS


ORDERS = [(0, 3, 2, 1), (3, 2, 1, 0), (1, 0, 3, 2)]


def test_gpqa_from_the_published_table(tmp_path: Path) -> None:
    file = tmp_path / "gpqa_diamond.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [*GATED, "Explanation"])
        writer.writeheader()
        writer.writerow(GATED | {"Question": 'Which, "if any",\nis prime?', "Explanation": "none"})
    (item,) = find("gpqa_diamond").load(file, None)
    assert (item.id, item.group) == ("synthetic1", "Physics")
    assert item.record.question == 'Which, "if any",\nis prime?'
    assert find("gpqa_diamond").source.gated


def test_solved_questions_of_the_same_field(tokenizer: Tokenizer) -> None:
    items = find("mmlu_pro").load(MMLU, SHOTS)
    item = next(i for i in items if i.group == "law")
    text = item.messages(tokenizer, 10**6)[0]["content"]
    assert len(item.solved) == 5 and {record.category for record in item.solved} == {"law"}
    for record in item.solved:
        assert record.question.strip() in text and "The answer is (" in record.cot_content
    assert text.index(item.solved[-1].question.strip()) < text.index(item.record.question.strip())
    alone = find("mmlu_pro").load(MMLU, None)[items.index(item)].messages(tokenizer, 10**6)
    least = tokenizer.count_chat(alone)
    assert item.messages(tokenizer, least) == alone
    with pytest.raises(DataError, match=rf"{item.id}.*{least} tokens"):
        item.messages(tokenizer, least - 1)


def test_a_field_without_solved_questions_is_named(tmp_path: Path) -> None:
    record = {"question_id": 1, "question": "Q", "options": ["x", "y", "z"], "answer": "A", "category": "alchemy"}
    with pytest.raises(DataError, match="alchemy"):
        find("mmlu_pro").load(lines(tmp_path / "f.jsonl", record), SHOTS)


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("longbench_v2", LONG | {"answer": "E"}, "record 2: answer"),
        ("longbench_v2", LONG | {"difficulty": "medium"}, "record 2: difficulty"),
        ("longbench_v2", {k: v for k, v in LONG.items() if k != "context"}, "record 2: context"),
        ("longbench_v2", LONG, "'a1' stands twice"),
        ("gpqa_diamond", {k: v for k, v in GATED.items() if k != "Incorrect Answer 3"}, "record 2: Incorrect Answer 3"),
        ("gpqa_diamond", GATED | {"Question": ""}, "record 2: Question"),
        ("mmlu_pro", SMALL | {"question_id": 1, "answer": "C"}, "'C' is no letter of its 2 options"),
        ("mmlu_pro", SMALL | {"question_id": 1, "options": []}, "record 2: options"),
        ("aime24", {"question": "Q", "answer": "1000"}, "record 2: answer.*'1000'"),
        ("aime24", {"question": "Q", "answer": None}, "record 2: answer"),
        ("aime24", {"answer": "7"}, "record 2: question"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(name: str, record: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        find(name).load(lines(tmp_path / "f.jsonl", RECORDS[name], record), None)


@pytest.mark.parametrize("name", RECORDS)
def test_ten_megabytes_of_anything_are_scored(name: str, tmp_path: Path) -> None:
    (item,) = find(name).load(lines(tmp_path / "f.jsonl", RECORDS[name]), None)
    text = "".join(unit * (1_000_000 // len(unit)) for unit in HOSTILE)
    start = time.process_time()
    for response in (text, text + "<think>", "\0\ud800" + text[-1_000_000:]):
        assert all(0.0 <= value <= 1.0 for value in item.score(response).values())
    # A rule that takes the square of this length takes hours.
    assert time.process_time() - start < 60


@pytest.mark.parametrize("name", SAYS)
def test_thinking_is_never_an_answer(name: str, tmp_path: Path) -> None:
    record, gold, other = {
        "longbench_v2": (LONG, "A", "B"),
        "gpqa_diamond": (GATED, "ABCD"[gpqa_diamond.order("synthetic1", 0).index(0)], None),
        "mmlu_pro": (SMALL, "A", "B"),
        "aime24": ({"question": "Q", "answer": "007"}, "7", "8"),
    }[name]
    (item,) = find(name).load(lines(tmp_path / "f.jsonl", record), None)
    right = SAYS[name].format(gold)
    wrong = SAYS[name].format(other or "ABCD"["BCDA".index(gold)])
    assert item.score(right)["accuracy"] == 1.0
    assert item.score(f"<think>\n{wrong}\n</think>\n\n{right}")["accuracy"] == 1.0
    assert item.score(f"{wrong}\n</think>\n\n{right}")["accuracy"] == 1.0
    for response in (f"<think>\n{right}\n</think>\n\n{wrong}", f"<think>\n{right}", f"{wrong}\n{right[:3]}", ""):
        assert item.score(response)["accuracy"] == 0.0, response
    assert item.score(f"<think>\n{right}")["unextracted"] == 1.0
    assert set(item.score(right)) == set(find(name).rules)


def test_a_letter_in_another_form_is_counted_apart(tmp_path: Path) -> None:
    (item,) = find("longbench_v2").load(lines(tmp_path / "f.jsonl", LONG), None)
    assert item.score(r"\boxed{A}") == {"accuracy": 0.0, "official": 0.0, "lenient": 1.0, "unextracted": 1.0}
    assert item.score("The correct answer is (B)") == {
        "accuracy": 0.0,
        "official": 0.0,
        "lenient": 0.0,
        "unextracted": 0.0,
    }
