"""The gains: each does what it says, and off they leave the paper's loop as it is."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from told import FACT, Told, keeper

from qwenlong.core import templates
from qwenlong.core.config import AgentConfig
from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.gains import Gains, tree
from qwenlong.memory_agent.gains.early_exit import may_exit, needs_everything
from qwenlong.memory_agent.gains.recall import Recall, sentences, terms, words
from qwenlong.memory_agent.loop import Result, fold

SIZES: dict[str, Any] = {"memory_tokens": 80, "answer_tokens": 30}
CHUNKS = [f"Chapter {n}. " + (f"Here is FACT{n}. " if n % 4 == 1 else "Nothing happens. ") for n in range(12)]
WHO = "Who is the king of Rome?"


def run(model: Told, tokenizer: Tokenizer, gains: Gains | None = None, **more: Any) -> Result:
    """Fold the chapters."""
    options = SIZES | {"question": WHO, "instruction": "Short.", "chunks": CHUNKS} | more
    question, instruction, chunks = (options.pop(name) for name in ("question", "instruction", "chunks"))
    return asyncio.run(fold(question, instruction, chunks, model, tokenizer=tokenizer, gains=gains, **options))


def test_without_gains_prompts_are_those_of_the_templates(tokenizer: Tokenizer) -> None:
    """Prompt by prompt, in order, limits and turn numbers too: what memory RL trains on."""
    model = Told(keeper)
    result = run(model, tokenizer)
    memory, plan = "(empty)", "(empty)"
    for n, chunk in enumerate(CHUNKS):
        values = {"question": WHO, "memory": memory, "plan": plan, "section": chunk, "index": n + 1, "total": 12}
        assert model.calls[n] == (templates.fill("memory_update", values), 80, n)
        memory, plan = result.steps[n].memory or "(empty)", result.steps[n].plan
    values = {"question": WHO, "memory": memory, "instruction": "Short."}
    assert model.calls[12] == (templates.fill("memory_answer", values), 30, 12)
    assert len(model.calls) == 13 and [step.index for step in result.steps] == list(range(13))
    assert result.memory == "FACT1 FACT5 FACT9" and result.answer == "found FACT1 FACT5 FACT9" and result.clean


def test_skipped_chunks_change_nothing_and_cost_a_handful_of_tokens(tokenizer: Tokenizer) -> None:
    """Nine of twelve have nothing to add; memory and plan stay as they are, and so does the answer."""
    model = Told(keeper)
    result = run(model, tokenizer, Gains(skip=True))
    assert result.chunks() == {"total": 12, "read": 3, "skipped": 9, "failed": 0, "unread": 0}
    assert result.answer == "found FACT1 FACT5 FACT9" and result.clean
    before = ("", "")
    for step in result.steps[:12]:
        if step.status == "skipped":
            assert (step.memory, step.plan) == before and step.turn.completion_tokens < 12
        before = (step.memory, step.plan)
    # The prefix up to the section is the same after a skip, so that a prefix cache holds it.
    first, second = model.prompts[2], model.prompts[3]
    assert len(os.path.commonprefix([first, second])) >= first.index("Section 3")


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ("<nothing/>", "skipped"),
        ("<think>\nhm\n</think>\n<nothing />", "skipped"),
        ("There is nothing to add.\n<NOTHING></NOTHING>", "skipped"),
        ("<memory><nothing/></memory><plan></plan>", "skipped"),
        ("<memory></memory><nothing/>", "skipped"),
        ("<memory>new</memory> <nothing/>", "ok"),
        ("<memory>cut off <nothing/>", "malformed"),
        ("nothing to add", "malformed"),
    ],
)
def test_what_counts_as_nothing_to_add(tokenizer: Tokenizer, reply: str, status: str) -> None:
    """Only the tag, with no memory beside it; where the tag was not offered it means nothing."""
    result = run(Told(lambda prompt, turn: reply), tokenizer, Gains(skip=True), chunks=CHUNKS[:1])
    assert result.steps[0].status == status
    assert run(Told(lambda prompt, turn: reply), tokenizer, chunks=CHUNKS[:1]).steps[0].status != "skipped"


def _done_at(fact: str) -> Told:
    def say(prompt: str, turn: int) -> str:
        return keeper(prompt, turn) + ("<done/>" if fact in prompt else "")

    return Told(say)


def test_early_exit_stops_and_says_how_much_is_unread(tokenizer: Tokenizer) -> None:
    """The answer keeps its turn number, and with it its seed."""
    model = _done_at("FACT5")
    result = run(model, tokenizer, Gains(early_exit=True))
    assert result.chunks() == {"total": 12, "read": 6, "skipped": 0, "failed": 0, "unread": 6}
    assert [turn for _, _, turn in model.calls] == [0, 1, 2, 3, 4, 5, 12]
    assert "<done/>" in model.prompts[0] and result.clean


@pytest.mark.parametrize("question", ["How many kings are there?", "List all facts.", "What is the total?", "Rome?"])
def test_early_exit_is_refused_where_every_section_counts(tokenizer: Tokenizer, question: str) -> None:
    """It is not offered, and a model that says it all the same is not heard."""
    model = _done_at("FACT1")
    result = run(model, tokenizer, Gains(early_exit=True), question=question)
    assert result.chunks()["unread"] == 0 and len(model.calls) == 13
    assert not any("<done/>" in prompt for prompt in model.prompts)


def test_done_needs_a_memory_and_the_whole_request_has_a_say(tokenizer: Tokenizer) -> None:
    """An empty memory is not enough, and a split that drops "list all" opens no way out."""
    empty = Told(lambda prompt, turn: "<memory></memory><plan></plan><done/>")
    assert run(empty, tokenizer, Gains(early_exit=True)).chunks()["unread"] == 0
    both = Told(lambda prompt, turn: "<nothing/><done/>")
    assert run(both, tokenizer, Gains(early_exit=True, skip=True)).chunks()["unread"] == 0

    def split(prompt: str, turn: int) -> str:
        return (
            "<question>Who is the king?</question><format>x</format>"
            if turn == 0
            else f"<memory>{turn}</memory><done/>"
        )

    for request, unread in (("Who is the king? One word.", 11), ("Who is the king? List all of them.", 0)):
        result = run(Told(split), tokenizer, Gains(early_exit=True), question=request, split_request=True)
        assert result.chunks()["unread"] == unread


@pytest.mark.parametrize(
    "question",
    [
        "Who wrote the letter to Anna?",
        "In which city was the treaty signed?",
        "When did the company move to Berlin?",
        "What is the name of the ship's captain?",
        "Where does Tom live?",
        "How old is the boy with the red hat?",
        "Which bus did he take to the station?",
        "Wer schrieb den Brief an Anna?",
        "Wann wurde der Vertrag unterschrieben?",
        "Qui a écrit la lettre à Anna ?",
        "¿Quién escribió la carta a Ana?",
        "Chi scrisse la lettera ad Anna?",
        "Quem escreveu a carta para Ana?",
        "Кто написал письмо Анне?",
        "谁写了这封信？",
        "Who wrote the letter? Write the final answer as a name.",
    ],
)
def test_questions_for_one_fact_may_be_settled_early(question: str) -> None:
    """A question word for one thing, and nothing that speaks for more."""
    assert may_exit(question)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "???",
        "Rome",
        "How many letters did Anna write?",
        "How often does the captain swear?",
        "List all ships.",
        "Which of the ships sank?",
        "Which ships sank?",
        "What are the names of the captains?",
        "Who were the kings of Rome?",
        "What is the total revenue of 2019?",
        "What was the average price?",
        "Who said every word?",
        "Which city has the most inhabitants?",
        "What is the latest address of Tom?",
        "Who was the first king?",
        "Who was the last person to leave?",
        "Where does Tom live now?",
        "Who never came back?",
        "Did Anna ever write?",
        "Summarize the report.",
        "Why did he leave?",
        "Compare A with B: who is taller?",
        "When did he change his mind?",
        "Wie viele Briefe schrieb Anna?",
        "Wer war der letzte König?",
        "Nenne alle Schiffe.",
        "Combien de lettres ?",
        "Qui a écrit toutes les lettres ?",
        "¿Cuántas cartas escribió?",
        "¿Quién fue el último rey?",
        "Quante lettere?",
        "Quantas cartas?",
        "Сколько писем написала Анна?",
        "Кто был последним царём?",
        "一共有多少封信？",
        "谁是最后一位国王？",
        "列出所有的船。",
        "手紙を書いたのは誰ですか、全員",
        "كم عدد الرسائل؟",
        "Hvem skrev brevet?",
    ],
)
def test_in_doubt_everything_is_read(question: str) -> None:
    """Counting, listing, comparing, superlatives, what may change, and any language that is not known."""
    assert not may_exit(question)


@given(question=st.text(max_size=80), word=st.sampled_from(["how many", "ALL", "latest", "每", "alle", "сколько"]))
@settings(max_examples=60)
def test_a_word_of_counting_always_counts(question: str, word: str) -> None:
    """Whatever stands around it."""
    assert needs_everything(f"{question} {word} {question}")
    assert not may_exit(f"Who is it? {question} {word} {question}")


@given(chunks=st.integers(0, 200), parallel=st.integers(1, 40), arity=st.integers(2, 9))
@settings(max_examples=100)
def test_groups_cover_the_chunks_and_the_tree_ends_in_one(chunks: int, parallel: int, arity: int) -> None:
    """Every chunk once, in order, evenly; every memory in exactly one merge of the next level."""
    groups = tree.groups(chunks, parallel)
    assert [n for group in groups for n in group] == list(range(chunks))
    assert len(groups) == min(chunks, parallel)
    assert not groups or max(map(len, groups)) - min(map(len, groups)) <= 1
    count = len(groups)
    numbers: list[int] = []
    for level in tree.levels(count, arity):
        assert [n for merge in level for n in merge.parts] == list(range(count))
        assert all(1 <= len(merge.parts) <= arity for merge in level) and len(level) < count
        numbers += [merge.number for merge in level]
        count = len(level)
    assert count == min(1, len(groups)) and numbers == list(range(tree.merges(len(groups), arity)))
    assert chunks <= tree.calls(chunks, parallel, arity) <= chunks + max(0, len(groups) - 1)


def _talkative(prompt: str, turn: int) -> str:
    """Write memories so long that two of them never fit into one; say in the answer which turn it is."""
    if prompt.startswith("You have read"):
        return f"answer of turn {turn}"
    return f"<memory>turn {turn}: {' '.join(FACT.findall(prompt))} {'word ' * 60}</memory><plan>p{turn}</plan>"


def test_parallel_results_do_not_depend_on_arrival(tokenizer: Tokenizer) -> None:
    """Any order of replies: the same steps, turn numbers and memory; groups run at once; calls as stated."""
    results = []
    for seed in range(4):
        spread = random.Random(seed)
        seen: list[int] = []
        model = Told(_talkative, delay=lambda turn, spread=spread: spread.random() / 100)
        result = run(model, tokenizer, Gains(parallel=5), on_step=lambda step, seen=seen: seen.append(step.index))
        results.append(result)
        assert model.most == 5 and sorted(seen) == sorted(step.index for step in result.steps)
        # Chunks take fewer tokens than a memory may have: merges are of two.
        assert len(model.calls) == tree.calls(12, 5, 2) + 1 == 12 + 4 + 1
    assert all(result == results[0] for result in results)
    assert [step.kind for step in results[0].steps] == ["update"] * 12 + ["merge"] * 4 + ["answer"]
    assert results[0].chunks() == {"total": 12, "read": 12, "skipped": 0, "failed": 0, "unread": 0}
    assert results[0].memory.startswith(f"turn {results[0].steps[-2].index}:")


def test_memories_that_fit_together_are_joined_without_a_call(tokenizer: Tokenizer) -> None:
    """Nothing is rewritten that need not be, and nothing is lost; each group starts from an empty memory."""
    model = Told(keeper)
    result = run(model, tokenizer, Gains(parallel=3, skip=True))
    assert len(model.calls) == 13 and result.memory == "FACT1\nFACT5\nFACT9"
    assert "FACT1" not in model.prompts[4] and result.answer == "found FACT1 FACT5 FACT9" and result.clean


def test_an_error_in_one_group_stops_the_others(tokenizer: Tokenizer) -> None:
    """The error comes out as it is, and no call is left running."""
    model = Told(lambda prompt, turn: ValueError("broken") if turn == 4 else keeper(prompt, turn), lambda turn: 0.001)
    with pytest.raises(ValueError, match="broken"):
        run(model, tokenizer, Gains(parallel=3))
    assert model.open == 0 and len(model.calls) < 12


def test_recall_shows_what_the_memory_lost(tokenizer: Tokenizer) -> None:
    """A sentence that a rewrite drops comes back in later prompts and in the answer, within its tokens."""
    lost = "Numa was king of Rome after Romulus."

    def forgetful(prompt: str, turn: int) -> str:
        return f"<memory>{lost} The weather was fine.</memory>" if turn == 0 else f"<memory>Turn {turn}.</memory>"

    model = Told(forgetful)
    gains = Gains(recall_tokens=40)
    result = run(model, tokenizer, gains)
    assert lost not in model.prompts[0] and lost in model.prompts[1]
    assert all(lost in prompt and prompt.count(lost) == 1 for prompt in model.prompts[1:])
    assert "Recalled from earlier sections:" in model.prompts[-1] and lost in result.steps[-1].recalled
    assert all(tokenizer.count(step.recalled) <= 40 for step in result.steps)
    assert not any("Recalled" in prompt for prompt in run_prompts(tokenizer, Told(forgetful)))


def run_prompts(tokenizer: Tokenizer, model: Told) -> list[str]:
    """Return the prompts of a run without gains."""
    run(model, tokenizer)
    return model.prompts


def test_recall_of_chunks_mends_a_wrong_nothing(tokenizer: Tokenizer) -> None:
    """A chunk that the model passed over is still found by the words of the question."""
    chunks = ["Rain fell. The king of Rome was called Numa. Rain fell.", *CHUNKS[:3]]
    model = Told(lambda prompt, turn: "<nothing/>")
    run(model, tokenizer, Gains(skip=True, recall_tokens=40, recall_chunks=True), chunks=chunks)
    assert "The king of Rome was called Numa." in model.prompts[-1] and "Rain fell" not in model.prompts[-1]
    without = Told(lambda prompt, turn: "<nothing/>")
    run(without, tokenizer, Gains(skip=True, recall_tokens=40), chunks=chunks)
    assert "Numa" not in without.prompts[-1]


def test_the_store_of_recall_is_bounded_and_keeps_what_is_asked_for() -> None:
    """A thousand sentences go through a store of fifty; the ones about the question stay, any number of times."""
    recall = Recall("Where is the golden key?", capacity=50)
    recall.overwritten("The golden key lies under the stone.", "", 0)
    for n in range(1000):
        recall.overwritten(f"Sentence number {n} is about bread.", "", n)
    assert len(recall) == 50
    found = recall.select("", "", 10, lambda text: len(text.split()))
    assert found == "The golden key lies under the stone."
    assert recall.select("bread", "The golden key lies under the stone.", 7, lambda text: len(text.split())) != ""
    assert recall.select("", "it says: the golden KEY  lies under the stone.", 9, lambda t: len(t.split())) == ""


@given(old=st.lists(st.text(max_size=60), max_size=12), tokens=st.integers(0, 30), query=st.text(max_size=40))
@settings(max_examples=80)
def test_recall_keeps_its_budget(old: list[str], tokens: int, query: str) -> None:
    """Any text, any budget: never above it, and only sentences that were there."""
    recall = Recall("key stone " + query)
    for n, text in enumerate(old):
        recall.overwritten(text + ". key.", "", n)
    found = recall.select(query, "", tokens, len)
    assert len(found) <= tokens
    known = {sentence for text in old for sentence in sentences(text + ". key.")}
    assert set(filter(None, found.split("\n"))) <= known


def test_words_of_scripts_without_spaces() -> None:
    """Chinese is read by pairs of characters, other scripts by words; stop words tell nothing."""
    assert words("金钥匙 in Rom") == ["金钥", "钥匙", "in", "rom"]
    assert terms("Where is the key?") == {"key"}


def test_section_first_shares_the_section_between_questions(tokenizer: Tokenizer) -> None:
    """Two questions over one document: the prompts of a step agree up to the end of the section."""
    one, two = Told(keeper), Told(keeper)
    gains = Gains(order="section_first", skip=True)
    assert run(one, tokenizer, gains).answer == run(two, tokenizer, gains, question="Which year is it?").answer
    for n in range(12):
        shared = os.path.commonprefix([one.prompts[n], two.prompts[n]])
        assert shared.endswith("Problem: Wh") and CHUNKS[n].strip() in shared


def _each() -> Iterator[Gains]:
    yield Gains(skip=True)
    yield Gains(early_exit=True)
    yield Gains(recall_tokens=30, recall_chunks=True)
    yield Gains(parallel=3)
    yield Gains(order="section_first")
    yield Gains(repair=True)
    yield Gains(True, True, 30, True, 3, "section_first", True)


@pytest.mark.parametrize("gains", list(_each()), ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_every_gain_finds_the_facts_of_any_number_of_chunks(tokenizer: Tokenizer, gains: Gains, count: int) -> None:
    """No chunk, one, a few: the answer is that of the plain loop, and every chunk is accounted for."""
    plain = run(Told(keeper), tokenizer, chunks=CHUNKS[:count], window=4000)
    result = run(Told(keeper), tokenizer, gains, chunks=CHUNKS[:count], window=4000)
    assert result.answer == plain.answer and result.clean
    assert sum(result.chunks().values()) == 2 * count == 2 * result.chunks()["total"]
    assert len({step.index for step in result.steps}) == len(result.steps)


def test_modes_are_presets() -> None:
    """Paper has no gain and takes none; fast has them, and what is given stays as given."""
    assert Gains.of(AgentConfig()) == Gains()
    fast = AgentConfig(mode="fast", parallel=1)
    assert Gains.of(fast) == Gains(True, True, 1024, True, 1, "question_first", True)
    assert AgentConfig.model_validate(fast.model_dump()) == fast
    with pytest.raises(ValueError, match=r"parallel = 2 is no part of the paper's loop; set mode: fast"):
        AgentConfig(parallel=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"parallel": 0}, "parallel = 0"), ({"recall_tokens": -1}, "recall_tokens = -1"), ({"order": "x"}, "order = 'x'")],
)
def test_gains_that_are_none(values: dict[str, Any], message: str) -> None:
    """Named with the value."""
    with pytest.raises(UsageError, match=message):
        Gains(**values)
