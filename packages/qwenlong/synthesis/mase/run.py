"""The rounds: propose, ground, compare with the history, solve, verify; each asks for more than the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from qwenlong.core import templates
from qwenlong.core.config import Config, EndpointConfig
from qwenlong.core.llm import Client, Outcome, gather
from qwenlong.core.records import Document
from qwenlong.synthesis import agents as shared
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.decontaminate import Seen, normalised
from qwenlong.synthesis.mase import agents, clusters
from qwenlong.synthesis.mase.output import holds
from qwenlong.synthesis.mase.proposals import KINDS, Grounded, Item, ground, needles
from qwenlong.synthesis.splits import split

T = TypeVar("T")
GENERATOR = "mase@1"
ROLES = ("proposer", "solver", "verifier")
#: What becomes of a proposal, in the order of the steps; the counts add up to "proposed".
STEPS = (
    *("malformed", "ungrounded", "leaked", "implausible", "too_easy", "too_similar", "unsolved", "disagreed"),
    *("no_verdict", "unavailable", "accepted"),
)
_GROUNDING = {"ungrounded", "leaked", "implausible", "too_easy"}


@dataclass
class _Book:
    """What has been accepted and counted so far."""

    candidates: list[Candidate] = field(default_factory=list)
    history: dict[str, list[Grounded]] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    steps: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    refusals: dict[str, Counter[str]] = field(default_factory=lambda: {role: Counter() for role in ROLES})
    waiting: set[str] = field(default_factory=set)

    def count(self, item: Item, step: str) -> None:
        self.steps[item.round, item.kind, step] += 1
        if step == "unavailable":
            self.waiting.add(item.cluster.id)


def endpoints(config: Config) -> dict[str, EndpointConfig]:
    """Return the endpoint of each role. Raises ConfigError when there is none for the proposer."""
    mase = config.synthesis.mase
    proposer = shared.endpoint(config, "synthesis.mase.proposer", mase.proposer)
    return {"proposer": proposer, "solver": mase.solver or proposer, "verifier": mase.verifier or proposer}


def journals(folder: Path) -> dict[str, Path]:
    """Return the journal of each role in their folder."""
    return {role: folder / f"{role}.jsonl" for role in ROLES}


async def evolve(
    config: Config, documents: Sequence[Document], folder: Path, clients: Mapping[str, Client]
) -> shared.Result:
    """Return the candidates of all rounds; what was answered before stands in the journals in `folder`.

    Only documents of the training side are used: the questions are for training, and held-out entities stay unseen.
    Rounds wait for each other. A cluster with an outage goes no further in this run: what a later round would ask
    depends on what the earlier one brings, and would be paid for twice.
    """
    mase, seed = config.synthesis.mase, config.run.seed
    train, _ = split(documents, config.synthesis.heldout_share, config.synthesis.split_seed)
    groups = clusters.make(train, mase.clusters, mase.documents_per_cluster, seed)
    book = _Book()
    files = journals(folder)
    for number in range(1, mase.rounds + 1):
        items = [item for item in _items(config, groups, number) if item.cluster.id not in book.waiting]
        name = f"round {number} of {mase.rounds}"

        def history(item: Item) -> list[Grounded]:
            accepted = book.history.get(item.cluster.id, [])
            return accepted[len(accepted) - min(mase.history, len(accepted)) :]

        proposed = await gather(
            clients["proposer"],
            items,
            lambda item: agents.propose(item, history(item), mase, seed),
            lambda item, proposal: ground(item, proposal, mase.document_characters, seed),
            files["proposer"],
            key=lambda item: item.id,
            description=f"{name}: propose",
        )
        posed = _new(items, proposed, book, mase.max_similarity)
        solved = await gather(
            clients["solver"],
            posed,
            lambda one: agents.solve(one, mase, seed),
            agents.read_answer,
            files["solver"],
            key=lambda one: one.id,
            description=f"{name}: solve",
        )
        answered = [
            replace(one, answer=answer)
            for one, answer in _survivors(posed, solved, book, "solver", lambda _: "unsolved", lambda one: one.item)
        ]
        disputed = [one for one in answered if not KINDS[one.item.kind].exact]
        verdicts = await gather(
            clients["verifier"],
            disputed,
            lambda one: agents.verify(one, mase, seed),
            agents.read_verdict,
            files["verifier"],
            key=lambda one: one.id,
            description=f"{name}: verify",
        )
        judged = _survivors(disputed, verdicts, book, "verifier", lambda _: "no_verdict", lambda one: one.item)
        agreed = {one.id: verdict for one, verdict in judged}
        agreed |= {one.id: agents.agrees_exactly(one) for one in answered if KINDS[one.item.kind].exact}
        for one in answered:
            if one.id in agreed:
                _settle(one, agreed[one.id], book)
    return shared.Result(
        book.candidates, _funnel(book, groups, mase.rounds), sum(_of(book, step="unavailable").values())
    )


def _items(config: Config, groups: Sequence[clusters.Cluster], number: int) -> list[Item]:
    mase = config.synthesis.mase
    return [
        Item(cluster, kind, number, n)
        for cluster in groups
        for kind in sorted(set(mase.tasks))
        if kind != "dialogue_memory" or needles(number, cluster, mase.document_characters)
        for n in range(mase.per_cluster)
    ]


def _survivors(
    items: Sequence[T],
    outcomes: Sequence[Outcome[Any]],
    book: _Book,
    role: str,
    step: Callable[[str], str],
    item_of: Callable[[T], Item],
) -> list[tuple[T, Any]]:
    """Return the items with a value, in order; count the others under the step that lost them."""
    kept = []
    for one, outcome in zip(items, outcomes, strict=True):
        if outcome.ok:
            kept.append((one, outcome.value))
            continue
        error = outcome.error or ""
        book.refusals[role][error] += 1
        book.count(item_of(one), "unavailable" if outcome.outage else step(error))
    return kept


def _new(items: Sequence[Item], outcomes: Sequence[Outcome[Grounded]], book: _Book, bound: float) -> list[agents.Posed]:
    """Return the grounded proposals that ask for something new; of two alike in one round the first counts."""

    def step(error: str) -> str:
        return error if error in _GROUNDING else "malformed"

    kept: list[agents.Posed] = []
    round_seen: dict[str, list[str]] = {}
    for item, proposal in _survivors(items, outcomes, book, "proposer", step, lambda item: item):
        asked = _asked(proposal)
        near = round_seen.setdefault(item.cluster.id, [])
        others = [*(one.question for one in book.history.get(item.cluster.id, [])), *near]
        if book.seen.repeats(asked) or any(similarity(proposal.question, other) > bound for other in others):
            book.count(item, "too_similar")
            continue
        near.append(proposal.question)
        kept.append(agents.Posed(item, proposal))
    return kept


def _asked(proposal: Grounded) -> str:
    return f"{proposal.question}\n{templates.render_choices(proposal.choices)}".strip()


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two questions over their words and pairs of neighbouring words, in [0, 1]."""
    first, second = _grams(one), _grams(other)
    union = first | second
    return len(first & second) / len(union) if union else 1.0


