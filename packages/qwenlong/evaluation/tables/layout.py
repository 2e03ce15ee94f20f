"""What stands in the paper's tables: the model, benchmark and metric of each cell, and the items behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from qwenlong.core.errors import UsageError
from qwenlong.core.published import Published

#: Tables of scores, in the order of the paper. Table 1 counts data, Table 3 similarities: the audit has them.
TABLES = ("table2", "table4", "table5", "table7", "table8", "table9", "table10", "table11", "table12")
#: Those whose rows are trained alone from another, smaller base model in the paper.
ABLATION_TABLES = ("table2", "table4", "table5")
#: Names that also stand for a benchmark of ours: its folder where a run has no folder of the subset's name.
WHOLE_FILES = MappingProxyType({"mrcr_0_128k": "mrcr", "corpusqa_128k": "corpusqa"})
#: Column of the average over the six benchmarks.
AVERAGE = "avg"


@dataclass(frozen=True)
class Part:
    """A metric of a benchmark's scores.json."""

    benchmark: str
    metric: str = "avg"


@dataclass(frozen=True)
class Measure:
    """What fills the cells of a column (Table 8: of a row): a metric, or the plain mean of several."""

    parts: tuple[Part, ...]
    items: int | None = None
    """Items behind a published cell; none: the cell is the mean of the row's others."""
    counted: bool = True
    """Whether a published cell is a whole number of items right, so a multiple of 1/items."""
    paired: bool = False
    """Whether the parts ask the same items, so that their errors do not average out."""


@dataclass(frozen=True)
class Model:
    """A model of a run: of the recipe, or a row of the ablations."""

    name: str
    ablation: bool = False

    @property
    def folder(self) -> str:
        """Folder of its evaluations, under the results."""
        return f"ablations/{self.name}/evaluation" if self.ablation else f"evaluation/{self.name}"


@dataclass(frozen=True)
class Layout:
    """A table: our models by published row, measures by column. `turned`: models are columns, measures rows."""

    name: str
    models: Mapping[str, Model]
    measures: Mapping[str, Measure]
    turned: bool = False
    averaged: str | None = None
    """The column that the paper computes as the plain mean of others, which `averaged_over` names."""
    averaged_over: tuple[str, ...] = ()
    own: Mapping[str, Model] = field(default_factory=dict)
    """Rows of ours that the paper does not have."""


def _six() -> dict[str, Measure]:
    # The paper gives no number of items. These fit its cells: DocMath's and CorpusQA's are multiples of 1/800 and
    # 1/320; MRCR has 300 in each of five bins up to 131,072 tokens.
    return {
        "docmath": Measure((Part("docmath"),), 800),
        "longbench_v2": Measure((Part("longbench_v2"),), 503),
        "frames": Measure((Part("frames"),), 824),
        "mrcr": Measure((Part("mrcr_0_128k"),), 1500, counted=False),
        "corpusqa": Measure((Part("corpusqa_128k"),), 320),
        "longbench_v1_qa": Measure((Part("longbench_v1_qa"),), 1000, counted=False),
    }


SIX = MappingProxyType(_six())
_AVERAGE = Measure(tuple(part for measure in SIX.values() for part in measure.parts), counted=False)
_AVG_AND_SIX = {AVERAGE: _AVERAGE, **SIX}
_BASE_AND_LAST = {"qwen3_30b_a3b_thinking_2507": Model("base"), "qwenlong_l1_5_30b_a3b": Model("rl_4")}
_BFCL = tuple(Part(f"bfcl_v4_memory_{store}") for store in ("kv", "vector", "rec_sum"))
#: Our models by the names of Table 10's rows.
STAGES = MappingProxyType(
    {
        "base": Model("base"),
        "naive_grpo": Model("naive_grpo"),
        "full_context_rl_stage_1": Model("rl_1"),
        "full_context_rl_stage_2": Model("rl_2"),
        "full_context_rl_stage_3": Model("rl_3"),
        "memory_rl": Model("memory_rl"),
        "sce_merge": Model("sce_merge"),
        "full_context_rl_stage_4": Model("rl_4"),
    }
)


def _ablations(*rows: str) -> dict[str, Model]:
    return {"base": Model("base")} | {row: Model(row, ablation=True) for row in rows}


def _long_context(name: str, models: Mapping[str, Model], own: Mapping[str, Model] | None = None) -> Layout:
    return Layout(name, models, _AVG_AND_SIX, averaged=AVERAGE, averaged_over=tuple(SIX), own=own or {})


