"""The jobs of a configuration and what each waits for, as Snakemake names them (fetching is left out)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenlong.audit.planning.assumed import Assumptions
from qwenlong.core.config import MERGED_MODELS, MODELS, PARENTS, RL_STAGES, SCORED_STAGES, AblationRow, Config

Kind = Literal["light", "generate", "select", "train", "merge"]
#: Rules that convert, by stage.
CONVERT = {name: f"convert_{name[-1]}" for name in SCORED_STAGES} | {
    "memory_rl": "convert_memory",
    "naive_grpo": "convert_naive",
}
#: The rule that makes each model.
MAKER = {"base": "base", "sce_merge": "sce_merge", **CONVERT}
OWN = ("heldout", "heldout_long")


@dataclass(frozen=True)
class Node:
    """A job: rule and wildcards, stage of the plan, resources of the configuration, and what it waits for."""

    name: str
    stage: str
    kind: Kind
    parents: tuple[str, ...] = ()
    rule: str = ""
    """The rule, where the name holds wildcards."""
    model: str = ""
    benchmark: str = ""
    agent: bool = False


@dataclass(frozen=True)
class _Cell:
    """A model of the recipe, or a row of the ablations, on a benchmark."""

    model: str
    benchmark: str
    row: bool = False
    agent: bool = False


def rows(config: Config) -> list[str]:
    """Return the names of the ablations that are trained."""
    return [row.name for row in config.ablations.rows if isinstance(row, AblationRow)]


def merges(config: Config) -> list[str]:
    """Return the names of merges beside the recipe's own."""
    return [row.name for row in config.ablations.merges]


def nodes(config: Config, assumptions: Assumptions) -> list[Node]:
    """Return the jobs of the whole run: of the ablations too where the report waits for them."""
    found = [*_data(config), *_training()]
    tables = [
        name for name in config.evaluation.tables if config.ablations.in_report or name not in _ablation(assumptions)
    ]
    asked = _recipe_cells(config, assumptions)
    # The audit waits for the recipe's cells and, with ablations.in_report, for theirs.
    extra = _ablation_cells(config, assumptions) if config.ablations.in_report else []
    cells = list(dict.fromkeys([*asked, *extra]))
    made = {cell.model for cell in cells if cell.row}
    found += _branch(config, made)
    scores: dict[tuple[str, str], str] = {}
    for cell in cells:
        ask, score = _evaluation(config, cell)
        found += [ask, score]
        scores[cell.model, cell.benchmark] = score.name
    for table in tables:
        parents = tuple(dict.fromkeys(scores[c.model, c.benchmark] for c in _cells(config, assumptions, table)))
        found.append(Node(f"paper_table {table}", "audit", "light", parents, "paper_table"))
    parents = ("corpus", "synthesis", "data_card", "verification", "difficulty", "bins", "sce_merge")
    parents += tuple(f"score_{name[-1]}" for name in SCORED_STAGES) + RL_STAGES + tuple(scores.values())
    return [*found, Node("audit", "audit", "light", parents)]


def _ablation(assumptions: Assumptions) -> tuple[str, ...]:
    return assumptions.ablation_tables


def _data(config: Config) -> list[Node]:
    synthesis = config.synthesis
    asked = [name for name in ("mase", "extract", "nl2sql") if getattr(synthesis, name).enabled]
    return [
        Node("corpus", "corpus", "light"),
        *(Node(name, name, "light", ("corpus",)) for name in asked),
        Node("tokenizer", "synthesis", "light", ("corpus",)),
        Node("synthesis", "synthesis", "light", ("corpus", "tokenizer", *asked)),
        Node("base", "base", "train", ("synthesis", "tokenizer")),
        Node("verification", "verification", "select", ("synthesis", "base")),
        Node("difficulty", "difficulty", "select", ("verification", "synthesis", "base")),
        Node("bins", "bins", "light", ("difficulty",)),
        Node(
            "data_card",
            "data_card",
            "light",
            ("corpus", "synthesis", "verification", "difficulty", "bins"),
            "data_card",
        ),
    ]