def _grams(text: str) -> set[str]:
    words = normalised(text).split()
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))}


def _settle(one: agents.Posed, agreed: bool, book: _Book) -> None:
    item, proposal = one.item, one.proposal
    if agreed and book.seen.repeats(_asked(proposal)):
        book.count(item, "too_similar")
        return
    book.count(item, "accepted" if agreed else "disagreed")
    if not agreed:
        return
    book.seen.add(_asked(proposal))
    book.history.setdefault(item.cluster.id, []).append(proposal)
    kind = KINDS[item.kind]
    made = Candidate(
        task=kind.task,
        question_type=kind.question_type,
        template=f"mase_{item.kind}@1",
        question=proposal.question,
        answers=(proposal.answer,),
        evidence=proposal.evidence,
        reasoning_chain=proposal.reasoning,
        holds=lambda _: False,
        instruction=proposal.instruction,
        choices=proposal.choices,
        answer_prefix=proposal.answer_prefix,
        n_needles=proposal.n_needles,
        n_hops=0 if proposal.n_needles else len(proposal.evidence),
        generator=GENERATOR,
        quotes=agents.quotes(one),
    )
    book.candidates.append(replace(made, holds=holds(made)))


def _of(book: _Book, number: int | None = None, kind: str | None = None, step: str | None = None) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (of_round, of_kind, of_step), n in book.steps.items():
        if number in (None, of_round) and kind in (None, of_kind) and step in (None, of_step):
            counts[of_step] += n
    return counts


def _funnel(book: _Book, groups: Sequence[clusters.Cluster], rounds: int) -> dict[str, Any]:
    def row(counts: Counter[str]) -> dict[str, Any]:
        proposed = counts.total()
        share = round(counts["accepted"] / proposed, 4) if proposed else 0.0
        return {"proposed": proposed, **{step: counts[step] for step in STEPS}, "acceptance": share}

    kinds = sorted({kind for _, kind, _ in book.steps})
    return {
        "generator": GENERATOR,
        "prompts": templates.digest(agents.FOLDER),
        "clusters": len(groups),
        "waiting_clusters": len(book.waiting),
        "all": row(_of(book)),
        "rounds": {str(number): row(_of(book, number)) for number in range(1, rounds + 1)},
        "tasks": {kind: row(_of(book, kind=kind)) for kind in kinds},
        "refusals": {role: dict(sorted(counts.items())) for role, counts in book.refusals.items()},
    }
