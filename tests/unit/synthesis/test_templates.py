"""Every form of question: what it claims is what the checker derives; which ones are used, and how often."""

from __future__ import annotations

import gc
import random
import re
from collections import Counter
from decimal import Decimal
from itertools import islice

import made_documents
import pytest
from prose_documents import essays
from table_documents import table_documents

from qwenlong.core.config import Config
from qwenlong.core.errors import ConfigError
from qwenlong.core.records import Document
from qwenlong.core.tokens import Tokenizer
from qwenlong.rewards import rules
from qwenlong.synthesis import dialogue, extend, graph, hypothetical, parse, reading
from qwenlong.synthesis.checker import derive
from qwenlong.synthesis.checker.check import check
from qwenlong.synthesis.decontaminate import Similar
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.run import TEMPLATES, chosen, counted, synthesize
from qwenlong.synthesis.tables import Table

#: Those over extracted triples have documents and tests of their own (test_walks.py).
NAMES = [
    (task, name) for task, templates in sorted(TEMPLATES.items()) for name in templates if not name.startswith("walk_")
]


def countries() -> list[Document]:
    """Return neighbours, which the few real countries of the test are not, in the form of the real documents."""
    borders = {
        "Aland": "Borduria 310 km; Carpathia 205 km",
        "Borduria": "Aland 310 km; Carpathia 77 km",
        "Carpathia": "Aland 205 km; Borduria 77 km",
    }
    years = {"Aland": 1911, "Borduria": 1954, "Carpathia": 1830}
    return [
        Document(
            id=f"made/{name}#{section}",
            source="made",
            category="general",
            title=f"{name}: {section}",
            text=text,
            n_tokens=0,
            licence="MIT",
            metadata={"kind": "factbook", "entity": name},
        )  # fmt: skip
        for name in borders
        for section, text in (
            ("Geography", f"Land boundaries - border countries: {borders[name]}\nClimate: {name.lower()}n and wet"),
            ("Government", f"Capital - name: {name}ville\nIndependence: 1 May {years[name]} (from its neighbour)"),
        )
    ]


@pytest.fixture(scope="module")
def pool(corpus: list[Document], tokenizer: Tokenizer):
    documents = counted(
        [*corpus, *countries(), *made_documents.nations(), *made_documents.calls(), *essays(), *table_documents()],
        tokenizer,
    )
    with Table(cell for document in documents for cell in parse.cells(document)) as table:
        yield Pool(documents, table, graph.build(documents), 900, 17)


@pytest.mark.parametrize(("task", "name"), NAMES)
def test_the_checker_derives_what_a_template_claims(task: str, name: str, pool: Pool, tokenizer: Tokenizer) -> None:
    made = list(islice(TEMPLATES[task][name](pool), 12))
    assert made, f"{name} finds nothing to ask in the test's documents"
    for candidate in made:
        assert candidate.task == task and candidate.template == f"{name}@1" or name.startswith("numerical")
        sample = extend.extend(candidate, pool, tokenizer, 1500, False, False, random.Random(5))
        assert sample is not None
        shown = [pool.by_id[document] for document in sample.documents]
        assert derive.answers(sample, shown) == set(sample.answers), sample.question
        response = f"Therefore, the answer is {sample.answers[0]}"
        fields = {"answer_prefix": sample.answer_prefix, "choices": sample.choices}
        assert rules.score(task, response, sample.answers, **fields) == 1.0


def conversation(*lines: str, name: str = "c") -> Document:
    return Document(
        id=name, source="s", category="dialogue", title=f"Talk {name}", text="\n".join(lines), n_tokens=9,
        licence="MIT", metadata={"kind": "dialogue", "entity": name},
    )  # fmt: skip


def asked(template: str, *documents: Document) -> dict[str, str]:
    with Table([]) as table:
        made = dialogue.TEMPLATES[template](Pool(documents, table, graph.build(documents), 500, 1))
        return {c.question: c.answers[0].removeprefix(c.answer_prefix).strip() for c in made}


def test_needles_are_two_four_or_eight_messages_with_a_word() -> None:
    lines = ["A: a house here", "B: no house there", "A: the garden is big", "B: gardens are, House or not"]
    # "house" stands in three messages, "garden" in one: "gardens" is another word.
    assert asked("mentioning_message", conversation(*lines)) == {}
    found = asked("mentioning_message", conversation(*lines[:3], "B: so it is"))
    assert found == {
        'Reproduce the first message in "Talk c" that mentions the word "house".': "a house here",
        'Reproduce the second message in "Talk c" that mentions the word "house".': "no house there",
    }


def test_a_quoted_message_that_stands_there_twice_has_no_neighbour() -> None:
    lines = ("A: how are you", "B: quite well", "A: how are you", "B: as I said")
    found = asked("neighbour_message", conversation(*lines))
    assert not any('after "how are you"' in question for question in found)
    assert asked("neighbour_message", conversation("A: how are you", "B: quite well thank you")) == {
        'Reproduce the message that comes right after "how are you" in "Talk c".': "quite well thank you",
        'Reproduce the message that comes right before "quite well thank you" in "Talk c".': "how are you",
    }


