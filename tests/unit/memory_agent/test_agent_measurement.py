"""The measurement of the gains: what the endpoint charges, what readers may know, and what the goals are."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

import agent_endpoint  # noqa: E402
import agent_items  # noqa: E402
import agent_readers  # noqa: E402
import httpx  # noqa: E402
from agent_gains_asking import answer_all, sections  # noqa: E402

from qwenlong.core.records import Document as Text  # noqa: E402
from qwenlong.core.tokens import Tokenizer  # noqa: E402
from qwenlong.memory_agent import backends  # noqa: E402
from qwenlong.memory_agent.loop import update_messages  # noqa: E402

MODEL = ROOT / "models" / "nano"
CHUNK, SIZES = 400, (256, 64, 2048)
ALL = {"skip": True, "recall_tokens": 64, "recall_chunks": True, "order": "section_first", "repair": True}


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer(MODEL)


@pytest.fixture(scope="module")
def documents() -> list[agent_items.Document]:
    """Five documents of the licence's text over and over, thirty questions."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    pieces = [licence[start : start + 2000] for start in range(0, 10000, 2000)]
    made = {"source": "licence", "category": "general", "title": "", "n_tokens": 0, "licence": "Apache-2.0"}
    texts = [Text(id=str(n), text=pieces[n % len(pieces)], **made) for n in range(30)]
    return agent_items.make(texts, 5, 9000, seed=3)


def ask(tokenizer, documents, reader, gains, at_once=8, **server):
    chunks = {d.id: sections(d, tokenizer, CHUNK) for d in documents}
    endpoint = agent_endpoint.Endpoint(tokenizer, agent_endpoint.Settings(**server))
    backend = agent_endpoint.Inside(endpoint, reader, tokenizer)
    with asyncio.Runner(loop_factory=agent_endpoint.Clock) as runner:
        right, _, seconds = runner.run(answer_all(backend, gains, documents, chunks, at_once, SIZES))
    return {item: value for kind in right.values() for item, value in kind.items()}, endpoint.stats, seconds


def test_the_perfect_reader_is_right_in_the_plain_loop_and_with_all_gains_three_times_as_fast(nano, documents):
    plain, _, slow = ask(nano, documents, "perfect", {}, at_once=1)
    every = {**ALL, "early_exit": True, "parallel": 4}
    fast, _, quick = ask(nano, documents, "perfect", every, at_once=1, ngram=True)
    assert len(plain) == 30 and set(plain.values()) == {1.0}
    assert fast == plain
    assert slow >= 3 * quick


def test_without_parallel_and_early_exit_the_shared_machine_works_three_times_less(nano, documents):
    plain, before, slow = ask(nano, documents, "perfect", {})
    fast, after, quick = ask(nano, documents, "perfect", ALL, ngram=True)
    assert fast == plain and slow >= 3 * quick
    assert before["busy_seconds"] >= 3 * after["busy_seconds"]


def test_the_clock_gives_the_same_seconds_again(nano, documents):
    first = ask(nano, documents[:1], "fallible", ALL, ngram=True)
    assert first == ask(nano, documents[:1], "fallible", ALL, ngram=True)


def test_a_forgetful_reader_loses_facts_and_a_narrow_one_those_that_come_too_early(nano, documents):
    for reader in ("forgetful", "narrow"):
        right = ask(nano, documents, reader, {})[0]
        assert 0 < sum(right.values()) < len(right)


def test_over_http_the_endpoint_sleeps_counts_and_refuses_models_it_has_not(nano, documents):
    chunks = {d.id: sections(d, nano, CHUNK) for d in documents[:1]}
    one = [agent_items.Document(documents[0].id, documents[0].text, documents[0].questions[:1])]
    with agent_endpoint.running(MODEL) as address:
        assert address.startswith("http://127.0.0.1:")
        backend = backends.open_backend("perfect", base_url=f"{address}/v1", tokenizer=str(MODEL))
        right, _, seconds = asyncio.run(answer_all(backend, {}, one, chunks, 1, SIZES))
        stats = httpx.get(f"{address}/stats").json()
        refused = httpx.post(f"{address}/v1/chat/completions", json={"model": "other", "messages": []})
    inside, counted, slept = ask(nano, one, "perfect", {}, at_once=1)
    assert right["retrieval"] == inside
    assert stats == pytest.approx(counted)
    assert seconds >= slept
    assert refused.status_code == 400 and "perfect" in refused.text


