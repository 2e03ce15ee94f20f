"""Questions over extracted triples: several documents, one answer, the same whatever the hash seed; and the export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import networkx as nx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from town_documents import said, towns
from typer.testing import CliRunner

from qwenlong.core.config import Config, GraphConfig
from qwenlong.core.errors import UsageError
from qwenlong.core.files import write_jsonl, write_parquet
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import graph, intake, merged, names, walks
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.run import Result, synthesize
from qwenlong.synthesis.tables import Table

Made = tuple[Document, list[Edge]]


def pool(
    documents: Sequence[Document],
    edges: Sequence[Edge],
    rules: Sequence[Edge] = (),
    vague: float = 0.5,
    **values: object,
) -> Pool:
    stated, _ = intake.accept(edges, documents, rules)
    walked = merged.merge(rules, stated, documents, GraphConfig(obfuscate_share=vague))
    with Table([]) as table:
        return Pool(sorted(documents, key=lambda d: d.id), table, graph.KnowledgeGraph(rules), 10_000, 17,
                    merged=walked, **values)  # type: ignore[arg-type]  # fmt: skip


def asked(*made: Made, hops: int = 3, limit: int = 400) -> list[Candidate]:
    """Return the questions of both templates, once with the starts that have one made vague and once without."""
    documents, edges = [d for d, _ in made], [e for _, found in made for e in found]
    pools = [pool(documents, edges, max_hops=hops, vague=share) for share in (0.0, 1.0)]
    return [c for one in pools for make in walks.TEMPLATES.values() for c in islice(make(one), limit)]


LIFE = said("life", ("Ada Orrin", "was born in", "Tarn"))
TOWN = said("town", ("Tarn", "was founded in", "1187", "value"))


def test_a_path_over_two_documents_is_asked_both_ways() -> None:
    found = {(c.question, c.answers[0]) for c in asked(LIFE, TOWN)}
    assert ("Let A be what Ada Orrin was born in. When was A founded?", "1187") in found
    assert ("Who or what was born in the one that was founded in 1187?", "Ada Orrin") in found
    vague = "Who or what was born in the one that was founded in a year from 1180 to 1189?"
    assert (vague, "Ada Orrin") in found
    assert all(c.question_type == "temporal" and c.n_hops == 2 for c in asked(LIFE, TOWN))
    chain = next(c for c in asked(LIFE, TOWN) if c.answers == ("1187",)).reasoning_chain
    assert chain == (
        'Ada Orrin — was born in — Tarn: "Ada Orrin was born in Tarn."',
        'Tarn — was founded in — 1187: "Tarn was founded in 1187."',
    )


@pytest.mark.parametrize(
    "third",
    [
        said("other", ("Tarn", "was founded in", "1204", "value")),
        said("other", ("Tarn", "founded in", "1204", "value")),
        said("other", ("Tarn", "has been founded in", "1204", "value")),
        said("town", ("Tarn", "was founded in", "1187", "value"), ("Tarn", "was founded in", "1204", "value")),
    ],
    ids=["another document", "another wording", "a third wording", "the same document"],
)
def test_a_second_answer_leaves_no_question(third: Made) -> None:
    made = [LIFE, third] if third[0].id == "town" else [LIFE, TOWN, third]
    assert [c for c in asked(*made) if "1187" in c.answers or "1204" in c.answers] == []
    # A second place of birth, and the way through it is closed too.
    assert [c for c in asked(LIFE, TOWN, said("o", ("Ada Orrin", "born in", "Morby"))) if c.answers == ("1187",)] == []


def test_what_may_be_the_same_person_counts_as_a_second_answer() -> None:
    doubt = said("other", ("Orrin", "was born in", "Morby"))
    assert [c for c in asked(LIFE, TOWN, doubt) if c.answers == ("1187",)] == []
    # … but one of the same initials does not, unless the question names only them.
    other = said("other", ("Abel Orm", "was born in", "Morby"))
    found = [c for c in asked(LIFE, TOWN, other) if c.answers == ("1187",)]
    assert found and all("Ada Orrin" in c.question for c in found)


def test_a_second_answer_that_the_extractor_missed_leaves_no_question() -> None:
    document, edges = LIFE
    fuller = document.model_copy(update={"text": f"{document.text} Some say Ada Orrin was born in Morby."})
    assert [c for c in asked((fuller, edges), TOWN) if c.answers == ("1187",)] == []


@pytest.mark.parametrize(
    "made",
    [
        [said("a", ("Ada Orrin", "was born in", "Tarn"), ("Tarn", "was founded in", "1187", "value"))],
        [LIFE, TOWN, said("c", ("Ada Orrin", "died in", "1187", "value"))],
        [said("a", ("Ada Orrin", "met", "the mayor")), said("b", ("the mayor", "was born in", "1187", "value"))],
        [said("a", ("Ada Orrin", "owns", "3")), said("b", ("3", "is the height of", "Mount Keld"))],
    ],
    ids=["one document", "a short cut", "a common noun", "a number"],
)
def test_no_question_where_the_path_is_none(made: list[Made]) -> None:
    assert asked(*made) == []


def test_a_document_that_tells_it_all_is_neither_evidence_nor_shown() -> None:
    whole = said("whole", ("Ada Orrin", "was born in", "Tarn"), ("Tarn", "was founded in", "1187", "value"))
    found = asked(LIFE, TOWN, whole)
    assert found and all(set(c.documents) == {"life", "town"} for c in found)
    assert all(c.holds([LIFE[0], TOWN[0]]) and not c.holds([LIFE[0], TOWN[0], whole[0]]) for c in found)


def test_a_question_does_not_hold_its_answer_nor_a_node_on_the_way() -> None:
    bridge = said("a", ("Tarn Bridge", "lies in", "Tarn"))
    assert [c for c in asked(bridge, TOWN) if "Tarn Bridge" in c.question] == []


def test_aliases_join_a_path_where_a_reader_can_see_it() -> None:
    one = said("a", ("Ada Orrin", "studied at", "Morby University"))
    two = said("b", ("University of Morby", "was endowed by", "Count Ister"))
    assert any(c.answers == ("Count Ister",) for c in asked(one, two))
    said_so = said("c", ("Morby University", "also known as", "Keld College"))
    three = said("d", ("Keld College", "was endowed by", "Count Ister"))
    assert [c for c in asked(one, said_so, three) if c.answers == ("Count Ister",)] == []


def test_causes_are_causal() -> None:
    one = said("a", ("Storm Ebba", "led to", "Flood Keld"))
    two = said("b", ("Storm Ebba", "hit", "Tarn"))
    found = asked(one, two)
    assert found and {c.question_type for c in found} == {"causal"}


def test_paths_mix_triples_with_structured_sources() -> None:
    country = Document(
        id="f/x", source="f", category="general", title="Borduria: Government", text="Capital - name: Szohod",
        n_tokens=9, licence="MIT", metadata={"kind": "factbook", "entity": "Borduria"},
    )  # fmt: skip
    document, edges = said("life", ("Ada Orrin", "was born in", "Szohod"), ("Ada Orrin", "likes", "Rye"))
    one = pool([country, document], edges, graph.build([country]).edges, vague=0.0)
    found = [c for make in walks.TEMPLATES.values() for c in islice(make(one), 50)]
    assert {c.question for c in found if c.answers == ("Borduria",)} >= {
        "Which country is it whose Capital - name is what Ada Orrin was born in?",
    }
    assert all(len(c.documents) == 2 for c in found)


def words_of(text: str) -> set[str]:
    return set(names.form(text))


PEOPLE = ["Ada Orrin", "Bela Quill", "Cato Vyse", "Dora Penn", "Tarn", "Morby", "Keld", "1187", "1204"]
TRIPLE = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(PEOPLE[:7]), st.sampled_from(["saw", "was born in", "left"]),
    st.sampled_from(PEOPLE),
).filter(lambda t: t[1] != t[3])  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.lists(TRIPLE, min_size=2, max_size=14, unique=True), st.integers(2, 6))
def test_every_path_is_spread_unique_and_hidden(triples: list[tuple[str, str, str, str]], hops: int) -> None:
    """Against a plain search over the triples themselves."""
    by_document: dict[str, list[tuple[str, str, str]]] = {}
    for home, *fact in triples:
        by_document.setdefault(home, []).append((fact[0], fact[1], fact[2]))
    made = [said(home, *facts) for home, facts in sorted(by_document.items())]
    found = asked(*made, hops=hops, limit=8)
    assert found == asked(*made, hops=hops, limit=8)
    stated = {(s, r, o) for facts in by_document.values() for s, r, o in facts}
    for one in found:
        assert 2 <= one.n_hops <= hops and len(one.documents) >= 2
        assert len(one.evidence) == len(one.reasoning_chain) == one.n_hops
        assert not words_of(one.answers[0]) <= words_of(one.question)
        # Backwards along the chain: each step reached one end only, whichever way it was gone.
        end = one.answers[0]
        for line in reversed(one.reasoning_chain):
            subject, relation, rest = line.split(" — ")
            target = rest.partition(": ")[0]
            assert (subject, relation, target) in stated and end in (subject, target)
            if end == target:
                assert {o for s, r, o in stated if (s, r) == (subject, relation)} == {end}
                end = subject
            else:
                assert {s for s, r, o in stated if (r, o) == (relation, target)} == {end}
                end = target
        assert (end in one.question) != bool(dict(one.checks)["obfuscation"])


def settings_of(**values: object) -> Config:
    own = {
        "samples_per_task": 24, "heldout_per_task": 8, "long_heldout_per_task": 0, "memory_samples_per_task": 2,
        "length_targets": [400, 700], "memory_length_targets": [600], "tasks": ["doc_multi_hop"], "max_hops": 4,
    }  # fmt: skip
    return Config.model_validate({"run": {"seed": 17}, "synthesis": own | values})


@pytest.fixture(scope="module")
def result(tokenizer: Tokenizer) -> Result:
    documents, edges = towns(24)
    return synthesize(settings_of(), documents, tokenizer, edges=edges)


def test_prose_alone_makes_a_data_set_that_the_checker_faults_nowhere(result: Result) -> None:
    assert len(result.samples) == 24 and len(result.heldout) == 8
    assert {s.question_type for s in result.samples} == {"multi-fact", "temporal", "causal"}
    assert {s.n_hops for s in result.samples} == {2, 3, 4} and {s.checks["obfuscation"] for s in result.samples} == {
        0,
        1,
    }
    counts = result.funnel["tasks"]["doc_multi_hop"]["samples"]
    assert sum(counts["hops"].values()) == 24 and set(counts["templates"]) == {"walk_bfs@1", "walk_random@1"}
    assert result.funnel["edges"]["intake"]["kept"] == 240
    report = check({"samples": result.samples, "heldout": result.heldout}, {d.id: d for d in result.documents}, None)
    # A model's reading is not derived again: never counted as right.
    assert report.faults == [] and report.derived == 0 and report.not_derivable == 32


def faults(sample: Sample, documents: Sequence[Document]) -> list[str]:
    return check({"samples": [sample]}, {d.id: d for d in documents}, None).faults


def test_mutated_samples_are_faults(result: Result) -> None:
    """Another answer, a step less, evidence moved, another document, a second answer: by kind, all of them."""
    spoilt: dict[str, list[bool]] = {}
    for sample in result.samples:
        shown = [d for d in result.documents if d.id in sample.documents]
        other = next(d for d in shown if d.id != sample.evidence[-1].document)
        last = sample.evidence[-1]
        moved = last.model_copy(update={"document": other.id, "start": 0, "end": min(last.end - last.start, 20)})
        head, relation, rest = sample.reasoning_chain[-1].split(" — ")
        tail, _, quote = rest.partition(": ")
        assert faults(sample, shown) == []
        kinds = {
            "answer": sample.model_copy(update={"answers": ("Nobody Else",)}),
            "step": sample.model_copy(update={"reasoning_chain": sample.reasoning_chain[1:]}),
            "evidence": sample.model_copy(update={"evidence": (*sample.evidence[:-1], moved)}),
            "ends": sample.model_copy(
                update={"reasoning_chain": (*sample.reasoning_chain[:-1], f"{head} — {relation} — Keld: {quote}")}
            ),
            "document": sample.model_copy(
                update={"documents": tuple(d for d in sample.documents if d != sample.evidence[0].document)}
            ),
            "question": sample.model_copy(update={"question": f"{sample.question} Is it {sample.answers[0]}?"}),
        }
        for kind, one in kinds.items():
            spoilt.setdefault(kind, []).append(bool(faults(one, shown)))
        # The words of the last step's quote, with another end where the answer stands.
        said_ = quote.strip('"')
        second = said_.replace(sample.answers[0], "1999" if sample.answers[0].isdigit() else "Keld Vyse")
        intruder = other.model_copy(update={"id": "intruder", "text": f"It is told otherwise. {second}"})
        shows = sample.model_copy(update={"documents": (*sample.documents, "intruder")})
        spoilt.setdefault("second answer", []).append(bool(faults(shows, [*shown, intruder])))
    shares = {kind: sum(hits) / len(hits) for kind, hits in spoilt.items()}
    # Where subject and object stand in another order than the triple, the quote's words are not looked for elsewhere.
    assert shares.pop("second answer") >= 0.75
    assert set(shares.values()) == {1.0}, shares


def test_structured_samples_do_not_change_when_there_are_no_triples(
    config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    before = synthesize(config, corpus, tokenizer)
    refused = Edge("entity:Orr", "built", "entity:Arlow", "nowhere", 0, 5)
    by_rules = graph.build(sorted(corpus, key=lambda d: d.id)).edges
    after = synthesize(config, corpus, tokenizer, edges=[refused, *by_rules])
    assert [before.samples, before.heldout, before.heldout_long, before.memory] == [
        after.samples, after.heldout, after.heldout_long, after.memory
    ]  # fmt: skip
    assert after.funnel["edges"]["intake"]["no_document"] == 1
    assert after.funnel["edges"]["intake"]["by_rules"] == len(by_rules) and "edges" not in before.funnel


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from town_documents import towns
from test_walks import pool
from qwenlong.synthesis import walks
documents, edges = towns(6)
for make in walks.TEMPLATES.values():
    for number, one in zip(range(20), make(pool(documents, edges, max_hops=5))):
        print(one)
"""


