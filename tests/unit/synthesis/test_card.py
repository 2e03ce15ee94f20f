"""The data card: numbers that can be worked out by hand, pages of a real run, and sets with next to nothing in them."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_samples import document, sample
from typer.testing import CliRunner

from qwenlong.core import config_files
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import write_json, write_parquet
from qwenlong.core.published import load as published
from qwenlong.core.records import Difficulty, Document, Evidence, Sample
from qwenlong.datacard import counts, page, projection, questions
from qwenlong.datacard.baselines import baselines, bm25_sentence, lines_of
from qwenlong.datacard.build import build
from qwenlong.datacard.funnel import add_stage, funnel
from qwenlong.datacard.inputs import Inputs, read
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.run import STEPS, Result

EVIL = "<script>alert(1)</script>"
FUNNEL = {"tasks": {"reading_comprehension": {"samples": {"candidates": 9, "duplicate": 2, "kept": 7, "wanted": 8}}}}


class Nesting(html.parser.HTMLParser):
    """Checks that elements nest, and collects their names, ids, links and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        self.images += [values["src"] or ""] if "src" in values else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def folder_of(folder: Path, samples: list[Sample], documents: list[Document], funnel: Any = FUNNEL) -> Path:
    """A synthesis folder with a training set only."""
    write_parquet(folder / "samples.parquet", samples, Sample)
    write_parquet(folder / "documents.parquet", documents, Document)
    write_json(folder / "funnel.json", funnel)
    return folder


def written(result: Result, folder: Path) -> Path:
    """A synthesis folder of a result."""
    folder_of(folder, result.samples, result.documents, result.funnel)
    for name in ("memory", "heldout", "heldout_long"):
        write_parquet(folder / f"{name}.parquet", getattr(result, name), Sample)
    return folder


def settings(config: Config, folder: Path) -> Path:
    """The configuration's file, tracking off."""
    file = folder / "config.yaml"
    changed = config.model_copy(update={"tracking": config.tracking.model_copy(update={"enabled": False})})
    file.write_text(config_files.dump(changed))
    return file


def card(samples: list[Sample], documents: list[Document], funnel: Any = FUNNEL) -> dict[str, Any]:
    """The card of a training set."""
    return build(Config(), Inputs({"samples": samples}, {d.id: d for d in documents}, funnel))


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["card", *map(str, words)])
    assert done.exit_code == code, done.output + str(done.exception)
    return str(done.exception) if code else done.output


