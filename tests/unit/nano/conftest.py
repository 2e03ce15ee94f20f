"""The sections of real documents that the synthesis tests read, a tokenizer, and material made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenlong.core.config import Config
from qwenlong.core.files import read_jsonl
from qwenlong.core.records import Category, Document
from qwenlong.core.tokens import Tokenizer
from qwenlong.nano import material
from qwenlong.training import tokenizer as tokenizers


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    read = read_jsonl(Path(__file__).parents[1] / "synthesis" / "documents.jsonl", Document)
    heading = "Cash flow (yearly), Mar-21 to Mar-23"
    table = "| Item | Mar-21 | Mar-22 | Mar-23 |\n| --- | --- | --- | --- |\n| Net Income | 391.16 | -57.49 | 1.37 |"
    companies = [
        _document("company_statements", "professional", "finance", symbol, heading, table)
        for symbol in ("ACME", "OTHERCO", "THIRD", "FOURTH", "FIFTH", "SIXTH")
    ]
    countries = [
        _document(
            "world_factbook", "general", "factbook", f"{name}ia", "Economy",
            f"Unemployment rate 2023: {n}.{n}% (2023 est.)\nIndustries: {name.lower()} mining, tourism\n"
            f"Capital - name: {name}ville\nInternet country code: .{name[:2].lower()}",
        )
        for n, name in enumerate(("Ada", "Bor", "Cor", "Dun", "Eno", "Fir", "Gol", "Hin", "Ilo", "Jun"), 1)
    ]  # fmt: skip
    return read + companies + countries


def _document(source: str, category: Category, kind: str, entity: str, heading: str, text: str) -> Document:
    return Document(
        id=f"{source}/{entity}", source=source, category=category, title=f"{entity} – {heading}",
        text=f"## {heading}\n{text}", n_tokens=0, licence="MIT",
        metadata={"kind": kind, "entity": entity, "heading": heading},
    )  # fmt: skip


@pytest.fixture(scope="session")
def pieces(documents: list[Document]) -> material.Material:
    return material.collect(documents)


@pytest.fixture(scope="session")
def tokenizer(documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("nano") / "tokenizer"
    config = Config.model_validate({"nano": {"vocabulary": 700}, "base": {"window": 1024}})
    tokenizers.train(documents, config.nano.vocabulary, config.base.window, folder)
    return Tokenizer(folder)
