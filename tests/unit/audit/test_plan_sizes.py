"""What the plan takes a configuration to read and write, by hand; its assumptions against their sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenlong.audit.planning import assumed, graph, sizes
from qwenlong.audit.planning.arithmetic import Range, exactly
from qwenlong.core.config import Config
from qwenlong.core.config_files import load
from qwenlong.evaluation.registry import BENCHMARKS
from qwenlong.evaluation.tables import layout

ROOT = Path(__file__).resolve().parents[3]
PAPER = load(ROOT / "configs" / "paper.yaml")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> assumed.Assumptions:
    """Assumptions of round numbers without width."""
    file = tmp_path_factory.mktemp("plain") / "round.yaml"
    file.write_text(
        "lengths: {response_share: 0.5, memory_share: 0.5, answer_share: 0.5, question: 10, characters_per_token: 4}\n"
        "data: {made: 1, verified: 0.5, binned: 0.5, kept_by_filters: 0.5}\n"
        "calls: {tries: 2, generated: 100, judged_rollouts: 0.25, judged_responses: 0.5}\n",
        encoding="utf-8",
    )
    return assumed.read(file)


def config(**sections: Any) -> Config:
    return Config.model_validate({"tracking": {"enabled": False}, **sections})


def test_prompt_lengths_below_a_limit() -> None:
    lengths = config(synthesis={"lengths": {"histogram": [1, 1, 2], "bin_tokens": 100}})
    # Middles 50, 150 and, left out, 250: half of the samples, mean 100; a token stands in (50² + 150²) / 200.
    assert sizes.prompts(lengths, 200) == sizes.Prompts(0.5, 100, 125)
    assert sizes.prompts(lengths, 40) == sizes.Prompts(0.25, 40, 40)
    targets = config(synthesis={"length_targets": [100, 300]})
    assert sizes.prompts(targets, 300) == sizes.Prompts(1, 200, 250)
    # The paper's mean is 34,231 tokens; read off its figure 34.3K.
    assert sizes.prompts(PAPER, 120000).mean == pytest.approx(34231, rel=0.01)


def test_a_stage_of_rl(plain: assumed.Assumptions) -> None:
    stage = config(
        synthesis={"length_targets": [100]},
        training={"max_input_tokens": 200, "max_output_tokens": 40, "steps": 10, "batch_prompts": 4, "group_size": 2},
    )
    found = sizes.training(stage, plain, stage.stage("rl_1"))
    # 40 prompts, each read once; 80 responses of 20; 80 rows of 120.
    assert found.prompt == exactly(4000) and found.response == exactly(1600) and found.trained == exactly(9600)
    assert (found.read_at, found.written_at, found.trained_at) == (100, 110, 120)


def test_a_stage_of_memory_rl(plain: assumed.Assumptions) -> None:
    memory = {"chunk_tokens": 30, "memory_tokens": 20, "answer_tokens": 40, "max_document_tokens": 200}
    stage = config(
        synthesis={"memory_length_targets": [100]},
        training={"steps": 3, "batch_prompts": 1, "group_size": 2},
        stages={"memory_rl": {"memory": memory}},
    )
    # 4 chunks: 4 updates of 10 and an answer of 20; prompts 100 + 5 x 10 of question + 4 x 10 of memory.
    assert sizes.agent(plain, 100, 30, 20, 40) == (5, exactly(190), exactly(60), 45.0)
    found = sizes.training(stage, plain, stage.stage("memory_rl"))
    assert found.prompt == exactly(6 * 190) and found.response == exactly(6 * 60)
    assert found.trained == exactly(6 * 250) and found.trained_at == 45 + 60 / 5


def test_selection(plain: assumed.Assumptions) -> None:
    run = config(
        synthesis={"length_targets": [100], "samples_per_task": 8, "tasks": ["multiple_choice"]},
        selection={"k": 4, "blind_tries": 2, "max_new_tokens": 20},
        training={"max_input_tokens": 100, "max_output_tokens": 40},
    )
    # 8 made: 2 blind tries and 4 with documents, of 10 tokens; 4 verified; 2 binned, k tries of 20 tokens.
    verified = sizes.verification(run, plain)
    assert verified.response == exactly(8 * 6 * 10) and verified.prompt == exactly(8 * 10 + 8 * 100)
    assert sizes.difficulty(run, plain).response == exactly(4 * 4 * 10)
    scored = sizes.score(run, plain, run.stage("rl_1"))
    assert scored.response == exactly(2 * 4 * 20) and scored.prompt == exactly(200)


def test_benchmarks(plain: assumed.Assumptions) -> None:
    """Responses, prompts cut at the limit, the memory agent's calls, the judge's."""
    found, chain = sizes.evaluation(PAPER, plain, "aime24", False)
    # 30 questions, 32 responses of 20,000 typical tokens; each prompt of 180 is read once.
    assert found.response.typical == 30 * 32 * 20000 and found.prompt == exactly(30 * 180)
    assert chain.high == PAPER.evaluation.max_output_tokens
    short = config(evaluation={"max_input_tokens": 5000, "max_output_tokens": 1000, "samples": 2})
    found, _ = sizes.evaluation(short, plain, "docmath", False)
    assert found.prompt == exactly(800 * 5000) and found.response == exactly(800 * 2 * 1000)
    # 4M tokens in chunks of 32,000: 125, memories of 7500; 21 questions. The split and 126 calls show the question.
    found, _ = sizes.evaluation(PAPER, plain, "corpusqa_4m", True)
    assert found.response == exactly(21 * (125 * 7500 + 6000 + 10))
    assert found.prompt == exactly(21 * (4_000_000 + 126 * 10 + 125 * 7500 + 10))
    assert sizes.judged(PAPER, plain, "docmath") == exactly(400) and sizes.judged(PAPER, plain, "aime24").high == 0
    assert sizes.judged(PAPER, plain, "longmemeval") == exactly(750) and sizes.judged(short, plain, "docmath").high == 0


def test_what_the_generator_is_asked(plain: assumed.Assumptions) -> None:
    size = sizes.Corpus(exactly(100), exactly(100_000), "")
    run = config(
        llm={"generator": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}},
        synthesis={
            "mase": {"enabled": True, "clusters": 2, "tasks": ["viewpoint"], "rounds": 3, "documents_per_cluster": 3,
                     "document_characters": 4000},
            "nl2sql": {"tables": 5, "per_table": 4},
            "extract": {"passage_characters": 2000},
        },
    )  # fmt: skip
    # 2 clusters x 3 rounds x 3 agents, two tries each; two of three read 3000 tokens.
    assert sizes.generated(run, plain, "mase", size) == (exactly(36), exactly(2010), exactly(100))
    # 100,000 tokens in passages of 500.
    assert sizes.generated(run, plain, "extract", size) == (exactly(400), exactly(510), exactly(100))
    assert sizes.generated(run, plain, "nl2sql", size)[0] == exactly(5 * 4 * 2 * 2)
    # The judge reads twice as many documents as are kept, 1000 tokens of each.
    assert sizes.generated(run, plain, "corpus", size) == (exactly(200), exactly(1010), exactly(100))
    # Documents shorter than a passage have one each.
    many = sizes.Corpus(exactly(1000), exactly(100_000), "")
    assert sizes.generated(run, plain, "extract", many)[:2] == (exactly(2000), exactly(110))


def test_the_corpus_is_counted_bounded_or_assumed(plain: assumed.Assumptions) -> None:
    counted = sizes.corpus(PAPER, plain, {"documents": 7, "characters": 400})
    assert counted.documents == exactly(7) and counted.tokens == exactly(100)
    bounded = config(corpus={"max_documents_per_source": 10, "section_characters": 400, "sources": ["networkx"]})
    assert sizes.corpus(bounded, plain).tokens == Range(5 * 40, 10 * 80, 10 * 100)
    assert sizes.corpus(PAPER, plain).tokens.typical == 9.2e9
    assert sizes.corpus(config(), plain).documents == exactly(plain.data.packages_documents)


def test_tables_ask_what_the_tables_module_asks() -> None:
    a = assumed.read()
    assert set(a.tables) == set(layout.TABLES) and a.ablation_tables == layout.ABLATION_TABLES
    assert a.agent_benchmarks == layout.AGENT_BENCHMARKS
    for table, asked in a.tables.items():
        ours = {(m, False, b) for one in asked for m in one.models for b in one.benchmarks}
        ours |= {(r, True, b) for one in asked for r in one.rows for b in one.benchmarks}
        assert ours == {(model.name, model.ablation, benchmark) for model, benchmark, _ in layout.runs(table)}, table


def test_sizes_of_benchmarks_are_those_of_the_tables_and_of_the_registry() -> None:
    a = assumed.read()
    assert set(layout.BENCHMARKS) <= set(a.benchmarks)
    for one in layout.LAYOUTS.values():
        for measure in one.measures.values():
            # A slice, or a mean of several, has other counts; CorpusQA's published file has 329.
            part = measure.parts[0]
            if len(measure.parts) == 1 and part.metric == "avg" and part.benchmark != "corpusqa_128k":
                assert a.benchmarks[part.benchmark].items == measure.items, measure
    for name, size in a.benchmarks.items():
        if name in BENCHMARKS:
            assert size.samples == BENCHMARKS[name].samples, name
            assert (size.judged != "no") == bool(BENCHMARKS[name].judge_rules), name


@pytest.mark.parametrize("match", ["Qwen3-30B-A3B", "Qwen3-4B"])
def test_rates_are_the_arithmetic_that_their_source_states(match: str) -> None:
    a = assumed.read()
    model = a.model(match, "")
    assert model.layers and model.heads and model.kv_heads and model.head_dim and model.efficiency
    attention = 4 * model.heads * model.head_dim * model.layers / 2  # FLOP a token and token of length, mean over a row
    kv = 2 * model.layers * model.kv_heads * model.head_dim * 2
    weights = model.parameters * model.weight_bytes / model.replica_gpus
    flops, width = a.card.flops, a.card.bytes_per_second
    for length, rate in model.prefill.items():
        ideal = flops / (2 * model.active + attention * length)
        assert rate.values() == pytest.approx((model.efficiency.prefill * ideal).values(), rel=0.02)
    for length, rate in model.train.items():
        ideal = flops / (10 * model.active + 4.5 * attention * length)
        assert rate.values() == pytest.approx((model.efficiency.train * ideal).values(), rel=0.02)
    for length, rate in model.decode.items():
        rows = min(64, (0.85 * a.card.memory_gb * 1e9 - weights) / (kv * length))
        ideal = rows / ((weights + rows * kv * length) / width)
        assert rate.values() == pytest.approx((model.efficiency.decode * ideal).values(), rel=0.02)


def test_measured_rates_are_those_of_the_benchmark_tables() -> None:
    a = assumed.read()
    # benchmarks/gpu_longest.md, one H100: 77,804 tokens of prompt and 8 x 192 of response, 0.6B in 28 layers.
    text = (ROOT / "benchmarks" / "gpu_longest.md").read_text(encoding="utf-8")
    assert "| NVIDIA H100 80GB HBM3 | 1 | 20.0 | 77804 | yes | 29.3 |" in text
    tokens, attention = 77804 + 8 * 192, 4 * 2048 * 28 / 2
    active = 28 * (2 * 2048 * 1024 + 2 * 1024 * 1024 + 3 * 1024 * 3072)
    share = tokens * (10 * active + 4.5 * attention * tokens) / 29.3 / a.card.flops
    efficiency = a.model("Qwen3-30B-A3B", "").efficiency
    assert efficiency is not None and efficiency.train.typical == pytest.approx(share, abs=0.005)
    # benchmarks/gpu_step.md: 512 rows of 1,330 + 55 and of 7,649 + 34 tokens, log-probabilities and update.
    steps = (ROOT / "benchmarks" / "gpu_step.md").read_text(encoding="utf-8")
    assert "| 2.69 | 1.88 | 0.21 | 1.02 |" in steps and "| 3.73 | 3.98 | 0.31 | 4.42 |" in steps
    train = a.model("SmolLM2-135M", "").train
    assert train[1385].typical == pytest.approx(512 * 1385 / (1.88 + 1.02), rel=0.01)
    assert train[7680].typical == pytest.approx(512 * 7683 / (3.98 + 4.42), rel=0.01)


def test_every_job_has_a_maker_and_comes_after_it() -> None:
    nodes = graph.nodes(PAPER, assumed.read())
    names = [node.name for node in nodes]
    assert len(names) == len(set(names))
    assert {parent for node in nodes for parent in node.parents} <= set(names)