_MRCR_1M = Measure((Part("mrcr_512k_1m"),), 300, counted=False)
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            _long_context(
                "table2",
                _ablations("grpo", "task_balanced", "task_balanced_batch_std", "task_balanced_task_batch_std"),
            ),
            _long_context(
                "table4",
                _ablations(
                    "grpo",
                    "token_clip_low_entropy",
                    "token_clip_high_entropy",
                    "sequence_clip_low_entropy_step30",
                    "sequence_clip_low_entropy_step40",
                    "sequence_clip_high_entropy",
                ),
                # The paper reads this run at those two steps alone; a run of ours at its last, too.
                {"sequence_clip_low_entropy": Model("sequence_clip_low_entropy", ablation=True)},
            ),
            _long_context("table5", _ablations("grpo", "aepo")),
            _long_context("table7", _BASE_AND_LAST),
            Layout(
                "table8",
                _BASE_AND_LAST,
                {
                    "mmlu_pro": Measure((Part("mmlu_pro"),), 12032),
                    # avg@32 of 30 questions, so multiples of 1/960.
                    "aime24": Measure((Part("aime24"),), 30, counted=False),
                    "aime25": Measure((Part("aime25"),), 30, counted=False),
                    "gpqa_diamond": Measure((Part("gpqa_diamond"),), 198, counted=False),
                    "bfcl_v4_memory_sum": Measure(_BFCL, 155, counted=False, paired=True),
                    "bfcl_v4_memory_kv": Measure(_BFCL[:1], 155),
                    "bfcl_v4_memory_vector": Measure(_BFCL[1:2], 155),
                    "bfcl_v4_memory_rec_sum": Measure(_BFCL[2:], 155),
                    "longmemeval": Measure((Part("longmemeval"),), 500),
                },
                turned=True,
            ),
            Layout(
                "table9",
                {f"{row}_memory_agent": model for row, model in _BASE_AND_LAST.items()},
                {
                    "mrcr_128k_512k": Measure((Part("mrcr_128k_512k"),), 600, counted=False),
                    "mrcr_512k_1m": _MRCR_1M,
                    # No number of questions fits all 1M cells; 329 is the published file.
                    "corpusqa_1m": Measure((Part("corpusqa_1m"),), 329, counted=False),
                    # 9.52 and 14.29 are 2 and 3 of 21.
                    "corpusqa_4m": Measure((Part("corpusqa_4m"),), 21, counted=False),
                },
            ),
            Layout(
                "table10",
                STAGES,
                {**_AVG_AND_SIX, "memory_agent_mrcr_512k_1m": _MRCR_1M},
                averaged=AVERAGE,
                averaged_over=tuple(SIX),
            ),
            Layout(
                "table11",
                _BASE_AND_LAST,
                {
                    "overall": Measure((Part("longbench_v2"),), 503),
                    "easy": Measure((Part("longbench_v2", "easy"),), 192),
                    "hard": Measure((Part("longbench_v2", "hard"),), 311),
                    "short": Measure((Part("longbench_v2", "short"),), 180),
                    "medium": Measure((Part("longbench_v2", "medium"),), 215),
                    "long": Measure((Part("longbench_v2", "long"),), 108),
                },
            ),
            Layout(
                "table12",
                _BASE_AND_LAST,
                {
                    AVERAGE: Measure((Part("longbench_v1_qa"),), 1000, counted=False),
                    "2wikimultihopqa": Measure((Part("longbench_v1_qa", "2wikimqa"),), 200),
                    "hotpotqa": Measure((Part("longbench_v1_qa", "hotpotqa"),), 200),
                    "musique": Measure((Part("longbench_v1_qa", "musique"),), 200),
                    "narrativeqa": Measure((Part("longbench_v1_qa", "narrativeqa"),), 200),
                    "qasper": Measure((Part("longbench_v1_qa", "qasper"),), 200),
                },
                averaged=AVERAGE,
                averaged_over=("2wikimultihopqa", "hotpotqa", "musique", "narrativeqa", "qasper"),
            ),
        )
    }
)

Mode = Literal["full", "agent"]


def name_of(word: str) -> str:
    """Return "table7" for "7" or "table7". Raises UsageError naming the tables there are."""
    name = word if word.startswith("table") else f"table{word}"
    if name not in LAYOUTS:
        known = ", ".join(table.removeprefix("table") for table in TABLES)
        raise UsageError(f"no table {word!r} of scores in the paper; there are {known}")
    return name


def runs(table: str) -> Iterator[tuple[Model, str, Mode]]:
    """Yield what must be evaluated to fill a table: model, benchmark, and whether through the memory agent."""
    layout = LAYOUTS[table]
    for model in (*layout.models.values(), *layout.own.values()):
        for benchmark in dict.fromkeys(part.benchmark for m in layout.measures.values() for part in m.parts):
            if not left_out(model, benchmark):
                yield model, benchmark, "agent" if benchmark in AGENT_BENCHMARKS else "full"


def left_out(model: Model, benchmark: str) -> bool:
    """Return whether the recipe leaves a model out: naive GRPO's is not read through the memory agent."""
    return model.name == "naive_grpo" and benchmark in AGENT_BENCHMARKS


def rows_and_columns(layout: Layout, published: Published) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of rows and columns: the paper's in its order, then rows of ours."""
    table = published.tables[layout.name]
    return (*table.rows, *layout.own), table.columns


#: Benchmarks of Table 9 and of Table 10's last column: longer than the window, read through the memory agent.
AGENT_BENCHMARKS = tuple(part.benchmark for measure in LAYOUTS["table9"].measures.values() for part in measure.parts)
#: Every benchmark of the paper.
BENCHMARKS = tuple(
    dict.fromkeys(part.benchmark for one in LAYOUTS.values() for m in one.measures.values() for part in m.parts)
)
