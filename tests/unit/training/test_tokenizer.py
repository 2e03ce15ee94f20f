"""The tokenizer: deterministic, lossless, single digits, and the same ids through transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_path
from qwenlong.core.records import Document
from qwenlong.core.tokens import Tokenizer
from qwenlong.training import tokenizer as work

CONFIG = Config.model_validate({"base": {"kind": "nano-scratch", "scratch": {"vocabulary": 600}}})
TEXTS = [
    "## People\nPopulation: 1,234.5 (2023 est.)\nCapital: Tórshavn\n",
    "| Item | 2021 | 2022 |\n| --- | --- | --- |\n| Revenue | 12.5 | 17 |\n",
    "HAMLET.\nTo be, or not to be: that is the question.\n",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
]


def documents() -> list[Document]:
    return [
        Document(id=f"d{n}", source="s", category="general", title=f"Title {n}", text=text, n_tokens=0, licence="MIT")
        for n, text in enumerate(TEXTS)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tokenizer") / "out"
    work.build(CONFIG, documents(), target)
    return target


def test_same_corpus_same_bytes(folder: Path, tmp_path: Path) -> None:
    work.build(CONFIG, documents(), tmp_path / "again")
    assert digest_path(folder) == digest_path(tmp_path / "again")


def test_size_and_special_tokens(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.vocabulary_size <= 600
    assert tokenizer.decode([tokenizer.eos_id]) == "<|im_end|>"
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"):
        assert tokenizer.encode(token) == [tokenizer.token_id(token)]


def test_thinking_survives_decoding_and_the_end_does_not(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    ids = tokenizer.encode("<think>\nx\n</think>\n\ny<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\nx\n</think>\n\ny"


@pytest.mark.parametrize("text", [*TEXTS, "  spaces\t\r\n\n tabs", "emoji 🙂 and 漢字", "2024-05-17"])
def test_lossless(folder: Path, text: str) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_alone(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("90210")] == list("90210")


@pytest.mark.parametrize("generation", [True, False])
def test_chat_equals_transformers(folder: Path, generation: bool) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = Tokenizer(folder)
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    chat = [
        {"role": "user", "content": "What is 12.5?\n"},
        {"role": "assistant", "content": "<think>\nit\n</think>\n\nTherefore"},
        {"role": "user", "content": "{{ braces }} <|im_end|> ü"},
    ]
    ids = theirs.apply_chat_template(chat, add_generation_prompt=generation)["input_ids"]
    assert ours.encode(ours.render_chat(chat, generation)) == ids


def test_copied_from_a_model(folder: Path, tmp_path: Path) -> None:
    config = Config.model_validate({"base": {"kind": "hf", "path": str(folder)}})
    work.build(config, [], tmp_path / "copy")
    assert Tokenizer(tmp_path / "copy").digest == Tokenizer(folder).digest


def test_empty_corpus_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="corpus is empty"):
        work.build(CONFIG, [], tmp_path / "out")
    with pytest.raises(DataError, match=r"has no tokenizer\.json"):
        work.build(Config.model_validate({"base": {"kind": "hf", "path": str(tmp_path)}}), [], tmp_path / "out")
    assert not (tmp_path / "out").exists()
