"""The checker refuses samples that were tampered with, by kind of fault."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import checker
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.run import Result

Change = Callable[[Sample, dict[str, Document]], Sample]


def wrong_answer(sample: Sample, documents: dict[str, Document]) -> Sample:
    if sample.task == "multiple_choice":
        return sample.model_copy(update={"answers": ("ABCD"[("ABCD".index(sample.answers[0]) + 1) % 4],)})
    return sample.model_copy(update={"answers": (f"{sample.answers[0]} 1",)})


def evidence_out_of_bounds(sample: Sample, documents: dict[str, Document]) -> Sample:
    span = sample.evidence[0]
    length = len(documents[span.document].text)
    return sample.model_copy(update={"evidence": (Evidence(document=span.document, start=length, end=length + 5),)})


def evidence_elsewhere(sample: Sample, documents: dict[str, Document]) -> Sample:
    moved = tuple(Evidence(document=s.document, start=0, end=1) for s in sample.evidence)
    return sample.model_copy(update={"evidence": moved})


def document_removed(sample: Sample, documents: dict[str, Document]) -> Sample:
    home = sample.evidence[0].document
    return sample.model_copy(update={"documents": tuple(name for name in sample.documents if name != home)})


def other_count(sample: Sample, documents: dict[str, Document]) -> Sample:
    return sample.model_copy(update={"n_tokens": sample.n_tokens + 1})


def document_twice(sample: Sample, documents: dict[str, Document]) -> Sample:
    return sample.model_copy(update={"documents": (*sample.documents, sample.documents[0])})


@pytest.mark.parametrize(
    "change",
    [wrong_answer, evidence_out_of_bounds, evidence_elsewhere, document_removed, other_count, document_twice],
)
def test_every_tampered_sample_is_refused(result: Result, tokenizer: Tokenizer, change: Change) -> None:
    documents = {document.id: document for document in result.documents}
    for sample in [*result.samples, *result.heldout]:
        report = check({"samples": [change(sample, documents)]}, documents, tokenizer)
        assert report.faults, (sample.template, sample.id)


def test_second_answer_in_a_distractor_is_seen(result: Result) -> None:
    """A document that states another value of the same field makes the answer ambiguous."""
    documents = {document.id: document for document in result.documents}
    sample = next(s for s in result.samples if s.template == "fact@1")
    home = documents[sample.evidence[0].document]
    line = home.text[sample.evidence[0].start : sample.evidence[0].end]
    second = home.model_copy(update={"id": "planted", "text": f"{line.split(': ')[0]}: something else entirely"})
    shown = sample.model_copy(update={"documents": (*sample.documents, "planted")})
    faults = check({"samples": [shown]}, documents | {"planted": second}, None).faults
    assert any("is ambiguous" in fault and "something else entirely" in fault for fault in faults)


def test_changed_text_is_seen(result: Result) -> None:
    """The answer is derived from the text: another number there, another answer."""
    documents = {document.id: document for document in result.documents}
    sample = next(s for s in result.samples if s.template.startswith("numerical_") and s.template.endswith("sum@1"))
    span = sample.evidence[0]
    home = documents[span.document]
    line = home.text[span.start : span.end]
    label, _, value = line.rpartition(": ")
    number = value.split()[0].rstrip("%")
    text = home.text[: span.start] + (f"{label}: " if label else "") + value.replace(number, "987654", 1)
    changed = home.model_copy(update={"text": text + home.text[span.end :]})
    assert check({"samples": [sample]}, documents | {home.id: changed}, None).faults


def test_leak_and_repeated_question_are_seen(result: Result) -> None:
    documents = {document.id: document for document in result.documents}
    sample = result.samples[0]
    copied = sample.model_copy(update={"id": "copied"})
    faults = check({"samples": [sample], "heldout": [copied]}, documents, None).faults
    assert any("question stands in" in fault for fault in faults)
    assert any("is heldout's and train's" in fault for fault in faults)


def test_what_a_model_proposed_is_counted_as_not_derivable(result: Result) -> None:
    documents = {document.id: document for document in result.documents}
    sample = result.samples[0]
    proposed = sample.model_copy(update={"template": "mase_viewpoint@1"})
    report = check({"samples": [proposed, *result.samples[1:4]]}, documents, None)
    assert (report.not_derivable, report.derived, report.faults) == (1, 3, [])
    assert report.not_derivable_share == 0.25
    row = next(row for row in report.rows() if row["template"] == "mase_viewpoint@1")
    assert row == {
        "task": sample.task,
        "template": "mase_viewpoint@1",
        "samples": 1,
        "derived": 0,
        "not_derivable": 1,
        "faults": 0,
    }


@pytest.mark.parametrize("template", ["fakt@1", "fact@2", "fact"])
def test_a_template_without_a_derivation_is_a_fault(result: Result, template: str) -> None:
    """Another version may have other words: it is as unknown as another name."""
    documents = {document.id: document for document in result.documents}
    sample = result.samples[0].model_copy(update={"template": template})
    report = check({"samples": [sample]}, documents, None)
    assert (report.not_derivable, report.derived) == (1, 0)
    assert [fault for fault in report.faults if f"template = {template!r} is unknown" in fault]


def test_the_checker_imports_the_records_and_itself_alone() -> None:
    """The import contract forbids what made the samples; of core, only what records are read with may stand there."""
    allowed = tuple(f"qwenlong.core.{name}" for name in ("errors", "files", "records", "templates", "tokens"))
    folder = Path(checker.__file__).parent
    imported = set()
    for node in (node for file in folder.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in imported if name.startswith("qwenlong")}
    assert ours and all(
        name.startswith((*allowed, "qwenlong.synthesis.checker."))
        for name in ours - {"qwenlong.core.templates", "qwenlong.synthesis.checker"}
    ), ours
