"""RULER's tasks: prompts of a given length whose answers are right by construction, the rule, the sweep, the report."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needle_helpers import NANO, prose, tokenizer
from typer.testing import CliRunner

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import write_jsonl
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.ruler import RulerItem
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.registry import find
from qwenlong.evaluation.ruler import draft, suite
from qwenlong.evaluation.ruler.filler import Prose, sentences
from qwenlong.evaluation.ruler.sources import Sources, prose_of_file, read_hotpotqa, read_squad
from qwenlong.evaluation.ruler.suite import RulerRecord

LENGTHS = (1024, 1800)


def squad() -> dict[str, Any]:
    """Return questions in the form of SQuAD 2.0, synthetic."""
    paragraphs = [
        {
            "context": f"The bridge of town {n} is {100 + n} metres long. " + prose(6, n),
            "qas": [
                {
                    "question": f"How long is the bridge of town {n}?",
                    "is_impossible": False,
                    "answers": [{"text": f"{100 + n} metres"}, {"text": f"{100 + n} metres"}],
                },
                {"question": "Who?", "is_impossible": True, "answers": []},
            ],
        }
        for n in range(60)
    ]
    return {"data": [{"title": "Bridges", "paragraphs": paragraphs}]}


def hotpotqa() -> list[dict[str, Any]]:
    """Return questions in the form of HotpotQA, synthetic."""
    return [
        {
            "question": f"Who built the mill of the town where person {n} was born?",
            "answer": f"Builder {n}",
            "context": [
                [f"Person {n}", [f"Person {n} was born in town {n}."]],
                [f"Town {n}", [f"The mill of town {n} is by Builder {n}. ", prose(3, n)]],
            ],
        }
        for n in range(60)
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "squad.json").write_text(json.dumps(squad()))
    (folder / "hotpot.json").write_text(json.dumps(hotpotqa()))
    questions = {"squad": read_squad(folder / "squad.json"), "hotpotqa": read_hotpotqa(folder / "hotpot.json")}
    return Sources(Prose(sentences(prose())), questions)


@pytest.fixture(scope="module")
def records(sources: Sources) -> list[RulerRecord]:
    return list(suite.generate((), LENGTHS, 2, 5, tokenizer(), sources))


def _context(record: RulerRecord) -> str:
    return record.input[slice(*record.context)]


def test_every_prompt_fills_its_length(records: list[RulerRecord]) -> None:
    assert [record.id for record in records] == [
        f"{task}-{length}-{n}" for task in suite.TASKS for length in LENGTHS for n in range(2)
    ]
    assert len(suite.TASKS) == 13
    for record in records:
        found = tokenizer().count_chat([{"role": "user", "content": record.input}])
        assert found == record.n_tokens and 0.95 * record.length <= found <= record.length, record.id
        assert record.question in record.input and record.instruction in record.input
        assert len({output.lower() for output in record.outputs}) == len(record.outputs)
        assert all(0 <= depth <= 1 for depth in record.depths) and record.depths


def test_needles_stand_once_at_their_depth(records: list[RulerRecord]) -> None:
    expected = {"niah_multivalue": 4, "niah_multiquery": 4}
    for record in (r for r in records if r.task.startswith("niah")):
        text = _context(record)
        assert len(record.outputs) == len(record.depths) == expected.get(record.task, 1)
        places = []
        for output in record.outputs:
            assert text.count(output) == 1
            places.append(text.rindex("Take note", 0, text.index(output)))
        assert sorted(round(place / len(text), 4) for place in places) == list(record.depths)
        # The keys of the question are those of the outputs.
        keys = re.findall(r"belongs to (\S+) is (\S+)\.", text)
        asked = {key for key, value in keys if value in record.outputs}
        assert all(key in record.question for key in asked)
        assert {value for key, value in keys if key in asked} == set(record.outputs)
        assert len({key for key, _ in keys}) == len(keys) - (3 if record.task == "niah_multivalue" else 0)


def test_variables_words_and_codes_are_counted_right(records: list[RulerRecord]) -> None:
    for record in records:
        text = _context(record)
        if record.task == "vt":
            values: dict[str, str] = {}
            for name, given_ in re.findall(r"LET (\w+) = (\w+)", text):
                values[name] = values.get(given_, given_)
            asked = re.search(r"\d{5}", record.question)
            assert asked is not None
            assert {name for name, value in values.items() if value == asked[0]} == set(record.outputs)
            assert len(record.outputs) == 5
        elif record.task in ("cwe", "fwe"):
            words = re.findall(r"\d+\. (\S+)", text) if record.task == "cwe" else text.replace("...", " ").split()
            count = {"cwe": 10, "fwe": 3}[record.task]
            ranked = Counter(words).most_common(count + 1)
            assert {word for word, _ in ranked[:count]} == set(record.outputs)
            assert ranked[count - 1][1] > ranked[count][1], "the last word asked for is no more frequent than the next"


def test_questions_are_answered_in_their_paragraph(records: list[RulerRecord]) -> None:
    for record in (r for r in records if r.task.startswith("qa")):
        text = _context(record)
        paragraphs = text.split("\n\n")
        holding = [p for p in paragraphs if record.outputs[0] in p]
        assert len(holding) == 1 and len(paragraphs) > 3
        assert [p.split("\n")[0] for p in paragraphs if p.startswith("Paragraph")] == [
            f"Paragraph {n}" for n in range(1, sum(p.startswith("Paragraph") for p in paragraphs) + 1)
        ]


def test_an_item_depends_on_its_name_and_seed_alone(records: list[RulerRecord], sources: Sources) -> None:
    (again,) = list(suite.generate(["vt"], [1800], 1, 5, tokenizer(), sources))
    assert again == next(r for r in records if r.id == "vt-1800-0")
    (other,) = list(suite.generate(["vt"], [1800], 1, 6, tokenizer(), sources))
    assert other.outputs != again.outputs
    assert len({record.input for record in records}) == len(records)


def test_a_tokenizer_without_chat_template_counts_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((NANO / "tokenizer.json").read_bytes())
    bare = Tokenizer(tmp_path)
    (record,) = list(suite.generate(["niah_single_1"], [600], 1, 5, bare))
    assert record.n_tokens == bare.count(record.input) <= 600 and record.n_tokens >= 570


def test_what_does_not_fit_or_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"niah_single_1-10-0: needs \d+ tokens without any filler, more than 10"):
        list(suite.generate(["niah_single_1"], [10], 1, 5, tokenizer()))
    with pytest.raises(DataError, match="give --essays FILE"):
        list(suite.generate(["niah_single_2"], [800], 1, 5, tokenizer()))
    with pytest.raises(DataError, match=r"dev-v2\.0\.json of SQuAD 2\.0 .* give --squad FILE"):
        list(suite.generate(["qa_1"], [800], 1, 5, tokenizer()))
    with pytest.raises(UsageError, match="no RULER task 'niah'; there are niah_single_1, "):
        list(suite.generate(["niah"], [800], 1, 5, tokenizer()))
    (tmp_path / "squad.json").write_text('{"data": [{"paragraphs": [{"context": "x"}]}]}')
    with pytest.raises(DataError, match=r"squad\.json is not in the form of dev-v2"):
        read_squad(tmp_path / "squad.json")
    (tmp_path / "hotpot.json").write_text("[]")
    with pytest.raises(DataError, match=r"hotpot\.json holds no question"):
        read_hotpotqa(tmp_path / "hotpot.json")
    (tmp_path / "essay.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"essay\.txt is not UTF-8 \(byte 3\)"):
        prose_of_file(tmp_path / "essay.txt")
    (tmp_path / "essay.txt").write_text(" \n")
    with pytest.raises(DataError, match="there is no prose"):
        prose_of_file(tmp_path / "essay.txt")


def test_too_little_to_fill_with_is_refused(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": squad()["data"][0]["paragraphs"][:2]}]}))
    few = Sources(questions={"squad": read_squad(tmp_path / "squad.json")})
    # Two paragraphs: the refrain fills what they leave.
    (record,) = list(suite.generate(["qa_1"], [3000], 1, 5, tokenizer(), few))
    assert record.n_tokens >= 2850


@settings(max_examples=60)
@given(st.integers(0, 399), st.integers(0, 9000))
def test_prose_gives_so_many_words_from_any_place(start: int, words: int) -> None:
    text = Prose(sentences(prose()))
    every = prose().split()
    before = sum(len(sentence.split()) for sentence in sentences(prose())[:start])
    endless = every * 6
    assert " ".join(text.take(start, words)).split() == endless[before : before + words]


def test_gold_scores_one_in_any_case_and_a_part_its_share(records: list[RulerRecord], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", records)
    for item in find("ruler").load(tmp_path / "r.jsonl", None):
        assert isinstance(item, RulerItem)
        outputs = item.record.outputs
        assert item.score(" and ".join(outputs[::-1]).upper()) == {"official": 1.0, "bounded": 1.0}
        share = 1.0 if item.group in ("qa_1", "qa_2") else 1 / len(outputs)
        assert item.score(f"<think>x</think> {outputs[0]}") == {"official": share, "bounded": share}
        assert item.score("") == item.score("<think>" + " ".join(outputs)) == {"official": 0.0, "bounded": 0.0}
        question, instruction, text = item.problem()
        assert question in item.record.input and instruction in item.record.input and text == _context(item.record)
        (message,) = item.messages(tokenizer(), 100_000)
        assert message == {"role": "user", "content": item.record.input}
        if item.id.endswith("1024-1"):
            (cut,) = item.messages(tokenizer(), 800)
            assert cut["content"].endswith(f"{question}\n{instruction}") and tokenizer().count_chat([cut]) <= 800
        assert item.slices[:2] == (f"length {item.record.length}", f"{item.group} at {item.record.length}")
        assert len(item.slices) == 2 + (len(item.record.depths) == 1)


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_no_response_raises(text: str) -> None:
    record = RulerRecord(
        id="x", task="vt", length=9, n_tokens=9, input="abc", outputs=("ab", text or "z"), context=(0, 1),
        question="", instruction="",
    )  # fmt: skip
    item = RulerItem("x", "vt", record)
    assert all(0 <= item.score(given_)["official"] <= 1 for given_ in (text, "<think>" + text, text * 1000))


def test_to_copy_the_text_pays_by_the_official_rule_alone(sources: Sources) -> None:
    found = []
    for record in suite.generate(["niah_single_2", "niah_multikey_2"], [4096], 12, 5, tokenizer(), sources):
        values = RulerItem(record.id, record.task, record).score(record.input)
        ends = record.input.index(record.outputs[0]) + len(record.outputs[0])
        # The first thousand of about twelve thousand characters.
        assert values == {"official": 1.0, "bounded": float(ends <= 8 * 128)}
        found.append(values["bounded"])
    assert sum(found) / len(found) < 0.25


def test_the_sweep_and_its_report(tmp_path: Path) -> None:
    out, again = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    (tmp_path / "essay.txt").write_text(prose())
    arguments = ["ruler", "--lengths", "500,900", "--tokenizer", str(NANO), "--n", "3", "--seed", "4"]
    arguments += ["--tasks", "niah_single_1, niah_multivalue", "--essays", str(tmp_path / "essay.txt"), "--out"]
    done = CliRunner().invoke(app, [*arguments, str(out)])
    assert done.exit_code == 0 and "12 items of 2 tasks at 2 lengths" in done.output, done.output
    assert CliRunner().invoke(app, [*arguments, str(again)]).exit_code == 0
    assert out.read_bytes() == again.read_bytes()
    items = find("ruler").load(out, None)
    predictions = []
    for item in items:
        assert isinstance(item, RulerItem)
        half = item.record.outputs[: max(1, len(item.record.outputs) // 2)]
        predictions.append(
            {"id": item.id, "response": ", ".join(half), "finish_reason": "stop", "n_prompt_tokens": 1,
             "n_response_tokens": 1, "model": "m", "error": "gone" if item.id == "niah_single_1-900-0" else None}
        )  # fmt: skip
    write_jsonl(tmp_path / "p.jsonl", predictions[:-1])
    asked = ["ruler-report", "--examples", str(out), "--predictions", str(tmp_path / "p.jsonl")]
    printed = CliRunner().invoke(app, asked)
    assert printed.exit_code == 0, printed.output
    rows = {line.split(" | ")[0].strip("| "): line for line in printed.output.splitlines() if line.startswith("|")}
    assert rows["niah_single_1"] == "| niah_single_1 | 100.0 (3) | 66.7 (3) |"
    assert rows["niah_multivalue"] == "| niah_multivalue | 50.0 (3) | 33.3 (3) |"
    assert rows["mean of tasks"] == "| mean of tasks | 75.0 | 50.0 |"
    assert any(name.endswith("%") for name in rows)
    assert CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "r.md")]).exit_code == 0
    assert (tmp_path / "r.md").read_text().strip() == printed.output.strip()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--lengths", "4k"], "'4k' are no token counts"),
        (["--lengths", "500", "--tasks", "needle"], "no RULER task 'needle'"),
        (["--lengths", "500", "--essays", "a", "--documents", "b"], "give one of them"),
    ],
)
def test_wrong_usage_of_the_sweep(extra: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ruler", *extra, "--tokenizer", str(NANO), "--out", str(tmp_path / "x.jsonl")])
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert not (tmp_path / "x.jsonl").exists()


def test_a_file_of_something_else_is_refused(records: list[RulerRecord], tmp_path: Path) -> None:
    values = [record.model_dump(mode="json") for record in records[:2]]
    for change, said in (
        ({"task": "poem"}, "record 2: task 'poem'"),
        ({"context": [5, 10**9]}, "is no item of the suite"),
        ({"outputs": []}, "record 2: outputs"),
        ({"id": values[0]["id"]}, "stands twice"),
    ):
        write_jsonl(tmp_path / "r.jsonl", [values[0], values[1] | change])
        with pytest.raises(DataError, match=said):
            find("ruler").load(tmp_path / "r.jsonl", None)


def test_an_end_of_filler_ends_the_search() -> None:
    def build(size: int, padding: int) -> draft.Draft:
        return draft.Draft("lead", "word " * min(size, 40), "what?", "", ("x",), ())

    with pytest.raises(DataError, match=r"x: fills \d+ of 500 tokens"):
        draft.filled("x", build, False, lambda text: len(text.split()), 500)
