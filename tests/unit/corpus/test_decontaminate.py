"""Benchmark questions are found in whatever dress they come; clean texts stay."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.config import BenchmarkTexts
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import write_jsonl
from qwenlong.corpus import decontaminate

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sentence(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(LETTERS, k=rng.randint(2, 8))) for _ in range(count)]


def dressed(rng: random.Random, text: list[str]) -> str:
    """Return the words with other case, punctuation and spacing."""
    out = ""
    for word in text:
        word = rng.choice([word, word.upper(), word.title(), f"“{word}”", f"**{word}**", f"_{word}_"])
        out += word + rng.choice([" ", "  ", "\n", ", ", " – ", "; ", "\u00a0", "\t- "])
    return out + rng.choice(["", "?", " …"])


@pytest.fixture(scope="module")
def planted():
    """50 questions of 4 to 40 words, and an index of them in two benchmarks."""
    rng = random.Random(3)
    questions = [sentence(rng, 4 + n * 36 // 49) for n in range(50)]
    asked = [" ".join(question).capitalize() + "?" for question in questions]
    return questions, decontaminate.index({"first": (asked[:30], []), "second": (asked[20:], [])})


def test_fifty_contaminated_questions_are_all_caught_and_clean_ones_kept(planted):
    questions, index = planted
    rng = random.Random(4)
    clean = [(f"clean{n}", " ".join(sentence(rng, rng.randint(3, 60)))) for n in range(2000)]
    alone = [(f"alone{n:02d}", dressed(rng, question)) for n, question in enumerate(questions)]
    inside = [
        (f"inside{n:02d}", dressed(rng, sentence(rng, 30) + question + sentence(rng, 30)))
        for n, question in enumerate(questions)
    ]
    kept, dirty, counts = decontaminate.questions([*clean, *alone, *inside], index)
    assert kept == [name for name, _ in clean]
    assert set(dirty) == {name for name, _ in [*alone, *inside]}
    assert counts == {"first": 60, "second": 60}
    assert dirty["alone25"] == ("first", "second")


def test_documents_that_hold_a_question_of_eight_words_or_a_run_of_thirteen(planted):
    questions, index = planted
    rng = random.Random(5)
    for question in questions:
        text = dressed(rng, sentence(rng, 500) + question + sentence(rng, 500))
        assert bool(index.document(text)) == (len(question) >= decontaminate.SHORTEST_IN_DOCUMENT), question
    long = questions[-1]
    assert index.document(" ".join([*sentence(rng, 9), *long[5:18], *sentence(rng, 9)])) == ("second",)
    assert index.document(" ".join([*sentence(rng, 9), *long[5:17], *sentence(rng, 9)])) == ()


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("Who founded the U.S. mint in 1,792?", "WHO founded the US mint in 1792"),
        ("What don't they say?", "what dont THEY say"),
        ("Who is Émile’s aunt?", "who is émiles aunt"),
        ("Where is the ﬁnal oﬃce?", "Where is the final office?"),
        ("谁是2020年的获奖者？", "谁 是 2020 年 的 获奖者"),
        ("What is the co\u00adlour of the sky\u200b?", "what is the colour of the sky"),
    ],
)
def test_whole_questions_in_another_dress(known, asked):
    index = decontaminate.index({"b": ([known], [])})
    assert index.question(asked) == ("b",)


def test_short_answers_do_not_count_long_ones_do():
    answer = "the treaty was signed by all nine members after a long night of talks in Vienna"
    index = decontaminate.index({"b": (["Who signed?"], ["the European Union of states here", answer])})
    assert index.question("Is the European Union of states here?") == ()
    assert index.question(f"As we know, {answer}.") == ("b",)
    assert index.question("Who signed?") == ("b",)
    # Two words are no evidence inside another question.
    assert index.question("Say who signed it") == ()


@pytest.mark.parametrize("text", ["", " ", "?!", "\ud800", "word"])
def test_empty_things(text):
    index = decontaminate.index({"b": (["", "!?"], [""]), "none": ([], [])})
    assert index.question(text) == index.document(text) == ()


def test_files_of_three_kinds_and_nested_fields(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = json.dumps([{"role": "user", "content": "Write the second poem about rivers of the far north"}])
    rows = [{"q": chat, "options": ["the first of all the many options here", "b"], "a": "yes"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for suffix in ("jsonl", "json", "parquet"):
        setting = BenchmarkTexts(name="m", path=str(tmp_path / f"a.{suffix}"), fields=("q", "options"), answers=("a",))
        index = decontaminate.read([setting])
        assert index.question("Please write the second poem about rivers of the far north!") == ("m",)
        assert index.question("the first of all the many options here") == ("m",)
        assert index.question("yes") == index.question("content") == ()
        index.save(tmp_path / "index.npz")
        again = decontaminate.Index.load(tmp_path / "index.npz")
        assert again.names == ("m",)
        assert again.question("b") == index.question("b") == ("m",)


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("a.jsonl", None, DataError, r"a.jsonl \(b\)"),
        ("a.txt", "q", DataError, "ends in .txt"),
        ("a.jsonl", "{", DataError, "cannot be read"),
        ("a.jsonl", "[1]", DataError, "line 1 is list"),
        ("a.json", "{}", DataError, "dict, not a list"),
        ("a.jsonl", "", DataError, "holds no record"),
        ("a.parquet", "no", DataError, "cannot be read"),
        ("a.jsonl", '{"question": "x"}', ConfigError, "has the field q"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, content, error, match):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=match):
        decontaminate.read([BenchmarkTexts(name="b", path=str(tmp_path / name), fields=("q",))])


def test_a_name_stands_once(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"q": "x"}])
    setting = BenchmarkTexts(name="b", path=str(tmp_path / "a.jsonl"), fields=("q",))
    with pytest.raises(ConfigError, match="stands twice"):
        decontaminate.read([setting, setting])


@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=60), max_size=6), st.text(alphabet="ab ", max_size=120))
@settings(deadline=None)
def test_runs_are_those_of_a_plain_search(known, text):
    index = decontaminate.index({"b": (known, [])})
    asked = text.split()
    expected = False
    for question in (question.split() for question in known):
        expected |= "".join(question) == "".join(asked) and bool(asked)
        length = min(len(question), decontaminate.NGRAM)
        if length >= decontaminate.SHORTEST_IN_QUESTION:
            own = {tuple(question[n : n + length]) for n in range(len(question) - length + 1)}
            expected |= any(tuple(asked[n : n + length]) in own for n in range(len(asked) - length + 1))
    assert bool(index.question(text)) == expected