def test_the_same_paths_whatever_the_hash_seed() -> None:
    said_ = set()
    for seed in ("0", "77"):
        words = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
        done = subprocess.run(
            words, env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said_.add(done.stdout)
    assert len(said_) == 1 and said_.pop().count("walk_bfs@1") == 20


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    documents, edges = towns(24)
    write_parquet(tmp_path / "corpus" / "documents.parquet", documents, Document)
    write_jsonl(tmp_path / "one.jsonl", [asdict(e) for e in edges[:100]])
    write_jsonl(tmp_path / "two.jsonl", [asdict(e) for e in edges[90:]])
    values = settings_of().model_dump(mode="json", include={"run", "synthesis"}) | {"tracking": {"enabled": False}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_run_takes_several_files_of_edges(folder: Path, tokenizer: Tokenizer, result: Result) -> None:
    words = ["run", "--config", folder / "config.yaml", "--corpus", folder / "corpus", "--out", folder / "out"]
    words += [
        "--tokenizer",
        tokenizer.folder,
        "--edges",
        folder / "one.jsonl",
        "--edges",
        folder / "two.jsonl",
        "--json",
    ]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    taken = json.loads(done.stdout)["edges"]["intake"]
    assert taken["read"] == 250 and taken["repeated"] == 10 and taken["kept"] == 240
    inputs = json.loads((folder / "out" / "samples.parquet.provenance.json").read_text())["inputs"]
    assert {"edges_1", "edges_2"} <= set(inputs)
    done = CliRunner().invoke(app, ["check", str(folder / "out"), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["faults"] == []


@pytest.mark.parametrize("suffix", ["graphml", "json"])
def test_the_graph_is_exported_with_its_clusters_and_read_back(folder: Path, suffix: str) -> None:
    out = folder / f"g.{suffix}"
    words = ["graph", folder / "corpus", "--edges", folder / "one.jsonl", "--edges", folder / "two.jsonl"]
    for file in (out, folder / f"again.{suffix}"):
        done = CliRunner().invoke(app, [*map(str, words), "--out", str(file), "--json"])
        assert done.exit_code == 0, done.output
    assert out.read_bytes() == (folder / f"again.{suffix}").read_bytes()
    read = nx.node_link_graph(json.loads(out.read_text()), edges="edges") if suffix == "json" else nx.read_graphml(out)
    sizes = json.loads(done.stdout)
    assert (read.number_of_nodes(), read.number_of_edges()) == (sizes["nodes"], sizes["edges"]) and sizes[
        "edges"
    ] == 240
    schools = [data for _, data in read.nodes(data=True) if "University of" in str(data["aliases"])]
    assert len(schools) == 24
    for data in schools:
        aliases = data["aliases"] if suffix == "json" else data["aliases"].split(" | ")
        assert len(aliases) == 2 and data["label"] in aliases and data["taken_for"] == "name"
    assert {data["relation"] for *_, data in read.edges(data=True)} >= {"designed by", "died in"}


def test_an_unknown_suffix_is_wrong_usage(folder: Path) -> None:
    done = CliRunner().invoke(app, ["graph", str(folder / "corpus"), "--out", str(folder / "g.dot")])
    assert done.exit_code != 0 and isinstance(done.exception, UsageError) and "g.dot" in str(done.exception)
    assert not (folder / "g.dot").exists()


def test_characters_that_xml_cannot_hold_do_not_stop_the_export(folder: Path) -> None:
    made, edges = said("x", ("Ada\x0bOrrin", "saw", "Tarn\x00"))
    edges = [replace(e, relation="saw\x01") for e in edges]
    write_parquet(folder / "corpus" / "documents.parquet", [made], Document)
    write_jsonl(folder / "one.jsonl", [asdict(e) for e in edges])
    words = ["graph", folder / "corpus", "--edges", folder / "one.jsonl", "--out", folder / "g.graphml"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    assert nx.read_graphml(folder / "g.graphml").number_of_edges() == 1
