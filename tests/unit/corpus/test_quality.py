"""Quality rules that a run may switch on: each drops what it is for, and leaves good prose, tables and code alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_text import document

from qwenlong.core.config import CorpusConfig, FiltersConfig
from qwenlong.corpus import filters
from qwenlong.corpus.language import LANGUAGES, language
from qwenlong.corpus.repeats import Words

TEXTS = {
    "ar": "كان الطقس باردا في ذلك اليوم، وكان الناس يمشون بسرعة إلى بيوتهم قبل أن يأتي الليل على المدينة القديمة.",
    "de": "Das Schiff kam am Abend in den Hafen, und die Leute auf dem Kai sahen, dass es nicht das war, auf das sie "
    "seit dem Morgen mit der ganzen Stadt gewartet hatten.",
    "en": "The ship came into the harbour in the evening, and the people on the quay saw that it was not the one for "
    "which they had been waiting with the whole town since the morning.",
    "es": "El barco entró en el puerto por la tarde, y la gente del muelle vio que no era el que habían esperado desde "
    "la mañana con toda la ciudad, pero no se fue.",
    "fr": "Le bateau est entré dans le port au soir, et les gens qui étaient sur le quai ont vu que ce n'était pas "
    "celui que toute la ville avait attendu depuis le matin avec eux.",
    "it": "La nave entrò nel porto di sera, e la gente che era sul molo vide che non era quella che tutta la città "
    "aveva aspettato dalla mattina con loro, ma nessuno andò via.",
    "ja": "その船は夕方に港に入ってきた。岸壁の人々は、それが朝から町中で待っていた船ではないことに気がついた。",
    "ko": "그 배는 저녁에 항구로 들어왔고 부두에 있던 사람들은 그것이 아침부터 "
    "온 마을이 기다리던 배가 아니라는 것을 알았다.",
    "nl": "Het schip kwam in de avond de haven binnen, en de mensen op de kade zagen dat het niet het schip was waar "
    "zij met de hele stad sinds de ochtend op hadden gewacht.",
    "pt": "O navio entrou no porto ao fim da tarde, e as pessoas que estavam no cais viram que não era o que toda a "
    "cidade tinha esperado desde a manhã com elas, mas ninguém foi embora.",
    "ru": "Корабль вошёл в гавань вечером, и люди на причале увидели, что это не тот, которого весь город ждал с "
    "самого утра вместе с ними.",
    "zh": "那艘船在傍晚进了港口，码头上的人们看到，那并不是全城从早上起就一直在等的那一艘，可是没有人离开。",
}
GOOD = """The ferryman had kept the same hours since he was a boy. At six he untied the rope, at seven he drank his
tea with the woman who sold bread on the far bank, and by noon he knew what everyone in the valley had quarrelled about.
Nobody asked him for advice, because he gave none; that was the reason, his daughter used to say, why people liked to
cross. In the spring the water rose above the second step of the landing, and the old boat had to wait for a calmer
day. Those who could not wait took the long road over the hills, past the quarry and the chapel without a roof."""
GOPHER = {
    "min_words": 50,
    "max_words": 100_000,
    "min_mean_word_length": 3,
    "max_mean_word_length": 10,
    "min_alphabetic_share": 0.8,
    "max_bullet_share": 0.9,
    "max_ellipsis_share": 0.3,
    "max_repeated_line_share": 0.3,
    "max_top_bigram_share": 0.2,
    "max_repeated_ngram_share": 0.1,
    "max_boilerplate_share": 0.3,
}


def settings(**values: object) -> CorpusConfig:
    """Return a configuration with these filters, and the basic ones as loose as can be."""
    loose = {"min_characters": 1, "max_repetition": 1.0, "max_symbol_share": 1.0}
    return CorpusConfig.model_validate(loose | {"filters": values})


def words(count: int) -> str:
    """Return words that never repeat."""
    return " ".join(f"word{'abcdefghij'[n % 10]}{n}" for n in range(count))


BAD: list[tuple[str, str, object, str]] = [
    ("words", "min_words", 50, "a few words only"),
    ("words", "max_words", 60, words(61)),
    ("word_length", "min_mean_word_length", 3, "a b c d e f gh " * 20),
    ("word_length", "max_mean_word_length", 10, "incomprehensibilities internationalisation " * 20),
    ("alphabetic", "min_alphabetic_share", 0.8, "10 2024 33 word " * 20),
    ("bullets", "max_bullet_share", 0.9, "\n".join(f"- item {n}" for n in range(20))),
    ("ellipses", "max_ellipsis_share", 0.3, "\n".join(f"read more about {n}..." for n in range(20))),
    ("repeated_lines", "max_repeated_line_share", 0.3, "\n".join(["yes", "no", "yes", "no", words(50)])),
    ("repeated_ngrams", "max_top_bigram_share", 0.2, "buy now " * 20 + words(20)),
    ("repeated_ngrams", "max_repeated_ngram_share", 0.1, f"{words(30)} x {words(30)}"),
    (
        "notices",
        "max_boilerplate_share",
        0.3,
        "We use cookies.\nAll rights reserved.\nPrivacy Policy\nSign in\nshort text",
    ),
    ("language", "languages", ("en", "fr"), TEXTS["de"]),
]


@pytest.mark.parametrize(("why", "key", "value", "text"), BAD)
def test_each_rule_drops_what_it_is_for_and_nothing_else(why: str, key: str, value: object, text: str) -> None:
    assert why in filters.REASONS
    bad = document(text)
    assert filters.reason(bad, settings(**{key: value})) == why
    assert filters.reason(bad, settings()) is None
    assert filters.reason(document(GOOD), settings(**{key: value})) is None or key == "max_words"
    # No prose: tables and conversations repeat and have many numbers; code has rules of its own.
    for kind in ("table", "chat", "factbook"):
        assert filters.reason(document(text, kind=kind), settings(**{key: value})) is None
    assert filters.reason(document(text, category="code"), settings(**{key: value})) is None


def test_good_prose_passes_all_of_gopher() -> None:
    assert filters.reason(document(GOOD), settings(**GOPHER, languages=("en",))) is None


def test_thresholds_are_inclusive_and_exact() -> None:
    text = "aa bb " * 3 + "cc " * 4  # 20 characters of words: "aa bb" 3 times is 12 of 20
    assert Words(text.split()).top_pair_share() == pytest.approx(12 / 20)
    assert filters.reason(document(text), settings(max_top_bigram_share=0.6)) is None
    assert filters.reason(document(text), settings(max_top_bigram_share=0.59)) == "repeated_ngrams"
    assert Words(["a"] * 9).top_pair_share() == 1.0 and Words([]).top_pair_share() == 0.0


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(min_value=1, max_value=4))
def test_repeated_ngrams_are_what_they_say(letters: list[str], n: int) -> None:
    grams = [tuple(letters[k : k + n]) for k in range(len(letters) - n + 1)]
    covered = {k + m for k, gram in enumerate(grams) if grams.count(gram) > 1 for m in range(n)}
    expected = len(covered) / len(letters) if letters else 0.0
    assert Words(letters).repeated_share(n) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["a", "bb", "7", "ccc", "x1"]), max_size=30))
def test_the_top_pair_and_words_with_letters_are_what_they_say(words: list[str]) -> None:
    pairs = [(left, right) for left, right in zip(words, words[1:], strict=False)]
    covered = max((pairs.count(pair) * len("".join(pair)) for pair in pairs if pairs.count(pair) > 1), default=0)
    found = Words(words)
    assert found.characters == len("".join(words)) and len(found) == len(words)
    assert found.top_pair_share() == pytest.approx(min(1.0, covered / max(1, len("".join(words)))))
    assert found.alphabetic_share() == pytest.approx(sum(word != "7" for word in words) / max(1, len(words)))


@pytest.mark.parametrize(
    "notice",
    [
        "Read our Terms of Use", "PRIVACY POLICY", "Cookie settings", "This website uses cookies", "Accept cookies",
        "All rights reserved", "Copyright © Ferry", "©2020", "Sign in", "Log out", "login", "Subscribe to our letter",
        "Share this", "Tweet on", "Print this", "email this", "Skip to main content", "JavaScript must be on",
        "Powered by Ferry", "Back to top",
    ],
)  # fmt: skip
def test_every_notice_is_known(notice: str) -> None:
    assert filters.notice_share(["A line about a ferry and its log.", notice]) > 0


def test_a_paragraph_about_cookies_is_no_notice() -> None:
    text = "A browser sends cookies back; a privacy policy says what for. " * 6
    assert filters.notice_share([text]) == 0.0
    assert filters.notice_share(["We use cookies", "abcdefghijklmn"]) == pytest.approx(0.5)


def test_code_rules() -> None:
    minified = document("var a=1;" * 300, kind="code")
    wide = document("\n".join(["x = 1" + " " * 120 + "# y"] * 9), category="code")
    assert filters.reason(minified, settings(max_code_line=1000)) == "long_code_lines"
    assert filters.reason(wide, settings(max_code_line=1000)) is None
    assert filters.reason(wide, settings(max_mean_code_line=100)) == "long_code_lines"
    assert filters.reason(document("var a=1;" * 300), settings(max_code_line=1000, max_mean_code_line=100)) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/vendor/lib.c", "vendored"),
        ("web/Node_Modules/x/y.js", "vendored"),
        ("third_party/z.py", "vendored"),
        ("p.egg-info/SOURCES.txt", "vendored"),
        ("package-lock.json", "lock_file"),
        ("sub/Cargo.lock", "lock_file"),
        ("vendor.py", None),
        ("src/vendors.txt", None),
        ("docs/locks.md", None),
    ],
)
def test_paths(path: str, expected: str | None) -> None:
    assert filters.path_reason(path, FiltersConfig()) == expected
    assert expected is None or expected in filters.PATH_REASONS
    assert filters.path_reason(path, FiltersConfig(vendored=False, lock_files=False)) is None


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_words = 9 is above max_words = 3; nothing would pass"):
        FiltersConfig(min_words=9, max_words=3)


def test_the_languages_of_the_settings_are_those_that_are_told_apart() -> None:
    assert set(FiltersConfig(languages=LANGUAGES).languages) == set(LANGUAGES) == set(TEXTS)


@pytest.mark.parametrize("code", sorted(TEXTS))
def test_languages(code: str) -> None:
    assert language(TEXTS[code]) == code
    assert language(TEXTS[code] * 300) == code
    assert filters.reason(document(TEXTS[code]), settings(languages=(code,))) is None
    others = [name for name in LANGUAGES if name != code]
    assert filters.reason(document(TEXTS[code]), settings(languages=others)) == "language"


@pytest.mark.parametrize(
    "text", ["", "12 34", "Paris Berlin Rome Madrid " * 20, "x = f(y)\n" * 40, "que por para se " * 9, "The end."]
)
def test_where_no_language_shows_a_text_stays(text: str) -> None:
    assert language(text) is None
    assert filters.reason(document(text or "x"), settings(languages=("de",))) is None
