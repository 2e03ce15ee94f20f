"""Whether a question can be settled before the end of the document: only if it asks for one fact, and in doubt never.

The rule reads the words of the question, in English, German, French, Spanish, Italian, Portuguese, Russian and Chinese.
A question must open like one for a single fact (who, where, when …), and hold no word of counting, listing, comparing,
aggregating, of superlatives, or of what a later section may overturn (latest, still, ever). Any other language, and any
request without a question word, is read to the end.
"""

from __future__ import annotations

import re
import unicodedata

#: Words, or beginnings of words (with a final *), after which the whole document must be read.
_WHOLE_DOCUMENT = {
    "en": """how many|how much|how often|how frequently|number|numbers|amount|count*|total*|sum|sums|summ*
        |average*|mean|median|percent*|proportion|share|ratio|majority|minority|frequen*|common|list*|enumerat*
        |name all|names of|all|every*|each|any*|both|either|neither|none|no one|nobody|not|never|without|except*
        |other than|besides|else|which of|what are|what were|who are|who were|whose are|where are|where were
        |which are|which were|most*|least|more|less|fewer|fewest|only|sole|unique|ever|still|yet|already
        |current*|now|today|so far|up to date|latest|last*|final*|first*|second*|third*|earliest|earlier|later
        |newest|oldest|recent*|next|previous*|initial*|original*|end|ends|ended|begin*|eventual*|ultimate*
        |highest|lowest|largest|smallest|biggest|longest|shortest|greatest|best|worst|top|maxim*|minim*|rank*
        |sort*|order|compar*|differ*|same|similar*|between|versus|vs|than|chang*|evol*|trend*|overall|overview
        |in general|main*|theme*|describe*|explain*|discuss*|why|how do|how does|how did|how has|how have|how is
        |how are|role|relationship*|combined|together|across|throughout|entire*|whole|complete*|full|several
        |various|different|multiple|times|twice|two|three|four|five|six|seven|eight|nine|ten|many|pair*|group*
        |people|persons|reasons|events|contradict*|consisten*""",
    "de": """wie viel*|wieviel*|wie oft|anzahl|zahl|summe|gesamt*|insgesamt|durchschnitt*|mittelwert|prozent*
        |anteil*|alle|aller|allen|alles|jede*|sämtlich*|beide*|liste*|aufzähl*|auflist*|nenne*|zähl*|welche von
        |welcher von|meist*|wenigst*|mehr|weniger|erst|erste*|letzt*|neuest*|ältest*|aktuell*|zuletzt|zuerst
        |höchst*|niedrigst*|größt*|kleinst*|nur|einzig*|jemals|noch|nicht|kein*|nie|niemals|außer|vergleich*
        |unterschied*|zwischen|warum|wieso|weshalb|fasse|zusammen*|beschreib*|erklär*|überblick|rangfolge
        |reihenfolge|welche sind|wer sind|wer waren|was sind|was waren""",
    "fr": """combien|nombre|nombres|somme|totale|totaux|total|moyen*|pourcent*|proportion|tous|toutes|tout|toute
        |chaque|chacun*|list*|énumér*|compt*|lesquel*|quels|quelles|plus|moins|premier*|première*|dernier*
        |dernière*|récent*|actuel*|meilleur*|pire*|seul*|unique*|jamais|encore|pas|aucun*|sauf|compar*|différen*
        |entre|pourquoi|résum*|décri*|expliqu*|ordre|classement|qui sont|qui étaient""",
    "es": """cuánt*|cuant*|número|numero|suma|total*|promedio|media|porcentaje|todos|todas|todo|toda|cada|ambos
        |ambas|list*|enumer*|cont*|cuáles|cuales|quiénes|quienes|más|menos|mayor*|menor*|primer*|últim*|ultim*
        |reciente*|actual*|mejor*|peor*|solo|sólo|único*|única*|nunca|jamás|todavía|aún|no|ningun*|ningún
        |excepto|salvo|compar*|diferen*|entre|por qué|resum*|describ*|expli*|orden""",
    "it": """quant*|numero|somma|total*|media|percentual*|tutti|tutte|tutto|tutta|ogni|ciascun*|entramb*|elenc*
        |cont*|quali|più|meno|maggior*|minor*|prim*|ultim*|recent*|attual*|miglior*|peggior*|sol*|unic*|mai
        |ancora|non|nessun*|tranne|confront*|differen*|tra|fra|perché|riassum*|descriv*|spieg*|ordin*|chi sono
        |chi erano""",
    "pt": """quant*|número|soma|total*|média|percent*|todos|todas|todo|toda|cada|ambos|ambas|list*|enumer*|cont*
        |quais|mais|menos|maior*|menor*|primeir*|últim*|recente*|atual*|melhor*|pior*|só|únic*|nunca|ainda|não
        |nenhum*|exceto|compar*|diferen*|entre|por que|resum*|descrev*|expli*|ordem|quem são|quem eram""",
    "ru": """сколько|количеств*|числ*|сумм*|итог*|всего|средн*|процент*|дол*|все|всех|всем|весь|вся|кажд*|оба
        |обе|перечисл*|список|списк*|посчита*|какие|каких|кто из|какой из|наибол*|наимен*|больш*|меньш*|сам*
        |перв*|последн*|недавн*|текущ*|лучш*|худш*|только|единствен*|никогда|ещё|еще|не|нет|кроме|сравн*|разниц*
        |различ*|между|почему|опиши*|объясн*|порядк*""",
}
#: Openings of a question for one fact. A plural behind "which" asks for a list.
_ONE_FACT = re.compile(
    r"""\b(?:who|whom|whose|where|when|(?:what|which)(?!\s+(?:of|are|were|do|does|did|have|has)\b)"""
    r"""|how\s+(?:old|tall|high|long|far|deep|heavy|fast|wide|large|big))\b"""
    r"""|\b(?:wer|wem|wen|wessen|wo|woher|wohin|wann|welcher|welches|welchem|welchen|was\s+(?:ist|war))\b"""
    r"""|\b(?:qui|où|quand|quel|quelle)\b|\b(?:quién|dónde|cuándo|cuál)\b|¿\s*qué\b"""
    r"""|\b(?:chi|dove|quando|quale)\b|\bqual['’\s]|\b(?:quem|onde|aonde)\b"""
    r"""|\b(?:кто|кого|кому|где|куда|откуда|когда|какой|какая|какое)\b"""
    r"""|谁|誰|何时|何時|什么时候|甚麼時候|哪里|哪裡|哪儿|哪年|哪一|哪个|哪個|哪位|哪天|什么地方|是什么|叫什么|何地""",
)
_PLURAL = re.compile(
    r"\b(?:which|what)(?:\s+\w+){0,2}?\s+(?!(?:is|was|has|does|his|its|this)\b)\w+(?<!s)(?<!u)(?<!i)s\b(?!['’])"
)
#: Chinese has no spaces: any of these anywhere. Kana is Japanese, which is not known.
_CHINESE = re.compile(
    r"多少|几|幾|数量|數量|总|總|合计|合計|一共|共有|共计|平均|百分|比例|所有|全|每|各|都|哪些|列出|列举|列舉|统计|統計|计数"
    r"|最|第[一二三四五六七八九十0-9]|首|末|最后|最後|最近|最新|目前|现在|現在|仍|还|還|曾|只有|唯一|不|没|沒|未|无|無|除了|除"
    r"|比较|比較|区别|區別|差异|差異|之间|之間|为什么|為什麼|为何|如何|怎么|怎麼|总结|概括|描述|解释|排序|顺序|次|两|兩|双|共同|分别|[぀-ヿ]"
)


def _compile() -> re.Pattern[str]:
    words = [word.strip() for text in _WHOLE_DOCUMENT.values() for word in text.split("|")]
    forms = sorted({re.escape(word).replace(r"\*", r"\w*").replace(r"\ ", r"\s+") for word in words}, key=len)
    return re.compile(rf"\b(?:{'|'.join(reversed(forms))})\b")


_KEYWORD = _compile()
# How to write the answer says nothing about the question.
_FORM = re.compile(r"\bfinal answer\b")


def _plain(text: str) -> str:
    return _FORM.sub(" ", unicodedata.normalize("NFC", text).casefold())


def needs_everything(question: str) -> bool:
    """Tell whether a question counts, lists, compares or aggregates, so that every section may change its answer."""
    text = _plain(question)
    return bool(_KEYWORD.search(text) or _CHINESE.search(text) or _PLURAL.search(text))


def may_exit(question: str) -> bool:
    """Tell whether reading may stop early: the question asks for one fact, and nothing about it speaks for more."""
    return bool(_ONE_FACT.search(_plain(question))) and not needs_everything(question)
