"""Which language a text is in, told by its script and its function words. Light on purpose: no model, no data files.

Sure for running text of some sentences; says None for tables, names, code and short texts.
"""

from __future__ import annotations

import re
from collections import Counter

#: Frequent words that carry grammar, not content. Words that several languages share count for each of them, and the
#: others tell them apart.
_WORDS = {
    "de": "der die das und ist nicht ein eine einen einem einer zu mit von auf für dem den des sich auch es im als an "
    "wird werden wurde war sind bei aus nach durch über oder aber wie nur noch kann haben hat ich sie wir",
    "en": "the of and to in is that it for was on are as with be by at this from have or which not but an had were "
    "they his her their has been will would there what when who more can its you he she we",
    "es": "el la los las de y que en un una es por con para del se no al como más pero su sus lo este esta son fue ha "
    "está ser entre cuando sobre también muy sin hasta desde porque",
    "fr": "le la les de des et est une un dans que qui pour pas sur au aux par plus avec ce cette ne se sont du il "
    "elle ils nous vous mais ou où être été ont fait comme leur ses son sa",
    "it": "il lo la gli le di che e è un una per con non sono del della dei delle nel nella si da come anche più ma al "
    "alla questo questa essere ha hanno era suo sua tra quando",
    "nl": "de het een van en is dat niet in op te met voor zijn aan er om ook als bij maar naar door wordt worden werd "
    "was uit over nog dan wel deze die hij zij wij heeft hebben",
    "pt": "o os as de e que do da dos das em um uma para com não é por mais no na nos nas se ao à foi são como mas seu "
    "sua ou ser quando muito também já está pelo pela entre",
}
_FUNCTION = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_ANY_FUNCTION = frozenset().union(*_FUNCTION.values())
#: Scripts that stand for a language here. Kana tells Japanese from Chinese.
_SCRIPTS = {
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "ko": re.compile(r"[\uac00-\ud7af]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "zh": re.compile(r"[\u4e00-\u9fff]"),
}
# One search instead of five, where a text has none of them.
_ANY_SCRIPT = re.compile("|".join(pattern.pattern for pattern in _SCRIPTS.values()))
#: A letter alone is as often a variable as a word.
_WORD = re.compile(r"[^\W\d_]{2,}")
#: Characters that are looked at: the beginning and the middle tell as much as the whole.
SAMPLE = 20_000
#: Fewer words tell nothing.
MIN_WORDS = 20
#: Smallest share of function words; running text has 0.3 to 0.5, lists of names next to none.
MIN_SHARE = 0.15
#: By how much the best language must lead: close relatives share words.
MIN_LEAD = 1.15
#: Share of letters in a script from which the text is in its language.
MIN_SCRIPT = 0.4
#: Japanese mixes kana with Chinese characters; Chinese has none.
MIN_KANA = 0.1


def language(text: str) -> str | None:
    """Return the language of a text as a two-letter code (one of LANGUAGES), or None where it does not show."""
    if len(text) > SAMPLE:
        middle = len(text) // 2
        text = text[: SAMPLE // 2] + "\n" + text[middle : middle + SAMPLE // 2]
    words = _WORD.findall(text.lower())
    letters = sum(map(len, words))
    if not letters:
        return None
    if letters >= MIN_WORDS and not text.isascii() and _ANY_SCRIPT.search(text):
        scripts = {name: len(pattern.findall(text)) / letters for name, pattern in _SCRIPTS.items()}
        if scripts["ja"] >= MIN_KANA and scripts["ja"] + scripts["zh"] >= MIN_SCRIPT:
            return "ja"
        best = max(scripts, key=lambda name: scripts[name])
        if scripts[best] >= MIN_SCRIPT:
            return best
    if len(words) < MIN_WORDS:
        return None
    counts = Counter(filter(_ANY_FUNCTION.__contains__, words))
    shares = {
        name: sum(count for word, count in counts.items() if word in known) / len(words)
        for name, known in _FUNCTION.items()
    }
    first, second = sorted(shares, key=lambda name: -shares[name])[:2]
    if shares[first] < MIN_SHARE or shares[first] < MIN_LEAD * shares[second]:
        return None
    return first


#: Languages that are told apart.
LANGUAGES = tuple(sorted({*_FUNCTION, *_SCRIPTS}))
