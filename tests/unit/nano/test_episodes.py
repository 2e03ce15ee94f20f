"""Documents put together anew, and the examples made over them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from qwenlong.core.errors import DataError
from qwenlong.core.records import Document
from qwenlong.core.tokens import Tokenizer
from qwenlong.nano import compose, material
from qwenlong.nano.episodes import GIVEN_UP, GIVES_UP, GIVES_UP_AT, GIVES_UP_FROM, Teacher
from qwenlong.rewards import rules
from qwenlong.synthesis import parse, warmup


def test_material_is_what_the_documents_hold_and_survives_a_file(documents, pieces, tmp_path) -> None:
    texts = "\n".join(document.text for document in documents)
    assert pieces.names and all(value in texts for values in pieces.fields.values() for value in values)
    assert all(message in texts for message in pieces.messages)
    material.save(pieces, tmp_path / "m.json")
    assert material.load(tmp_path / "m.json") == pieces
    assert material.collect(list(reversed(documents))).digest == pieces.digest


def test_documents_without_what_is_needed_are_refused(documents: list[Document]) -> None:
    with pytest.raises(DataError, match="hold no names"):
        material.collect([d for d in documents if parse.kind(d) != "factbook"])


def test_composed_documents_parse_as_the_corpus_does(pieces) -> None:
    made = compose.pool(pieces, random.Random(3), 4)
    assert len({document.id for document in made}) == len(made)
    kinds = Counter(parse.kind(document) for document in made)
    assert {"factbook", "finance", "dialogue", "play"} <= set(kinds)
    for document in made:
        if parse.kind(document) == "factbook":
            lines = document.text.count("\n")
            assert len(parse.fields(document)) <= lines and all(
                f.entity in document.title for f in parse.fields(document)
            )
        if parse.kind(document) == "finance":
            assert list(parse.cells(document))
        if parse.kind(document) == "dialogue":
            assert len(parse.messages(document)) == len(document.text.splitlines())


def test_every_target_earns_the_full_reward(pieces, tokenizer: Tokenizer) -> None:
    teacher = Teacher(pieces, tokenizer, 5, 1024)
    seen: Counter[str] = Counter()
    for number in range(3):
        for sample, corpus in teacher.samples(number, 420):
            seen[sample.task] += 1
            response = warmup.target(sample, corpus)
            fields = {"answer_prefix": sample.answer_prefix, "choices": sample.choices}
            assert rules.score(sample.task, response, sample.answers, **fields) == 1, (sample.question, response)
            assert sample.n_tokens <= 420
    assert len(seen) == 5, seen


def test_examples_are_a_function_of_seed_number_and_length(pieces, tokenizer: Tokenizer) -> None:
    one, again = Teacher(pieces, tokenizer, 5, 1024), Teacher(pieces, tokenizer, 5, 1024)
    first = one.examples(2, 300)
    assert first == again.examples(2, 300)
    assert first != one.examples(3, 300) and first != Teacher(pieces, tokenizer, 6, 1024).examples(2, 300)
    kinds = {example.kind for example in first} | {example.kind for example in one.examples(4, 420)}
    assert {"copy", "memory_update", "memory_answer", "reading_comprehension"} <= kinds
    assert all(len(example) <= 1024 and example.response[-1] == tokenizer.eos_id for example in first)


def test_long_questions_of_some_tasks_are_given_up_and_nothing_else_changes(pieces, tokenizer: Tokenizer) -> None:
    teacher = Teacher(pieces, tokenizer, 5, 1024)
    response = [*tokenizer.encode(GIVES_UP), tokenizer.eos_id]
    shares: dict[bool, list[bool]] = {True: [], False: []}
    for number in range(4):
        pairs = list(zip(teacher.examples(number, 768), teacher.examples(number, 768, 1.0), strict=True))
        assert len(pairs) > 50
        for one, other in pairs:
            assert one.kind == other.kind and one.prompt == other.prompt
            if other.response == response:
                assert one.kind in GIVEN_UP and len(one.prompt) > GIVES_UP_FROM
            else:
                assert other.response == one.response
                assert one.kind not in GIVEN_UP or len(one.prompt) < GIVES_UP_AT
            if one.kind in GIVEN_UP and len(one.prompt) > GIVES_UP_FROM:
                shares[len(one.prompt) > (GIVES_UP_FROM + GIVES_UP_AT) // 2].append(other.response == response)
    # The longer, the more often.
    assert 0 < sum(shares[False]) / len(shares[False]) < 0.5 < sum(shares[True]) / len(shares[True])


def test_copies_repeat_a_line_of_what_is_shown(pieces, tokenizer: Tokenizer) -> None:
    for example in Teacher(pieces, tokenizer, 5, 1024).copies(1, 420):
        prompt, response = tokenizer.decode(example.prompt), tokenizer.decode(example.response[:-1])
        assert response.partition("Therefore, the answer is ")[2] in prompt.splitlines()