def test_evidence_lies_where_its_middle_is_in_the_shown_order() -> None:
    """Documents of 100 and 300 characters: the second's evidence at 100 + 200 of 400 is in the eighth tenth."""
    documents = {d.id: d for d in (document("a", "x" * 300), document("b", "y" * 100))}
    span = Evidence(document="a", start=190, end=210)
    asked = sample(1, "Where?", ("b", "a"), evidence=(span, Evidence(document="b", start=0, end=20)))
    assert counts.positions(asked, documents) == [0.75, 0.025]
    found = counts.evidence_positions([asked], documents)
    assert found["all"] == found["reading_comprehension"] == [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_lengths_are_counted_in_bins_that_a_target_ends() -> None:
    """Up to 2,000 tokens there are twenty bins of 100; a prompt of exactly 100 is in the first, one of 101 is not."""
    found = counts.lengths([sample(n, "?", n_tokens=n_tokens) for n, n_tokens in enumerate((0, 100, 101, 2000))])
    assert found["bin_tokens"] == 100 and not found["same_axis"]
    assert found["counts"] == [2, 1, *[0] * 17, 1]
    assert found["upper"]["ours"] == 0.25 and found["upper"]["from_tokens"] == 1100
    # Long prompts are counted in the paper's bins, beyond its last one too.
    found = counts.lengths([sample(n, "?", n_tokens=n_tokens) for n, n_tokens in enumerate((6000, 6001, 130_000))])
    assert found["same_axis"] and found["bin_tokens"] == 6000 and len(found["counts"]) == 22
    assert (found["counts"][0], found["counts"][1], found["counts"][21]) == (1, 1, 1)


def test_many_different_numbers_of_needles_are_counted_in_classes_that_double() -> None:
    few = [sample(n, "?", n_needles=n % 3) for n in range(9)]
    assert counts.answers(few)["needles"] == {"1": 3, "2": 3}
    many = [sample(n, "?", n_needles=n) for n in range(1, 21)]
    assert counts.answers(many)["needles"] == {"1": 1, "2": 1, "3–4": 2, "5–8": 4, "9–16": 8, "17–32": 4}


def test_the_paper_s_shape_is_the_published_one_and_has_distance_0_to_itself() -> None:
    figure = published().figures["figure3_input_length_histogram"]
    assert list(counts.PAPER_COUNTS) == figure["counts"] and figure["bin_tokens"] == counts.PAPER_WIDTH
    same = [
        sample(0, "?", n_tokens=6000 * (n + 1)) for n, count in enumerate(counts.PAPER_COUNTS) for _ in range(count)
    ]
    found = counts.lengths(same)
    assert found["distance"] == 0 and found["upper"]["ours"] == found["upper"]["paper"] == pytest.approx(0.19, abs=0.01)


def test_the_funnel_says_what_each_step_left_and_what_it_does_not_explain() -> None:
    rows = {
        "a": {"samples": {"candidates": 10, "duplicate": 2, "too_long": 0, "newcomer": 1, "kept": 7, "wanted": 9}},
        "b": {"samples": {"candidates": 5, "duplicate": 1, "kept": 3, "wanted": 3, "templates": {"t@1": 3}}},
    }
    made = funnel(rows, STEPS)
    assert made["reasons"] == ["duplicate", "too_long", "newcomer"]
    assert [(stage["name"], stage["n"]) for stage in made["stages"]] == [
        ("candidates", 15),
        ("after duplicate", 12),
        ("after newcomer", 11),
        ("kept", 10),
    ]
    assert made["unaccounted"] == 1
    add_stage(made["stages"], "verified", {"a": 6, "b": 3}, {"answered_blind": 1})
    assert made["stages"][-1] == {
        "name": "verified",
        "tasks": {"a": 6, "b": 3},
        "n": 9,
        "reason": "answered blind 1",
    }


def test_planted_repetitions_and_leaks_are_counted() -> None:
    base = "what is the colour of the old house by the river in spring"
    asked = [base, base.upper() + "!", base.replace("spring", "autumn"), "who wrote the letter of the third of May"]
    found = questions.repetition([sample(n, text) for n, text in enumerate(asked)])
    assert (found["n"], found["exact"], found["near"]) == (4, 1, 2)
    leaks = questions.leakage(
        [sample(1, base)],
        [sample(2, base), sample(3, base.replace("what", "which")), sample(4, "how old is the miller")],
    )
    assert (leaks["n"], leaks["exact"], leaks["near"], leaks["shared_run"]) == (3, 1, 2, 1)
    assert leaks["run_words"] == 13 and len(base.split()) == 13


def test_baselines_answer_without_reading() -> None:
    text = "The sky is blue.\nThe capital of Norland is Karst.\nNorland has lakes."
    documents = {"a": document("a", text), "b": document("b", "The capital of Sudland is Morn.\n\nNothing else.")}
    assert bm25_sentence("What is the capital of Norland?", [lines_of(d) for d in documents.values()]) == (
        "The capital of Norland is Karst."
    )
    assert bm25_sentence("What?", []) == ""
    asked = [
        sample(1, "What is the capital of Norland?", ("a", "b"), answers=("Karst",)),
        sample(2, "What is the capital of Sudland?", ("a", "b"), answers=("Morn",), template="other@1"),
        sample(3, "What colour has the sky?", ("a",), answers=("Karst",)),
    ]
    row = baselines(asked, documents, 17)["reading_comprehension"]
    assert row == {"n": 3, "blind": 66.67, "template": 100.0, "bm25": 66.67, "bm25_n": 3}
    assert baselines(asked, documents, 17, at_most=2)["reading_comprehension"]["bm25_n"] == 2


def test_a_real_run_gives_pages_that_nest_and_the_same_bytes_twice(
    result: Result, config: Config, tmp_path: Path
) -> None:
    """From the command, with the checker's verdict and stages after synthesis."""
    made = written(result, tmp_path / "synthesis")
    verdict = {"samples": 67, "derived": 66, "not_derivable": 1, "faults": [], "tokens_counted": 67}
    write_json(tmp_path / "check.json", verdict)
    scored = [
        s.model_copy(update={"difficulty": Difficulty(pass_at_k=n % 3 / 2, k=2, model="base")})
        for n, s in enumerate(result.samples)
    ]
    kept, binned = scored[4:], scored[4:30]
    sizes = {"world_factbook": {"per_bin": 8, "available": [9, 3], "kept": [8, 3]}}
    dropped = {"samples": len(scored), "kept": len(kept), "dropped": {"answered_blind": 4}, "model": "base"}
    for name, summary, rows in (
        ("verification", dropped | {"blind_mean": 0.1, "robust_mean": 0.2}, kept),
        ("difficulty", {"n": len(kept)}, kept),
        ("bins", sizes, binned),
    ):
        write_json(tmp_path / name / f"{name}.json", summary)
        write_parquet(tmp_path / name / "samples.parquet", rows, Sample)
    stages = [word for name in ("verification", "difficulty", "bins") for word in (f"--{name}", tmp_path / name)]
    words = [made, "--config", settings(config, tmp_path), "--check", tmp_path / "check.json", *stages]
    for name in ("one", "two"):
        call(*words, "--out", tmp_path / name)
    for name in ("card.json", "card.html", "card.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
        assert (tmp_path / "one" / f"{name}.provenance.json").is_file()

    numbers = json.loads((tmp_path / "one" / "card.json").read_text())
    assert numbers["sets"]["samples"]["n"] == len(result.samples) == sum(numbers["counts"]["task"].values())
    assert numbers["counts"]["task"] == dict.fromkeys(sorted(numbers["counts"]["task"]), 10)
    assert sum(numbers["evidence"]["all"]) == sum(len(s.evidence) for s in result.samples)
    assert sum(numbers["lengths"]["counts"]) == len(result.samples) and numbers["funnel"]["unaccounted"] == 0
    assert [stage["n"] for stage in numbers["funnel"]["stages"]][-3:] == [50, 46, 26]
    assert numbers["questions"]["exact"] == 0 == numbers["leakage"]["exact"]
    assert {row["name"] for row in numbers["sources"]} == {d.source for d in result.documents}
    assert sum(numbers["difficulty"]["tenths"]) == len(kept) and numbers["bins"]["sources"] == sizes
    assert numbers["map"]["method"] == "PCA" and numbers["map"]["shown"] == 50

    text = (tmp_path / "one" / "card.html").read_text()
    # The report is made from the file, whose keys are sorted, and shows the same.
    again = page.load(tmp_path / "one" / "card.json")
    assert page.page(again) == text and page.markdown(again) == (tmp_path / "one" / "card.md").read_text()
    assert text.index("<th>samples</th>") < text.index("<th>heldout</th>")
    seen = Nesting(text)
    assert "script" not in seen.tags and len(seen.ids) == len(set(seen.ids))
    assert all(link.startswith("#") and link[1:] in seen.ids for link in seen.links) and len(seen.links) == 10
    assert len(seen.images) == 5 and all(source.startswith("data:image/svg+xml;base64,") for source in seen.images)
    assert "http" not in re.sub(r"data:image/svg\+xml;base64,[\w+/=]+", "", text)
    assert "derived again of 67 (all sets); 1 not derivable, 0 faults" in text and "Do not redistribute" not in text

    _, head, body = (tmp_path / "one" / "card.md").read_text().split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["license"] == "other" and values["language"] == ["en"] and values["size_categories"] == ["n<1K"]
    paths = [file["path"] for one in values["configs"] for file in one["data_files"]]
    assert all((made / name).is_file() for name in paths) and len(paths) == 5
    assert "Do not redistribute" not in body and "| world_factbook |" in body


def test_texts_without_a_licence_are_not_to_be_handed_on() -> None:
    """The source is named on the page and in the data set's card; the licence is one that hubs do not list."""
    documents = [document("a", "blue water"), document("b", "more", source="finds", licence="unstated")]
    made = card([sample(1, "What?", ("a", "b"))], documents)
    assert {row["name"]: row["unstated"] for row in made["sources"]} == {"finds": True, "notes": False}
    assert "Do not redistribute texts of finds: no licence" in page.page(made)
    text = page.markdown(made)
    assert "**Do not redistribute** texts of finds" in text and "license: other\nlicense_name: several" in text
    assert "license: mit\n" in page.markdown(card([sample(1, "What?")], documents[:1]))


def test_the_report_shows_the_card(result: Result, config: Config, tmp_path: Path) -> None:
    """The audit reads card.json; one of another version is refused with the remedy."""
    from qwenlong.audit.report import build as report

    inputs = read(written(result, tmp_path / "synthesis"))
    write_json(tmp_path / "data_card" / "card.json", build(config, inputs))
    text = report(tmp_path, config, "c.yaml", tmp_path / "audit")[0].read_text()
    seen = Nesting(text)
    assert len(seen.images) == 4 and {"data", "card-funnel", "card-licences"} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids)) and "From candidates to training samples" in text
    write_json(tmp_path / "data_card" / "card.json", {"schema": 0})
    with pytest.raises(DataError, match=r"card\.json is no data card of version 1; make it anew"):
        report(tmp_path, config, "c.yaml", tmp_path / "audit")


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_sets_with_next_to_nothing_in_them_have_a_card(size: int) -> None:
    """No sample, a single one, two: the page says what cannot be drawn instead of failing."""
    made = card([sample(n, f"Question {n} about the sea?") for n in range(size)], [document("a", "blue water here")])
    text = page.page(made)
    Nesting(text)
    page.markdown(made)
    assert made["map"]["method"] == ("none" if size < 3 else "PCA")
    assert ("at least three different questions" in text) == (size < 3)
    assert ("The training set is empty" in text) == (size == 0)