def test_numbers_and_ends_of_a_conversation() -> None:
    talk = conversation("A: one here", "B: two here", "A: three here", "A: four here", "A: five here")
    assert asked("numbered_message", talk)['Reproduce the message number 2 in "Talk c".'] == "two here"
    ends = asked("last_message", talk)
    assert ends['Reproduce the last message of A in "Talk c".'] == "five here"
    assert ends['Reproduce the third-to-last message of A in "Talk c".'] == "three here"
    assert not any(" of B " in question for question in ends)


def test_chats_of_data_sets_are_conversations_and_long_turns_are_not_asked_for(tokenizer: Tokenizer) -> None:
    turns = ("user: where is the harbour", "assistant: behind the old mill", "user: thanks\nand good bye")
    text = "\n".join((*turns, "assistant: safe travels to you"))
    chat = Document(
        id="chats/1", source="chats", category="dialogue", title="Chat 1", text=text, n_tokens=40, licence="MIT",
        metadata={"kind": "chat", "entity": "1"},
    )  # fmt: skip
    assert [(m.speaker, m.text) for m in parse.messages(chat)][2:] == [
        ("user", "thanks\nand good bye"),
        ("assistant", "safe travels to you"),
    ]
    with Table([]) as table:
        pool = Pool([chat], table, graph.build([chat]), 500, 1)
        made = [c for make in (*dialogue.TEMPLATES.values(), reading.reply) for c in make(pool)]
    assert 'What does assistant answer to "where is the harbour"?' in {c.question for c in made}
    assert len(made) > 8 and not any("good bye" in c.question + c.answers[0] for c in made)
    for candidate in made:
        sample = extend.sample(candidate, [chat], tokenizer, 500)
        assert not check({"samples": [sample]}, {chat.id: chat}, None).faults


def test_half_of_the_hypothetical_questions_turn_the_order_round(pool: Pool) -> None:
    made = list(islice(hypothetical.changed_number(pool), 40))
    turned = told = 0
    for candidate in made:
        cells = [
            cell
            for span in candidate.evidence
            for cell in parse.cells(pool.by_id[span.document])
            if (cell.start, cell.end) == (span.start, span.end)
        ]
        one, two = cells[0], cells[-1]
        factor = next(
            f for words, f in hypothetical.FACTORS.items() if f" were {words} what it is" in candidate.question
        )
        expected = one if one.value * factor > two.value else two
        # The cells of a table's row share its span.
        if len(cells) == 2:
            told += 1
            assert candidate.answers == (expected.entity,)
            turned += (one.value > two.value) != (one.value * factor > two.value)
    assert told >= 4 and abs(2 * turned - told) <= told // 2
    assert hypothetical.FACTORS["half"] == Decimal("0.5")


def test_templates_are_chosen_by_pattern_and_a_pattern_that_matches_none_is_refused() -> None:
    picked = chosen(["numerical_year_*", "fact"])
    assert set(picked["corpus_numerical"]) == {name for name in TEMPLATES["corpus_numerical"] if "_year_" in name}
    assert set(picked["reading_comprehension"]) == {"fact"} and picked["dialogue_memory"] == {}
    assert chosen(None) == TEMPLATES
    with pytest.raises(ConfigError, match=r"synthesis\.templates: 'fcat' matches no template; there are .*fact"):
        chosen(["fcat"])


def test_no_template_has_more_than_its_share_and_no_question_resembles_another(
    config: Config, corpus: list[Document], tokenizer: Tokenizer
) -> None:
    synthesis = config.synthesis.model_copy(
        update={"max_template_share": 0.2, "question_similarity": 0.7, "length_targets": (448,)}
    )
    result = synthesize(config.model_copy(update={"synthesis": synthesis}), corpus, tokenizer)
    by_task = Counter((sample.task, sample.template) for sample in result.samples)
    assert by_task and max(by_task.values()) <= 2
    assert sum(funnel["samples"]["template_full"] for funnel in result.funnel["tasks"].values()) > 0
    for task in TEMPLATES:
        questions = [f"{s.question} {' '.join(s.choices)}" for s in result.samples if s.task == task]
        words = [set(re.findall(r"\w+", question.casefold())) for question in questions]
        for number, one in enumerate(words):
            assert all(len(one & other) / len(one | other) < 0.7 for other in words[:number])


def test_similar_finds_what_comparing_all_pairs_finds() -> None:
    generator = random.Random(3)
    vocabulary = [f"w{n}" for n in range(14)]
    for threshold in (0.5, 0.7, 0.8, 0.95):
        taken: list[set[str]] = []
        similar = Similar(threshold)
        hits = 0
        for _ in range(300):
            words = set(generator.sample(vocabulary, generator.randint(3, 9)))
            expected = any(len(words & other) / len(words | other) >= threshold for other in taken)
            assert similar.to(" ".join(sorted(words))) == expected
            hits += expected
            if not expected:
                taken.append(words)
                similar.add(" ".join(sorted(words)))
        assert 0 < hits < 300
    assert not Similar(1.0).to("anything")


def test_a_document_is_parsed_once_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    document = conversation("A: one here", "B: two here")
    assert parse.messages(document) is parse.messages(document)
    twin = document.model_copy(update={"text": "A: another text"})
    assert [said.text for said in parse.messages(twin)] == ["another text"]
    held = parse.messages.__closure__
    assert held is not None
    kept = next(cell.cell_contents for cell in held if isinstance(cell.cell_contents, dict))
    before = len(kept)
    del document, twin
    gc.collect()
    assert len(kept) == before - 2
