"""LongBench-V1 QA, Frames and CorpusQA: records, rules, prompts, what hostile text and copied documents score."""

from __future__ import annotations

import csv
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.corpusqa import official_answer
from qwenlong.evaluation.interface import Item
from qwenlong.evaluation.registry import find
from qwenlong.evaluation.rules import cover_em
from qwenlong.evaluation.rules.token_f1 import best_f1, normalise, token_f1
from qwenlong.rewards.rules import covers

FRAMES = Path(__file__).parents[2] / "data" / "benchmarks" / "frames" / "frames_824_question_answer.jsonl"
PARITY = Path(__file__).parents[2] / "parity" / "corpusqa"
ANSWER = "<think>\nso\n</think>\n\nTherefore, the answer is "
#: Synthetic records of the published schemas.
LONGBENCH = {
    "_id": "0a", "dataset": "hotpotqa", "input": "Who kept the mill?", "answers": ["Ada Lovelace", "Ada"],
    "context": "Ada kept the mill by the river. " * 40, "length": 300, "language": "en", "all_classes": None,
}  # fmt: skip
CORPUS = {
    "id": "financial_en_7",
    "prompt": [
        {"role": "system", "content": "You analyse documents."},
        {
            "role": "user",
            "content": "# Document 1:\nAlpha has 12 shops.\n\n" + "# Document 2:\nBeta has 3 shops.\n\n" * 60
            + "# Question:\nWhich firms have more than 10 shops?\n\nOutput requirements:\nThe answer is: xxx",
        },
    ],
    "question": "Which firms have more than 10 shops?",
    "answer": ["Alpha", "Gamma"],
}  # fmt: skip


def items(tmp_path: Path, name: str, *records: dict[str, Any]) -> list[Item]:
    """The items of records, read from a file."""
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return list(find(name).load(path, None))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A small tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("answer", "gold", "strict", "loose"),
    [
        ("Paris", "paris", True, True),
        ("It is the Eiffel Tower.", "Eiffel Tower", True, True),
        ("Eiffel", "The Eiffel Tower", False, True),
        ("The", "The Hague", False, False),
        ("The The", "the the", True, True),
        ("1912", "1", False, False),
        ("Nolan", "no", False, False),
        ("1,225 dollars", "$1225", True, True),
        ("3.5", "3", False, False),
        ("[]", "[]", False, False),
        ("Alpha", "[]", False, False),
        ("Alpha", "", False, False),
        ("...", "Alpha", False, False),
        ("....-", "....-", True, True),
        ("...-", "....-", False, False),
        ("中信国安、奋达科技", '["中信国安", "奋达科技"]', True, True),
    ],
)
def test_cover_em(answer: str, gold: str, strict: bool, loose: bool) -> None:
    """Whole words, an empty side never."""
    assert cover_em.match(answer, [gold]) == (strict, loose)
    assert cover_em.match(answer, ["something else", gold]) == (strict, loose)


WORDS = st.lists(st.sampled_from(["a", "the", "Ada", "3", "3.5", "C++", "-", "no", "Nolan"]), max_size=6).map(" ".join)


@settings(max_examples=200)
@given(WORDS, WORDS)
def test_cover_em_is_the_cover_rule_of_the_rewards(answer: str, gold: str) -> None:
    """One meaning of "covers" in training and evaluation, for golds with words."""
    if any(map(str.isalnum, gold)):
        strict = covers(answer, gold)
        other = covers(gold, answer) and not set(answer.split()) <= {"a", "the", "-"}
        assert cover_em.match(answer, [gold]) == (strict, strict or other)


@settings(max_examples=200)
@given(st.text(max_size=60), st.text(max_size=60))
def test_strict_is_within_loose_and_loose_has_no_sides(answer: str, gold: str) -> None:
    """What strict matches loose does too; below the bounds loose is the same from either side."""
    strict, loose = cover_em.match(answer, [gold])
    assert strict <= loose
    sides = [cover_em.normalise(text) for text in (answer, gold)]
    if not any(len(side) > 40 or set(side) <= {"a", "an", "the"} for side in sides):
        assert loose == cover_em.match(gold, [answer])[1]