def _training() -> list[Node]:
    found = []
    for name in RL_STAGES:
        parent = MAKER[PARENTS[name]]
        data = {"memory_rl": "synthesis", "naive_grpo": "bins"}.get(name, f"score_{name[-1]}")
        if name in SCORED_STAGES:
            found.append(Node(data, data, "select", ("bins", "synthesis", parent), model=name))
        found.append(Node(name, name, "train", (data, "synthesis", parent), model=name))
        found.append(Node(CONVERT[name], "convert", "merge", (name, parent), model=name))
    experts = tuple(dict.fromkeys(MAKER[model] for model in MERGED_MODELS))
    return [*found, Node("sce_merge", "merge", "merge", ("base", *experts))]


def _branch(config: Config, made: set[str]) -> list[Node]:
    found = []
    for row in rows(config):
        if row in made:
            found.append(Node(f"ablation_{row}", "ablations: train", "train", ("bins", "synthesis", "base"), model=row))
            found.append(
                Node(
                    f"convert_ablation {row}",
                    "ablations: models",
                    "merge",
                    (f"ablation_{row}", "base"),
                    "convert_ablation",
                    row,
                )
            )
    experts = tuple(dict.fromkeys(MAKER[model] for model in MERGED_MODELS))
    for row in merges(config):
        if row in made:
            parents = ("base", *experts)
            found.append(Node(f"merge_ablation {row}", "ablations: models", "merge", parents, "merge_ablation", row))
    return found


def _recipe_cells(config: Config, assumptions: Assumptions) -> list[_Cell]:
    e = config.evaluation
    found = [_Cell(model, name, agent=_agent(config, assumptions, name)) for model in MODELS for name in e.benchmarks]
    found += [
        _Cell(model, name, agent=True) for model in MODELS if model != "naive_grpo" for name in e.agent_benchmarks
    ]
    chosen = [name for name in e.tables if name not in _ablation(assumptions)]
    return found + [cell for table in chosen for cell in _cells(config, assumptions, table)]


def _ablation_cells(config: Config, assumptions: Assumptions) -> list[_Cell]:
    e = config.evaluation
    both, merged = [*rows(config), *merges(config)], merges(config)
    found = [_Cell(row, name, True, _agent(config, assumptions, name)) for row in both for name in e.benchmarks]
    found += [_Cell(row, name, True, True) for row in merged for name in e.agent_benchmarks]
    chosen = [name for name in e.tables if name in _ablation(assumptions)]
    return found + [cell for table in chosen for cell in _cells(config, assumptions, table)]


def _cells(config: Config, assumptions: Assumptions, table: str) -> list[_Cell]:
    known = rows(config)
    found = []
    for asked in assumptions.tables[table]:
        for benchmark in asked.benchmarks:
            agent = _agent(config, assumptions, benchmark)
            found += [_Cell(model, benchmark, False, agent) for model in asked.models]
            found += [_Cell(row, benchmark, True, agent) for row in asked.rows if row in known]
    return found


def _agent(config: Config, assumptions: Assumptions, benchmark: str) -> bool:
    """Whether the workflow reads a benchmark through the memory agent: what the configuration says goes first."""
    if benchmark in config.evaluation.benchmarks:
        return False
    return benchmark in config.evaluation.agent_benchmarks or benchmark in assumptions.agent_benchmarks


def _evaluation(config: Config, cell: _Cell) -> tuple[Node, Node]:
    if cell.row:
        ask_rule, score_rule = "evaluate_ablation" + ("_agent" if cell.agent else ""), "score_ablation"
        maker = f"{'merge' if cell.model in merges(config) else 'convert'}_ablation {cell.model}"
        stage = "ablations: evaluate"
    else:
        ask_rule, score_rule = "evaluate_agent" if cell.agent else "evaluate_full", "score_evaluation"
        maker, stage = MAKER[cell.model], "evaluation"
    data = ("synthesis",) if cell.benchmark in OWN else ()
    where = f"{cell.model} {cell.benchmark}"
    ask = Node(
        f"{ask_rule} {where}", stage, "generate", (maker, *data), ask_rule, cell.model, cell.benchmark, cell.agent
    )
    score = Node(
        f"{score_rule} {where}", stage, "light", (ask.name, *data), score_rule, cell.model, cell.benchmark, cell.agent
    )
    return ask, score
