"""Held-out samples made to the records, for a random model and for scripted predictions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "memory_agent"))

from agent_helpers import make_model, make_tokenizer
from quiz import configuration, lines, quiz

from qwenlong.core.files import write_parquet
from qwenlong.core.records import TASKS, Document, Sample
from qwenlong.evaluation import registry
from scripted import Endpoint, serving

ANSWERS = {
    "corpus_numerical": ("42",),
    "dialogue_memory": ("abc Hello there, friend",),
    "doc_multi_hop": ("Paris",),
    "multiple_choice": ("B",),
    "reading_comprehension": ("the old mill",),
}


def make_samples(per_task: int) -> list[Sample]:
    """Return so many samples of each task, on two documents."""
    return [
        Sample(
            id=f"{task}-{n}",
            task=task,
            question_type="test",
            question=f"Question {n} of {task}?",
            instruction='Write "Therefore, the answer is X".',
            documents=("d#1", "d#2"),
            answers=ANSWERS[task],
            choices=("Rome", "Paris") if task == "multiple_choice" else (),
            answer_prefix="abc " if task == "dialogue_memory" else "",
            category="general",
            source="test",
            generator="test",
            template="test",
            n_tokens=0,
        )
        for task in TASKS
        for n in range(per_task)
    ]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with heldout.parquet (2 a task) and documents.parquet."""
    folder = tmp_path_factory.mktemp("data")
    write_parquet(folder / "heldout.parquet", make_samples(2), Sample)
    texts = {"d#1": "Paris lies on the Seine. " * 20, "d#2": "There stood the old mill. " * 20}
    documents = [
        Document(id=name, source="test", category="general", title=name, text=text, n_tokens=0, licence="CC0")
        for name, text in texts.items()
    ]
    write_parquet(folder / "documents.parquet", documents, Document)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a window of 1024 tokens."""
    return make_model(tmp_path_factory.mktemp("models") / "noise")


@pytest.fixture
def quiz_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The command line of a run of the quiz, 60 items, at some addresses."""
    monkeypatch.setitem(registry.BENCHMARKS, "quiz", quiz())
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "items.jsonl").write_bytes(lines(60))
    config = configuration(tmp_path)

    def made(*urls: str, out: str = "out", more: tuple[str, ...] = ()) -> list[str]:
        served = [word for url in urls for word in ("--base-url", url)]
        words = ["run", "quiz", "--data", str(tmp_path / "items.jsonl"), "--model", "m", *served, *more]
        words += ["--tokenizer", str(tmp_path / "tokenizer"), "--config", str(config)]
        return [*words, "--out", str(tmp_path / out)]

    return made


@pytest.fixture
def server() -> Iterator[Endpoint]:
    """A scripted endpoint."""
    with serving() as made:
        yield made