def test_an_answer_may_be_long_only_where_its_gold_is() -> None:
    """40 words, or twice the gold; a whole document as marked answer, boxed or bare matches nothing."""
    filler = " ".join(f"w{n}" for n in range(39))
    assert cover_em.match(f"{filler} gold", ["gold"])[0]
    assert not cover_em.match(f"{filler} one gold", ["gold"])[1]
    long = " ".join(f"g{n}" for n in range(60))
    assert cover_em.match(f"{filler} {long}", [long])[0]
    assert not cover_em.match(f"{filler} {filler} {long}", [long])[0]
    document = "The town lies on a river. " * 400 + "Its mayor is Ada. " + "It has a mill. " * 400
    for response in (document, f"Therefore, the answer is {document}", f"\\boxed{{{document}}}"):
        assert cover_em.score(response, ["Ada"]) == {"cover_em_strict": 0.0, "cover_em_loose": 0.0}
        assert not cover_em.asks(response, "Who?", ["Ada"])
    # Between the bounds of words and characters the judge decides.
    asked = cover_em.asks("Therefore, the answer is " + "a long way of saying it " * 20, "Who?", ["Ada"])
    assert len(asked["judge"].answer) == len("a long way of saying it " * 20) - 1


def test_the_judge_sees_all_lines_of_an_answer_and_nothing_else() -> None:
    """A list over several lines is one answer; thinking is none of it."""
    asked = cover_em.asks("<think>Rome?</think>I looked. The answer is:\n- Alpha\n- Beta", "Which?", ["Alpha, Beta"])
    assert asked["judge"].answer == "- Alpha\n- Beta" and asked["judge"].criterion == "equivalence"
    assert not cover_em.asks("<think>Therefore, the answer is Beta", "Which?", ["Alpha"])
    assert not cover_em.asks("Therefore, the answer is Alpha", "Which?", ["Alpha"])
    assert cover_em.judged({"cover_em_strict": 0.0}, {"judge": True}) == {"judge": 1.0, "paper": 1.0}
    assert cover_em.judged({"cover_em_strict": 0.0}, {"judge": None}) == {"judge": 0.0, "paper": 0.0}
    assert cover_em.judged({"cover_em_strict": 1.0}, {}) == {"judge": 0.0, "paper": 1.0}


def test_token_f1() -> None:
    """The published arithmetic, by hand: 2 of 3 words, 2 of 2."""
    assert normalise("The U.S.  cat's 3.5, “a” dog-house") == ["us", "cats", "35", "“", "”", "doghouse"]
    assert token_f1(["big", "red", "cat"], ["red", "cat"]) == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert token_f1([], ["x"]) == token_f1(["x"], []) == best_f1("x", []) == 0.0
    assert best_f1("the red cat", ["dog", "red cat"]) == 1.0


def test_real_frames() -> None:
    """824 questions load; every gold scores 1, every other item's gold next to nothing, a copy of the question too."""
    found = list(find("frames").load(FRAMES, None))
    assert len(found) == 824 and found[3].id == "wiki____3"
    golds = [item.golds[0] for item in found]  # type: ignore[attr-defined]
    right = [item.score(ANSWER + gold) for item, gold in zip(found, golds, strict=True)]
    assert {row["cover_em_strict"] for row in right} == {row["cover_em_loose"] for row in right} == {1.0}
    # The official rule cannot match a gold without words, "....-".
    assert sum(row["official"] for row in right) == 823
    shifted = [item.score(ANSWER + gold) for item, gold in zip(found, golds[1:] + golds[:1], strict=True)]
    assert sum(row["cover_em_strict"] for row in shifted) <= 2
    assert not any(item.score(text)["cover_em_loose"] for item in found for text in ("", "Therefore, the answer is"))


