"""`synthesize show`: evidence in its surroundings, at any size, with documents that mean harm."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from card_samples import document, sample
from rich.console import Console
from typer.testing import CliRunner

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.files import write_parquet
from qwenlong.core.records import Difficulty, Document, Evidence, Sample
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.run import Result
from qwenlong.synthesis.show import lines, places, safe

#: Clear the screen, set the window's title, ring, return, C1's CSI, reversed order, zero width, a lone DEL, tags.
HARM = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202eright\u2066\u200b\x7f\x00\u2028\U000e0041"
EVIDENCE = "The key lies under the stone."


def shown(asked: Sample, documents: list[Document], **options: Any) -> str:
    """What is printed where there is no terminal."""
    options = {"styled": False} | options
    return "\n".join(line.plain for line in lines(asked, {d.id: d for d in documents}, **options))


def long_sample(count: int = 40) -> tuple[Sample, list[Document]]:
    """Evidence in the middle of 200 lines of the document at number 21 of many."""
    documents = [document(f"d{n:02d}", "\n".join(f"line {n}.{k}" for k in range(200))) for n in range(count)]
    text = documents[20].text.replace("line 20.100\n", f"line 20.100 {EVIDENCE}\n")
    documents[20] = documents[20].model_copy(update={"text": text})
    start = text.index(EVIDENCE)
    span = Evidence(document="d20", start=start, end=start + len(EVIDENCE))
    asked = sample(
        1,
        "Where does the key lie?",
        tuple(d.id for d in documents),
        evidence=(span,),
        reasoning_chain=("The key lies under the stone.", "That is all."),
        answers=("under the stone",),
        checks={"length_target": 2000, "verified_by": "base"},
        difficulty=Difficulty(pass_at_k=0.25, k=4, model="base"),
    )
    return asked, documents


def folder_of(folder: Path, asked: list[Sample], documents: list[Document]) -> Path:
    write_parquet(folder / "samples.parquet", asked, Sample)
    write_parquet(folder / "documents.parquet", documents, Document)
    return folder


def call(*words: object) -> str:
    done = CliRunner().invoke(app, ["show", *map(str, words)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_what_has_no_evidence_is_folded_and_the_rest_shows_its_surroundings() -> None:
    asked, documents = long_sample()
    text = shown(asked, documents)
    assert len(text.splitlines()) < 30
    assert f"[1–20] 20 documents without evidence, {sum(len(d.text) for d in documents[:20]):,} characters" in text
    assert "[22–40] 19 documents without evidence" in text and "[21] Title of d20  (d20)" in text
    assert [line for line in text.splitlines() if line.startswith("line")] == [
        "line 20.98",
        "line 20.99",
        f"line 20.100 »{EVIDENCE}«",
        "line 20.101",
        "line 20.102",
    ]
    # 20 shorter documents before it (43,780 of 89,590 characters) and half of its own: 44,900 / 89,590.
    assert "evidence 1 at 50% of the context\n    step 1: The key lies under the stone." in text
    assert "  1. The key lies under the stone.  ← evidence 1\n  2. That is all.\nAnswer: under the stone" in text
    assert "difficulty: pass@4 = 0.25 (base)" in text and "checks: length_target 2000, verified_by base" in text
    wider = shown(asked, documents, context=5)
    assert "line 20.95\n" in wider and "line 20.94\n" not in wider


def test_all_shows_every_document_as_it_is() -> None:
    asked, documents = long_sample()
    text = shown(asked, documents, whole=True)
    assert "without evidence" not in text
    assert all(d.text in text.replace("»", "").replace("«", "") for d in documents)


def test_a_few_documents_between_evidence_keep_their_titles() -> None:
    asked, documents = long_sample(23)
    text = shown(asked, documents)
    assert "[22] Title of d21  (d21), " in text and "[23] Title of d22  (d22), " in text


def test_a_single_line_of_a_megabyte_is_cut_around_the_evidence() -> None:
    text = "a" * 500_000 + EVIDENCE + "b" * 500_000
    span = Evidence(document="a", start=500_000, end=500_000 + len(EVIDENCE))
    found = shown(sample(1, "Where?", evidence=(span,)), [document("a", text)])
    assert len(found) < 1500 and f"{'a' * 240}»{EVIDENCE}«{'b' * 240} …" in found
    whole = Evidence(document="a", start=0, end=len(text))
    found = shown(sample(1, "Where?", evidence=(whole,)), [document("a", text)])
    assert len(found) < 2500 and "more characters" in found


def test_spans_that_overlap_or_repeat_are_marked_once_and_keep_all_their_steps() -> None:
    text = "| year | 2019 | 2020 |\n| sales | 45.29 | 82.42 |\n"
    row = Evidence(document="a", start=23, end=48)
    inside = Evidence(document="a", start=31, end=40)
    asked = sample(1, "When?", evidence=(row, inside, row), reasoning_chain=("sales 45.29", "sales 82.42", "So 2020."))
    documents = [document("a", text)]
    assert [place.steps for place in places(asked, documents)] == [(0, 1), ()]
    found = shown(asked, documents)
    assert found.count("»") == found.count("«") == 1 and "»| sales | 45.29 | 82.42 |«" in found


def test_hops_are_a_path_of_titles() -> None:
    documents = [document("a", "alpha beta gamma"), document("b", "delta epsilon")]
    evidence = (Evidence(document="b", start=0, end=5), Evidence(document="a", start=0, end=5))
    text = shown(sample(1, "What?", ("a", "b"), evidence=evidence, n_hops=2), documents)
    assert "2 hops: Title of b → Title of a" in text
    assert text.index("evidence 1 at 9%") < text.index("evidence 2 at 64%")


def harmless(text: str) -> bool:
    """Nothing but signs, blanks, tabs and line ends."""
    return not any(c not in "\t\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def test_every_field_reaches_the_terminal_without_control_characters(tmp_path: Path) -> None:
    """Documents, titles, ids, questions, chains, answers, checks, models: each may come from anywhere."""
    body = f"{HARM} before\n{HARM}{EVIDENCE}{HARM}\n[bold red]markup[/] after"
    start = body.index(EVIDENCE)
    evil = document("a", body, title=HARM)
    other = document(f"b{HARM}", "nothing", title=HARM)
    asked = sample(
        1,
        HARM,
        ("a", other.id),
        evidence=(Evidence(document="a", start=start - 2, end=start + len(EVIDENCE) + 4),),
        instruction=HARM,
        answers=(HARM,),
        choices=(HARM, "two"),
        reasoning_chain=(f"{HARM} key lies under the stone",),
        checks={HARM: HARM, "list": [HARM]},
        difficulty=Difficulty(pass_at_k=0, k=1, model=HARM),
        template=HARM,
        question_type=HARM,
        source=HARM,
        generator=HARM,
        n_hops=2,
    )
    for whole in (False, True):
        assert harmless(shown(asked, [evil, other], whole=whole))
        # With colours, the only escape sequences are those that set and end a style.
        console = Console(force_terminal=True, color_system="standard", width=10_000, markup=False)
        with console.capture() as captured:
            for line in lines(asked, {d.id: d for d in (evil, other)}, whole=whole):
                console.print(line, soft_wrap=True)
        assert "\x1b[" in captured.get() and harmless(re.sub(r"\x1b\[[\d;]*m", "", captured.get()))
        assert "[bold red]markup[/] after" in captured.get()
    folder = folder_of(tmp_path, [asked], [evil, other])
    text = call(asked.id, "--data", folder)
    assert harmless(text) and "␛[2J␛]0;owned␇␍<U+009B>31m<U+202E>right<U+2066><U+200B>␡␀<U+2028>" in text
    assert harmless(call(asked.id, "--data", folder, "--json"))
    assert json.loads(call(asked.id, "--data", folder, "--json"))["question"] == HARM


def test_text_of_all_scripts_stays_as_it_is() -> None:
    text = "Bogotá – 東京 – العربية – 😀 – e\u0301\tand\nmore"
    assert safe(text) == text
    assert safe("\ud800") == "<U+D800>"


def test_without_a_terminal_there_are_marks_and_no_colours(result: Result, tmp_path: Path) -> None:
    """Every sample of a real run: its evidence stands between the marks, whatever its task."""
    folder = folder_of(tmp_path, result.samples, result.documents)
    texts = {d.id: d.text for d in result.documents}
    for asked in result.samples[::7]:
        text = call(asked.id, "--data", folder)
        assert "\x1b" not in text and f"Answer: {asked.answers[0]}" in text
        for span in asked.evidence:
            assert safe(texts[span.document][span.start : span.end]) in text.replace("»", "").replace("«", "")
        assert text.count("»") >= 1 and text.count("»") == text.count("«")


def test_a_sample_is_found_by_a_beginning_that_is_its_own(result: Result, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "synthesis", result.samples, result.documents)
    asked = result.samples[0]
    assert call(asked.id[:-4], "--data", folder) == call(asked.id, "--data", folder)
    with pytest.raises(QwenlongError, match="10 samples in .* start with 'corpus_numerical'"):
        call("corpus_numerical", "--data", folder)
    with pytest.raises(QwenlongError, match=r"0 samples in .* start with 'x' \(none\)"):
        call("x", "--data", folder)
    with pytest.raises(UsageError, match="empty id"):
        call("", "--data", folder)
    # An id that begins another one is itself.
    twin = asked.model_copy(update={"id": f"{asked.id}0"})
    both = folder_of(tmp_path / "both", [asked, twin], result.documents)
    assert call(asked.id, "--data", both).startswith(f"{asked.id}  ")


def test_a_parquet_file_finds_its_documents(result: Result, tmp_path: Path) -> None:
    """Beside it, or in the run's synthesis folder: later stages write samples only. Or it says what it lacks."""
    folder = folder_of(tmp_path / "run" / "synthesis", result.samples, result.documents)
    asked = result.samples[0]
    expected = call(asked.id, "--data", folder)
    for place in ("bins", "stages/rl_1/score"):
        file = tmp_path / "run" / place / "samples.parquet"
        write_parquet(file, result.samples, Sample)
        assert call(asked.id, "--data", file) == call(asked.id, "--data", file.parent) == expected
    alone = tmp_path / "alone" / "train.parquet"
    write_parquet(alone, result.samples, Sample)
    with pytest.raises(DataError, match=r"documents\.parquet does not exist"):
        call(asked.id, "--data", alone)
    assert call(asked.id, "--data", alone, "--documents", folder / "documents.parquet") == expected
    with pytest.raises(DataError, match=r"holds none of samples\.parquet"):
        call(asked.id, "--data", tmp_path)


def test_a_sample_is_drawn_by_seed_and_task(result: Result, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, result.samples, result.documents)
    words = ("--random", "--data", folder, "--json")
    drawn = [json.loads(call(*words, "--task", "dialogue_memory", "--seed", seed)) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and {one["task"] for one in drawn} == {"dialogue_memory"}
    assert len({one["id"] for one in drawn}) > 1
    with pytest.raises(UsageError, match="--task 'riddle' is none of"):
        call(*words, "--task", "riddle")
    for wrong in (("--data", folder), ("an-id", *words), ("an-id", "--data", folder, "--task", "dialogue_memory")):
        with pytest.raises(UsageError):
            call(*wrong)
    few = folder_of(tmp_path / "few", [s for s in result.samples if s.task == "dialogue_memory"], result.documents)
    with pytest.raises(DataError, match="holds no sample of multiple_choice"):
        call("--random", "--data", few, "--task", "multiple_choice")