def test_names_from_data_are_text_on_the_page_and_in_the_table() -> None:
    """A source, a template and a licence that carry HTML or a table's bar."""
    hostile = document("a", "blue water", source="notes", licence=f"{EVIL}|`x`")
    asked = sample(1, "What?", template=f"{EVIL}@1", question_type=f"{EVIL}|")
    made = card([asked], [hostile], {"tasks": {}})
    text = page.page(made)
    assert "script" not in Nesting(text).tags and "&lt;script&gt;" in text
    body = page.markdown(made).split("---\n", 2)[2]
    assert EVIL not in body and "\\|" in body


def test_umap_places_the_same_questions_the_same_way(result: Result) -> None:
    """From a hundred questions on; a subsample is said to be one, and does not depend on the order."""
    asked = [s.model_copy(update={"id": f"{s.id}-{n}"}) for n in range(3) for s in result.samples]
    first = projection.questions_map(asked, 17)
    assert first["method"] == "UMAP" and first["shown"] == len(asked)
    assert projection.questions_map(asked[::-1], 17) == first
    assert sum(len(points.split()) for points in first["points"].values()) == len(asked)
    values = [float(v) for points in first["points"].values() for pair in points.split() for v in pair.split(",")]
    assert min(values) == 0 and max(values) == 1


