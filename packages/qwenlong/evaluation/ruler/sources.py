"""What the generators read from files: prose for the haystack, SQuAD and HotpotQA for the questions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json
from qwenlong.core.records import Document
from qwenlong.evaluation.ruler.filler import Prose, sentences

_HOW = {
    "squad": "dev-v2.0.json of SQuAD 2.0 (rajpurkar.github.io/SQuAD-explorer)",
    "hotpotqa": "hotpot_dev_distractor_v1.json of HotpotQA (hotpotqa.github.io)",
}


@dataclass(frozen=True)
class Question:
    """A question, its answers, and the numbers of the paragraphs that hold the evidence."""

    text: str
    answers: tuple[str, ...]
    evidence: tuple[int, ...]


@dataclass(frozen=True)
class QuestionSet:
    """Paragraphs, each once, and the questions on them."""

    paragraphs: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Sources:
    """The sources at hand; what is missing is asked for by name when a task needs it."""

    prose: Prose | None = None
    questions: dict[str, QuestionSet] = field(default_factory=dict)

    def need_prose(self) -> Prose:
        """Return the prose. Raises DataError saying how to give some."""
        if self.prose is None:
            raise DataError(
                "tasks with prose need a text to fill with; give --essays FILE (text) or --documents FILE (Document "
                "Parquet), or choose other tasks with --tasks"
            )
        return self.prose

    def need_questions(self, name: str) -> QuestionSet:
        """Return the questions of a data set. Raises DataError saying how to get its file."""
        if name not in self.questions:
            raise DataError(
                f"a task needs {_HOW[name]}; download that file and give --{name} FILE, or choose other tasks with "
                "--tasks"
            )
        return self.questions[name]


def prose_of_file(path: Path) -> Prose:
    """Read prose from a text file. Raises DataError naming it."""
    try:
        return Prose(sentences(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError as error:
        raise DataError(f"--essays {path} does not exist; give a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"--essays {path} is not UTF-8 (byte {error.start}); convert it") from error


def prose_of_documents(documents: Iterable[Document]) -> Prose:
    """Take prose from documents, without code and dialogues, in order of their ids."""
    chosen = sorted((d for d in documents if d.category not in ("code", "dialogue")), key=lambda d: d.id)
    return Prose([sentence for document in chosen for sentence in sentences(document.text)])


def read_squad(path: Path) -> QuestionSet:
    """Read SQuAD's JSON; questions without an answer are left out. Raises DataError naming file and fault."""
    numbers: dict[str, int] = {}
    found = []
    try:
        for article in read_json(path)["data"]:
            for paragraph in article["paragraphs"]:
                place = numbers.setdefault(paragraph["context"], len(numbers))
                for asked in paragraph["qas"]:
                    answers = tuple(dict.fromkeys(a["text"] for a in asked["answers"] if a["text"].strip()))
                    if answers and not asked.get("is_impossible", False):
                        found.append(Question(asked["question"], answers, (place,)))
    except (KeyError, TypeError) as error:
        raise _fault(path, "squad", error) from error
    return _whole(path, "squad", numbers, found)


def read_hotpotqa(path: Path) -> QuestionSet:
    """Read HotpotQA's distractor JSON; evidence are all paragraphs of a question. Raises DataError as above."""
    numbers: dict[str, int] = {}
    found = []
    try:
        for record in read_json(path):
            texts = [f"{title}\n{''.join(parts)}" for title, parts in record["context"]]
            places = tuple(dict.fromkeys(numbers.setdefault(text, len(numbers)) for text in texts))
            if record["answer"].strip():
                found.append(Question(record["question"], (record["answer"],), places))
    except (KeyError, TypeError, ValueError) as error:
        raise _fault(path, "hotpotqa", error) from error
    return _whole(path, "hotpotqa", numbers, found)


def _whole(path: Path, name: str, numbers: dict[str, int], found: list[Question]) -> QuestionSet:
    if not found:
        raise DataError(f"{path} holds no question; give {_HOW[name]}")
    return QuestionSet(tuple(numbers), tuple(found))


def _fault(path: Path, name: str, error: Exception) -> DataError:
    return DataError(f"{path} is not in the form of {_HOW[name]} ({type(error).__name__}: {error}); give that file")
