"""Length extension: the target histogram, uniform places of evidence, distractors of other clusters, linear cost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import qwenlong
from qwenlong.core import templates
from qwenlong.core.config import Config, DistractorsConfig, LengthsConfig
from qwenlong.core.records import Document, Evidence
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import compose
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.distractors import Distractors
from qwenlong.synthesis.graph import build
from qwenlong.synthesis.lengths import FIGURE3, Histogram, histogram
from qwenlong.synthesis.places import Block, scatter, summary
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.run import Result, counted, synthesize
from qwenlong.synthesis.tables import Table

SETS = ("samples", "heldout", "heldout_long", "memory")
counts = st.lists(st.integers(0, 500), min_size=1, max_size=30).filter(any)


def test_figure3_is_the_papers() -> None:
    claims = yaml.safe_load((Path(qwenlong.__file__).parent / "core" / "published" / "claims.yaml").read_text())
    said = claims["figure3_input_length_histogram"]
    made = histogram(LengthsConfig())
    assert list(FIGURE3) == said["counts"] and made.width == said["bin_tokens"]
    report = made.distance([])
    assert made.longest == 120_000 and made.long == 66_000
    assert report["target_mean"] == pytest.approx(34_294, abs=1)
    assert report["target_long_share"] == pytest.approx(0.19, abs=0.005)
    small = histogram(LengthsConfig(scale=0.1))
    assert (small.width, small.longest, small.long) == (600, 12_000, 6_600)


@given(counts, st.integers(0, 2000))
def test_quotas_are_exact_to_less_than_one_sample(shape: list[int], n: int) -> None:
    quotas = Histogram(10, tuple(shape)).quotas(n)
    assert sum(quotas) == n
    assert all(abs(q - n * c / sum(shape)) < 1 for q, c in zip(quotas, shape, strict=True))


@given(counts, st.lists(st.integers(0, 400), min_size=1, max_size=100))
def test_distance_is_the_share_in_a_wrong_bin(shape: list[int], lengths: list[int]) -> None:
    made = Histogram(10, tuple(shape))
    report = made.distance(lengths)
    assert sum(report["samples"]) == len(lengths) == sum(report["target"])
    assert 0 <= report["total_variation"] <= 1
    exact = [low for b, c in enumerate(shape) for low in [made.bounds(b)[0]] * c]
    assert made.distance(exact)["total_variation"] == 0


def test_settings_that_no_prompt_can_meet_are_refused() -> None:
    for values in ({"histogram": [0, 0]}, {"histogram": []}, {"scale": 0.001}, {"scale": 0}, {"histogram": [-1, 2]}):
        with pytest.raises(ValidationError):
            LengthsConfig.model_validate(values)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 0.99, allow_subnormal=False)), min_size=1, max_size=6),
    st.lists(st.integers(1, 50), max_size=30),
    st.integers(0, 1000),
)
def test_scatter_keeps_all_blocks_and_keeps_evidence_apart(
    evidence: list[tuple[int, float]], sizes: list[int], seed: int
) -> None:
    blocks = [Block(f"e{n}", size, int(size * share)) for n, (size, share) in enumerate(evidence)]
    others = [Block(f"o{n}", size) for n, size in enumerate(sizes)]
    order, places = scatter(blocks, others, random.Random(seed))
    assert sorted(order) == sorted(block.item for block in (*blocks, *others))
    sizes_by = {block.item: block.size for block in (*blocks, *others)}
    total = sum(sizes_by.values())
    for block in blocks:
        before = sum(sizes_by[name] for name in order[: order.index(block.item)])
        assert places[block.item] == pytest.approx((before + block.offset) / total)
    if len(others) >= len(blocks) - 1:
        assert not any(a[0] == b[0] == "e" for a, b in zip(order, order[1:], strict=False))


@pytest.mark.parametrize("n_evidence", [1, 3])
def test_places_are_uniform_over_tokens_though_documents_differ_in_length(n_evidence: int) -> None:
    found: list[float] = []
    for number in range(600):
        draw = random.Random(number)
        # Long evidence among documents of very different lengths.
        blocks = [Block(f"e{n}", 2000, draw.randrange(2000)) for n in range(n_evidence)]
        others = [Block(f"o{n}", draw.choice((50, 100, 400, 1500))) for n in range(60)]
        found += scatter(blocks, others, draw)[1].values()
    # Critical value of the one-sample test at 1%.
    assert summary(found)["ks"] < 1.63 / len(found) ** 0.5 + 0.01


class TestOnRealDocuments:
    """The whole of it on the corpus of these tests."""

    @pytest.fixture(scope="class")
    def spread(self, config: Config) -> Config:
        synthesis = config.synthesis.model_copy(
            update={
                "samples_per_task": 60,
                "lengths": LengthsConfig(histogram=(0, 3, 4, 2, 1), bin_tokens=400),
                "evidence_positions": "uniform",
                "distractors": DistractorsConfig(clusters=8),
            }
        )
        return config.model_copy(update={"synthesis": synthesis})

    @pytest.fixture(scope="class")
    def made(self, spread: Config, corpus: list[Document], tokenizer: Tokenizer) -> Result:
        return synthesize(spread, corpus, tokenizer)

    def test_lengths_follow_the_histogram(self, made: Result) -> None:
        report = made.funnel["lengths"]["samples"]
        assert report["total_variation"] <= 0.02
        assert Counter(sample.n_tokens // 400 for sample in made.samples) == Counter(
            {b: n for b, n in enumerate(report["samples"]) if n}
        )
        for row in made.funnel["tasks"].values():
            bins = row["samples"]["length_bins"]
            assert sum(bins["kept"]) == row["samples"]["kept"]
            assert bins["moved"][-1] == row["samples"]["wanted"] - row["samples"]["kept"]
        # Within a bin targets are spread: the achieved lengths do not pile up at its end.
        within = [sample.n_tokens % 400 / 400 for sample in made.samples]
        assert summary(within)["ks"] < 0.15

    def test_the_checker_confirms_every_answer(self, made: Result, tokenizer: Tokenizer) -> None:
        documents = {document.id: document for document in made.documents}
        report = check({name: getattr(made, name) for name in SETS}, documents, tokenizer)
        assert report.faults == [] and report.derived == report.checked

    def test_places_in_the_prompt_are_those_recorded(self, made: Result, tokenizer: Tokenizer) -> None:
        documents = {document.id: document for document in made.documents}
        for sample in made.samples:
            shown = [documents[name] for name in sample.documents]
            homes = list(dict.fromkeys(span.document for span in sample.evidence))
            whole = tokenizer.count(templates.render_documents(shown))
            for name, place in zip(homes, sample.checks["evidence_places"], strict=True):
                at = sample.documents.index(name)
                start = min(span.start for span in sample.evidence if span.document == name)
                before = templates.render_documents(shown[:at]) + documents[name].text[:start]
                assert tokenizer.count(before) / whole == pytest.approx(place, abs=0.06)

    def test_places_pass_a_test_of_uniformity(self, made: Result) -> None:
        report = made.funnel["evidence_places"]["samples"]
        assert report["n"] > 300 and sum(report["deciles"]) == report["n"]
        # Critical value at 5%.
        assert report["ks"] < 1.36 / report["n"] ** 0.5

    def test_same_inputs_same_result(
        self, spread: Config, made: Result, corpus: list[Document], tokenizer: Tokenizer
    ) -> None:
        again = synthesize(spread, corpus[::-1], tokenizer)
        assert again.samples == made.samples and again.funnel == made.funnel

    def test_memory_and_long_samples_keep_their_bounds(
        self, made: Result, spread: Config, tokenizer: Tokenizer
    ) -> None:
        documents = {document.id: document for document in made.documents}
        assert made.memory and made.heldout_long
        for sample in made.memory:
            assert tokenizer.count(templates.render_documents([documents[d] for d in sample.documents])) <= 448
        for sample in made.heldout_long:
            assert sample.n_tokens >= spread.synthesis.long_length_target


def pool_of(documents: Sequence[Document], tokenizer: Tokenizer) -> Pool:
    listed = counted(sorted(documents, key=lambda d: d.id), tokenizer)
    return Pool(listed, Table([]), build([]), 10**6, 17)


def document(name: str, text: str, title: str = "") -> Document:
    return Document(
        id=name, source="s", category="general", title=title or name, text=text, n_tokens=0, licence="MIT",
        metadata={"kind": "prose", "entity": name},
    )  # fmt: skip


def candidate(name: str, holds: object = None) -> Candidate:
    return Candidate(
        task="reading_comprehension", question_type="q", template="t@1", question="What is it?", answers=("it",),
        evidence=(Evidence(document=name, start=0, end=45),), reasoning_chain=("c",),
        holds=holds or (lambda _: True),  # type: ignore[arg-type]
    )  # fmt: skip


TOPICS = {
    "sea": "The ship sailed over the ocean with fish, harbours, waves, sailors and a captain on the deck. ",
    "sum": "The theorem proves an equation over integers by induction on prime numbers and algebra. ",
    "food": "Boil the pasta, fry onions in butter, add salt, pepper and cheese, then serve the soup hot. ",
    "law": "The court heard the appeal, and the judge ruled that the contract and statute bind the plaintiff. ",
}


def topical(n: int = 60) -> list[Document]:
    draw = random.Random(5)
    made = []
    for topic, text in TOPICS.items():
        for number in range(n):
            words = text.split()
            draw.shuffle(words)
            made.append(document(f"{topic}-{number:03d}", " ".join(words * draw.randint(1, 6)) + f" {topic}{number}"))
    return made


@pytest.mark.parametrize(("near", "low", "high"), [(0.0, 0.0, 0.0), (0.5, 0.3, 0.7), (1.0, 1.0, 1.0)])
def test_distractors_come_from_other_clusters_by_share(
    near: float, low: float, high: float, tokenizer: Tokenizer
) -> None:
    pool = pool_of(topical(), tokenizer)
    drawn = Distractors(pool, DistractorsConfig(clusters=4, near_share=near))
    composer = compose.Composer(pool, tokenizer, drawn, True)
    made = composer.compose(candidate("sea-003"), compose.Wanted(2500, 2600, 2400), random.Random(1))
    assert not isinstance(made, str) and 2400 <= made.n_tokens <= 2600
    topics = [name.partition("-")[0] for name in made.documents if name != "sea-003"]
    assert low <= topics.count("sea") / len(topics) <= high


def test_clusters_do_not_depend_on_the_run(tokenizer: Tokenizer) -> None:
    pool = pool_of(topical(), tokenizer)
    labels = [Distractors(pool_of(topical(), tokenizer), DistractorsConfig(clusters=4)).labels for _ in range(2)]
    assert labels[0] == labels[1] is not None
    by_topic = {topic: {n for d, n in zip(pool.documents, labels[0], strict=True) if d.id[:3] == topic[:3]}
                for topic in TOPICS}  # fmt: skip
    assert all(len(numbers) == 1 for numbers in by_topic.values()), by_topic
    # More clusters than different documents, or than documents at all, is no error.
    assert Distractors(pool_of(topical(1), tokenizer), DistractorsConfig(clusters=50)).labels is not None


def test_no_second_evidence_and_nothing_that_changes_the_answer(tokenizer: Tokenizer) -> None:
    home = document("home", "The lighthouse keeper wrote down the number 4711 in the evening log.", "The log")
    bad = [
        document("twin", "Another log with the same name altogether, on other days.", "the LOG"),
        document("copy", "It says: The lighthouse keeper wrote down the number 4711 in the evening log. So it was."),
        document("rival", "RIVAL " + TOPICS["law"]),
    ]
    pool = pool_of([home, *bad, *topical(20)], tokenizer)
    asked: list[int] = []

    def holds(shown: Sequence[Document]) -> bool:
        asked.append(len(shown))
        return not any(document.text.startswith("RIVAL") for document in shown)

    composer = compose.Composer(pool, tokenizer, Distractors(pool, DistractorsConfig()), True)
    # Everything there is: each document is tried, the bad ones stay out.
    made = composer.compose(candidate("home", holds), compose.Wanted(10**5, 10**5), random.Random(2))
    assert not isinstance(made, str)
    assert set(made.documents) == {"home", *(d.id for d in topical(20))}
    assert len(asked) < 40, "documents are tried together, not one by one"


def test_exact_counts_and_questions_do_not_grow_with_the_documents(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(topical(400), tokenizer)
    calls = Counter[str]()
    count_chat = Tokenizer.count_chat

    def counting(self: Tokenizer, messages: Sequence[dict[str, str]]) -> int:
        calls["exact"] += 1
        return count_chat(self, messages)

    def holds(_: Sequence[Document]) -> bool:
        calls["holds"] += 1
        return True

    monkeypatch.setattr(Tokenizer, "count_chat", counting)
    composer = compose.Composer(pool, tokenizer, Distractors(pool, DistractorsConfig()), True)
    made = composer.compose(candidate("sea-003", holds), compose.Wanted(60_000, 60_500, 59_500), random.Random(3))
    assert not isinstance(made, str) and 59_500 <= made.n_tokens <= 60_500 and len(made.documents) > 300
    assert calls["exact"] <= 1 + compose.MAX_COUNTS and calls["holds"] <= 12


def test_what_does_not_fit_is_said(tokenizer: Tokenizer) -> None:
    pool = pool_of(topical(5), tokenizer)
    composer = compose.Composer(pool, tokenizer, Distractors(pool, DistractorsConfig()), True)
    draw = random.Random(4)
    assert composer.compose(candidate("sea-003"), compose.Wanted(40, 40), draw) == "too_long"
    assert composer.compose(candidate("sea-003", lambda _: False), compose.Wanted(900, 900), draw) == "not_extended"
    never = compose.Wanted(10**7, None, reach=True)
    assert composer.compose(candidate("sea-003"), never, draw) == "not_extended"