def test_items_have_the_shares_that_they_promise(documents):
    for kind in agent_items.KINDS:
        questions = [q for d in documents for q in d.questions if q.kind == kind]
        assert len(questions) == 10
        assert sum(any(place > 0.9 for place in q.places) for q in questions) == 3
        assert sum(q.answer == agent_items.NOT_STATED for q in questions) == 2


def test_evidence_stands_in_the_document_where_the_question_says(documents):
    for document in documents:
        for question in document.questions:
            problem = agent_readers.understand(question.text)
            known = agent_readers.facts(document.text)
            assert problem.answer(known) == question.answer
            if question.kind == "retrieval" and question.places:
                at = document.text.index(problem.useful(known)[0].sentence) / len(document.text)
                assert at == pytest.approx(question.places[0], abs=0.05)


def test_a_reader_knows_nothing_but_its_prompt():
    reader = agent_readers.READERS["perfect"]
    asked = "What is the toll rate of Vorlune?"
    said = [
        agent_readers.reply(update_messages(asked, "", "", section, 1, 2)[0]["content"], 256, reader, seed)
        for section, seed in (("Nothing here.", 1), ("The passage fee of Vorlune is 4711.", 1), ("Nothing here.", 2))
    ]
    assert "4711" not in said[0] and "The passage fee of Vorlune is 4711." in said[1]
    assert said[0] == said[2]
    with pytest.raises(ValueError, match="no template"):
        agent_readers.reply("What is the toll rate of Vorlune?", 256, reader, 1)


def finishing(jobs):
    """Return when jobs of (arrival, phases) end on one machine."""

    async def run():
        machine = agent_endpoint.Machine(slots=8)

        async def one(arrival, phases):
            await asyncio.sleep(arrival)
            async with machine.slots:
                await machine.work(phases)
            return asyncio.get_running_loop().time()

        return await asyncio.gather(*(one(*job) for job in jobs))

    with asyncio.Runner(loop_factory=agent_endpoint.Clock) as runner:
        return runner.run(run())


@pytest.mark.parametrize(
    ("jobs", "ends"),
    [
        ([(0.0, [(1.0, 1.0)])], [1.0]),
        # At most a fifth of the machine: five times as long.
        ([(0.0, [(1.0, 0.2)])], [5.0]),
        # Two share; the shorter one's end gives the other the whole machine.
        ([(0.0, [(1.0, 1.0)]), (0.0, [(2.0, 1.0)])], [2.0, 3.0]),
        # What one cannot use, the other gets.
        ([(0.0, [(0.2, 0.2)]), (0.0, [(0.8, 1.0)])], [1.0, 1.0]),
        # Who comes later shares from then on; a phase's end changes the shares without anyone being woken.
        ([(0.0, [(1.0, 1.0), (0.5, 0.5)]), (0.5, [(1.0, 1.0)])], [2.5, 2.0 + 0.5]),
        # Nine jobs on eight slots: the ninth begins when one of them ends.
        ([(0.0, [(0.1, 0.1)])] * 9, [1.0] * 8 + [2.0]),
    ],
)
def test_running_requests_share_the_machine(jobs, ends):
    assert finishing(jobs) == pytest.approx(ends)


def test_the_prefix_cache_finds_whole_blocks_behind_the_same_beginning_and_forgets_the_oldest():
    cache = agent_endpoint.PrefixCache(block=4, tokens=16)
    first = list(range(10))
    assert cache.take(first) == 0
    assert cache.take([*first[:9], 99]) == 8
    assert cache.take([99, *first[1:]]) == 0
    # A prompt that is there as a whole still computes its last token.
    assert cache.take(first[:8]) == 7
    cache.take(list(range(100, 116)))
    assert cache.take(first) == 0


def test_n_gram_decoding_pays_for_what_is_new_only():
    prompt = list(range(100))
    new = list(range(1000, 1020))
    assert agent_endpoint.decode_steps(prompt, new) == pytest.approx(20.0)
    # From the fourth token on, six tokens a step: three looked up, five proposed, one written.
    copied = agent_endpoint.decode_steps(prompt, prompt[10:40])
    assert copied == pytest.approx(3 + 5 * (1 + agent_endpoint.PROPOSAL_COST))