def test_frames_schemas(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Google's TSV with the documents beside it, and the records that hold them."""
    record = {"Prompt": "Who kept the mill? ", "Answer": "Ada", "wiki_items": [{"title": "Mill", "text": "Ada did."}]}
    (item,) = items(tmp_path, "frames", record)
    assert item.id == "0" and item.problem()[2] == "Mill\nAda did."
    assert "Ada did." in item.messages(tokenizer, 1000)[0]["content"]
    table = tmp_path / "test.tsv"
    with table.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerows([["Prompt", "Answer", "wiki_links"], ["Who kept the mill?", "Ada", "[]"]])
    (bare,) = find("frames").load(table, None)
    assert bare.score(ANSWER + "Ada")["official"] == 1.0
    with pytest.raises(DataError, match="question 0 has no documents.*Tongyi-Zhiwen/frames"):
        bare.messages(tokenizer, 1000)
    (joined,) = find("frames").load(table, tmp_path / "frames.jsonl")
    assert joined.problem() == item.problem()
    (tmp_path / "frames.jsonl").write_text(json.dumps(record | {"Prompt": "Another?"}))
    with pytest.raises(DataError, match="no documents for 1 questions"):
        find("frames").load(table, tmp_path / "frames.jsonl")


def test_longbench_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """One file, the folder of five, data.zip; other datasets are left out; several golds, the best counts."""
    records = [LONGBENCH | {"_id": name, "dataset": name} for name in find("longbench_v1_qa").groups]
    one = items(tmp_path, "longbench_v1_qa", *records, LONGBENCH | {"_id": "t", "dataset": "trec"})
    assert [item.group for item in one] == list(find("longbench_v1_qa").groups)
    folder = tmp_path / "data"
    folder.mkdir()
    for record in records:
        (folder / f"{record['dataset']}.jsonl").write_text(json.dumps(record))
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"data/{file.name}")
    for path in (folder, tmp_path / "data.zip"):
        assert list(find("longbench_v1_qa").load(path, None)) == one
    scores = one[0].score(ANSWER + "Ada")
    assert scores["f1"] == scores["cover_em_strict"] == 1.0 and scores["official"] == pytest.approx(2 / 5)
    prompt = one[4].messages(tokenizer, 150)[0]["content"]
    assert tokenizer.count_chat([{"role": "user", "content": prompt}]) <= 150
    assert "Who kept the mill?" in prompt and "unanswerable" in prompt and "\n...\n" in prompt
    (folder / "qasper.jsonl").unlink()
    with pytest.raises(DataError, match=r"lacks qasper\.jsonl"):
        find("longbench_v1_qa").load(folder, None)
    with pytest.raises(DataError, match="data.zip"):
        (tmp_path / "data.zip").write_bytes(b"PK")
        find("longbench_v1_qa").load(tmp_path / "data.zip", None)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [(["a", "b"], '["a", "b"]'), ([], "[]"), ("[]", "[]"), (282.0, "282"), (3.25, "3.25"), (7, "7"), ("x", "x")],
)
def test_corpusqa_golds(tmp_path: Path, answer: Any, gold: str) -> None:
    """Numbers, texts and lists; an empty list is matched by nothing and asked of the judge."""
    (item,) = items(tmp_path, "corpusqa", CORPUS | {"answer": answer})
    assert item.golds == (gold,) and item.group == "financial_en"  # type: ignore[attr-defined]
    response = f"<think>x</think>\n\nThe answer is: {gold}"
    assert item.score(response)["cover_em_strict"] == float(gold != "[]")
    asked = item.asks(response)
    assert asked["official"].answer == gold and asked["official"].criterion == "corpusqa"
    assert ("judge" in asked) == (gold == "[]")
    values = item.judged(item.score(response), {"official": True, "judge": True})
    assert values["paper"] == values["official"] == 1.0