def test_a_large_set_is_drawn_from(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    monkeypatch.setattr(projection, "MANY", 20)
    made = projection.questions_map(result.samples, 17)
    assert made["shown"] == 20 and made["of"] == 50 and "20 of 50 questions, drawn by seed" in made["note"]
    assert projection.questions_map(result.samples, 17) == made != projection.questions_map(result.samples, 18)


def test_faulty_inputs_are_named(config: Config, tmp_path: Path) -> None:
    """Nothing is written when something is missing."""
    file = settings(config, tmp_path)
    out = tmp_path / "out"
    assert "samples.parquet does not exist" in call(tmp_path / "no", "--config", file, "--out", out, code=1)
    made = folder_of(tmp_path / "lost", [sample(1, "What?", ("gone",))], [document("a", "text")])
    assert "needs document 'gone'" in call(made, "--config", file, "--out", out, code=1)
    made = folder_of(tmp_path / "list", [sample(1, "What?")], [document("a", "text")], [1])
    assert "holds a list, not an object" in call(made, "--config", file, "--out", out, code=1)
    made = folder_of(tmp_path / "good", [sample(1, "What?")], [document("a", "text")])
    write_json(tmp_path / "check.json", {"samples": 1})
    said = call(made, "--config", file, "--check", tmp_path / "check.json", "--out", out, code=1)
    assert "has no 'derived'" in said and not out.exists()
    assert "bins.json does not exist" in call(made, "--config", file, "--bins", tmp_path, "--out", out, code=1)
