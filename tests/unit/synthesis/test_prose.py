"""Questions about anybody's prose: what counts as a sentence, and that a second place ends a question."""

from __future__ import annotations

from collections.abc import Sequence

from prose_documents import essay, essays

from qwenlong.core.records import Document
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import extend, prose
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.checker import derive
from qwenlong.synthesis.graph import KnowledgeGraph
from qwenlong.synthesis.pool import Pool
from qwenlong.synthesis.run import counted
from qwenlong.synthesis.tables import Table


def asked(documents: Sequence[Document], tokenizer: Tokenizer) -> list[Candidate]:
    with Table([]) as table:
        pool = Pool(counted(documents, tokenizer), table, KnowledgeGraph([]), 900, 17)
        return [candidate for make in (prose.READING | prose.CHOICE).values() for candidate in make(pool)]


def test_each_form_asks_for_what_stands_there_once(tokenizer: Tokenizer) -> None:
    found = asked(essays(), tokenizer)
    by_template = {name: [c for c in found if c.template == f"{name}@1"] for name in (*prose.READING, *prose.CHOICE)}
    assert {name: len(made) for name, made in by_template.items()} == dict.fromkeys(by_template, 6)
    assert {c.answers[0] for c in by_template["prose_number"]} == {str(412 + 31 * n) for n in range(6)}
    assert {c.answers for c in by_template["next_sentence"]} == {("Nobody has taken up the work since then.",)}
    for candidate in by_template["choice_name"]:
        assert "Ada Falk" in candidate.choices or len(set(candidate.choices)) == 4


def test_markup_code_and_tables_are_no_sentences() -> None:
    text = (
        "# The Title of This Page Holds 12 Words and More of Them\n\n"
        "- The list says that Ada Falk made 12 of the bridges in one year.\n\n"
        "    The code block says that Ada Falk made 12 of the bridges then.\n\n"
        "| The table says | that Ada Falk | made 12 of the bridges in one year. |\n"
    )
    assert prose.sentences(essay("marked.md", text)) == ()
    plain = "The page says that Ada Falk made 12 of the bridges."
    assert [s.text for s in prose.sentences(essay("plain.md", plain))] == [plain]
    for kind in sorted(prose.STRUCTURED):
        assert prose.sentences(essay("other", plain, kind)) == ()


def test_an_abbreviation_ends_no_sentence_and_spans_point_at_the_text() -> None:
    text = (
        "It was built by Dr. Falk and by Mr. Serra in spring\nof the year 1912. Nobody ever saw the plans of it again."
    )
    document = essay("a.txt", text)
    found = prose.sentences(document)
    assert [s.text for s in found] == [
        "It was built by Dr. Falk and by Mr. Serra in spring of the year 1912.",
        "Nobody ever saw the plans of it again.",
    ]
    assert [" ".join(text[s.start : s.end].split()) for s in found] == [s.text for s in found]


def test_a_second_place_with_the_same_words_ends_the_question_and_the_checker_sees_both(tokenizer: Tokenizer) -> None:
    documents = essays()
    home = documents[0]
    changes = {
        "prose_number@1": home.text.replace("412", "999"),
        "prose_name@1": home.text.replace("Ada Falk", "Otto Blum"),
        "choice_name@1": home.text.replace("Ada Falk", "Otto Blum"),
        "next_sentence@1": home.text.replace("Nobody has taken up the work since then.", "That was a loss to all."),
    }
    found = [c for c in asked(documents, tokenizer) if c.documents == (home.id,)]
    assert sorted(c.template for c in found) == sorted(changes)
    for candidate in found:
        twin = essay("twin.txt", changes[candidate.template])
        twice = home.model_copy(update={"text": f"{home.text}\n{twin.text}"})
        assert candidate.holds([home, documents[1]])
        assert not candidate.holds([home, twin]) and not candidate.holds([twice])
        sample = extend.sample(candidate, [home, twin], tokenizer, 900)
        alone, both = (derive.answers(sample, shown) for shown in ([home], [home, twin]))
        assert alone == set(sample.answers)
        # The options of a choice need not hold the second name.
        assert both is not None and (len(both) == 2 or candidate.choices)


def test_numbers_inside_of_dates_versions_and_decimals_are_not_asked_for(tokenizer: Tokenizer) -> None:
    text = (
        "The meeting took place on 2020-05-17 and was then moved to a later day.\n\n"
        "Version 1.2.3 of the program was the first that anybody used for work.\n\n"
        "The value of x=5 was kept by everybody who came to the office later.\n"
    )
    assert [
        c for c in asked([essay("n.txt", text), *essays()[:3]], tokenizer) if c.documents == ("essays/n.txt",)
    ] == []