def test_corpusqa_prompt_keeps_the_question(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The published chat as it is; cut in the middle of the documents; split for the agent."""
    (item,) = items(tmp_path, "corpusqa_1m", CORPUS)
    whole = item.messages(tokenizer, 100_000)
    assert whole == CORPUS["prompt"]
    cut = item.messages(tokenizer, 200)
    assert tokenizer.count_chat(cut) <= 200 and cut[0] == whole[0]
    assert cut[1]["content"].endswith(whole[1]["content"].partition("# Question:\n")[2])
    assert cut[1]["content"].startswith("# Document 1:") and "\n...\n" in cut[1]["content"]
    question, instruction, text = item.problem()
    assert question.startswith("Which firms") and "Output requirements" in question
    assert "The answer is: " in instruction
    assert text.startswith("# Document 1:") and "Which firms" not in text and text.count("Beta") == 60
    with pytest.raises(DataError, match="financial_en_7: the question alone"):
        item.messages(tokenizer, 20)


@pytest.mark.parametrize("layout", ["{q}\n{d}", "{d}\n{q}\nShort.", "{q}\n{d}\n{q}", "{d}"])
def test_corpusqa_layouts(tmp_path: Path, tokenizer: Tokenizer, layout: str) -> None:
    """Wherever the question stands, and where the chat does not have it, a cut prompt does."""
    content = layout.format(q="What is asked?", d="# Document 1:\nText of it. " * 100)
    prompt = [{"role": "user", "content": content}]
    (item,) = items(tmp_path, "corpusqa", CORPUS | {"question": "What is asked?", "prompt": prompt})
    cut = item.messages(tokenizer, 150)[0]["content"]
    assert cut.count("What is asked?") == max(layout.count("{q}"), 1)
    assert item.problem()[2].count("Text of it.") == 100 and "What is asked?" not in item.problem()[2]


def test_corpusqa_official_answer() -> None:
    """One line behind the first sentence, case counts; else all, of too much the end; a document on a line is none."""
    assert official_answer("The answer is: [A]\nThe answer is: [B]", 99) == "[A]"
    assert official_answer("the answer is: A", 99) == "the answer is: A"
    assert official_answer("x" * 50 + " so it is 7", 5) == "is 7"
    assert official_answer("The answer is: " + "word " * 50, 99) == ""
    assert official_answer("<think>The answer is: 3", 99) == ""


def test_corpusqa_asks_what_the_published_script_extracts(tmp_path: Path) -> None:
    """Of every parity case: `answer` is what the script took, or ours where the case says that it differs."""
    cases = [json.loads(line) for line in (PARITY / "cases.jsonl").read_text(encoding="utf-8").split("\n") if line]
    for case in cases:
        (item,) = items(tmp_path, "corpusqa", case["record"])
        asked = item.asks(case["response"])
        assert (asked["official"].answer if "official" in asked else "") == case["answer"], case["id"]


@pytest.mark.parametrize("name", ["frames", "longbench_v1_qa", "corpusqa"])
@pytest.mark.parametrize(
    ("record", "message"),
    [({}, "record 2"), ({"x": 1}, "record 2"), ({"prompt": "[", "_id": 3}, "record 2"), ("{", "line 2: is not JSON")],
)
def test_wrong_records(tmp_path: Path, name: str, record: Any, message: str) -> None:
    """A record at fault is named."""
    good = {"frames": {"Prompt": "Q?", "Answer": "A"}, "longbench_v1_qa": LONGBENCH, "corpusqa": CORPUS}[name]
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(good)}\n{record if isinstance(record, str) else json.dumps(record)}\n")
    with pytest.raises(DataError, match=message):
        find(name).load(path, None)


def test_an_id_twice(tmp_path: Path) -> None:
    """Two records of one id are refused."""
    with pytest.raises(DataError, match="'0a' stands twice"):
        items(tmp_path, "longbench_v1_qa", LONGBENCH, LONGBENCH)


SIZE = 10_000_000
HOSTILE = {
    "marked copy": "Therefore, the answer is " + "x y " * (SIZE // 4),
    "open thinking": "<think>" + "the answer is a " * (SIZE // 16),
    "blanks": "therefore the" + "\t" * SIZE + "answer is",
    "marks": "a" + "\u0301" * (SIZE // 2),
    "surrogates": "\ud800" * (SIZE // 3),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_ten_megabytes_of_anything(tmp_path: Path, kind: str) -> None:
    """No rule raises, or takes more than a few passes: a quadratic one would take hours."""
    response = HOSTILE[kind]
    (frames,) = items(tmp_path, "frames", {"Prompt": "Q?", "Answer": "a"})
    (longbench,) = items(tmp_path, "longbench_v1_qa", LONGBENCH)
    (corpus,) = items(tmp_path, "corpusqa", CORPUS)
    start = time.process_time()
    for values in (frames.score(response), longbench.score(response)):
        assert values["cover_em_strict"] == values["cover_em_loose"] == 0.0
    assert all(len(ask.answer) <= 2000 for ask in corpus.asks(response).values())
    assert time.process_time() - start < 60


@settings(max_examples=100)
@given(st.text())
def test_no_response_raises(response: str) -> None:
    """Any text has values in [0, 1]."""
    values = cover_em.score(response, ["Ada", "[]", ""])
    assert set(values.values()) <= {0.0, 1.0}
    assert 0.0 <= best_f1(response, ["Ada", "", "a"]) <= 1.0
    cover_em.asks(response, "Q?", ["Ada"])
    official_answer(response, 10)
