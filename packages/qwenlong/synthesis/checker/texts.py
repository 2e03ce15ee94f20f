"""Answers of the other tasks, derived anew: every answer that the documents shown allow."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker.view import View, collapsed, entity, once

#: Numbers by the words that questions use.
ORDINALS = {
    name: number
    for number, name in enumerate(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), 1
    )
}


def fact(sample: Sample, shown: View) -> set[str]:
    """Return values of the field that the question names."""
    answers = set()
    for owner, label, value in shown.facts:
        name, _, year = label.partition(" in ") if re.search(r" in \d{4}$", label) else (label, "", "")
        asked = f"What is the {name} of {owner}{f' in {year}' if year else ''}?"
        if asked == sample.question:
            answers.add(value)
    return answers


def country(sample: Sample, shown: View) -> set[str]:
    """Countries with the value in the field that the question names."""
    answers = set()
    for owner, label, value in shown.facts:
        if sample.question == f'Which country has the {label} "{value}"?':
            answers.add(owner)
    return answers


def common_neighbour(sample: Sample, shown: View) -> set[str]:
    """The country that has borders of these lengths with both."""
    answers = set()
    spoken = [border for border in shown.borders if f"a {border[2]} border with {border[0]}" in sample.question]
    for (one, neighbour, length), (two, other, second) in itertools.product(spoken, repeat=2):
        asked = f"Which country has a {length} border with {one} and a {second} border with {two}?"
        if neighbour == other and one != two and sample.question == asked:
            answers.add(neighbour)
    return answers


def country_field(sample: Sample, shown: View) -> set[str]:
    """Two fields of one country."""
    starts = [
        fact for fact in shown.facts if sample.question.endswith(f" of the country whose {fact[1]} is {fact[2]}?")
    ]
    return {
        end
        for (one, label, value), (two, last, end) in itertools.product(starts, shown.facts)
        if one == two and sample.question == f"What is the {last} of the country whose {label} is {value}?"
    }


def border_field(sample: Sample, shown: View) -> set[str]:
    """A neighbour's field."""
    answers = set()
    starts = [b for b in shown.borders if sample.question.endswith(f" that has a {b[2]} border with {b[0]}?")]
    for (owner, neighbour, length), (two, last, end) in itertools.product(starts, shown.facts):
        asked = f"What is the {last} of the country that has a {length} border with {owner}?"
        if neighbour == two and asked == sample.question:
            answers.add(end)
    return answers


def country_border_field(sample: Sample, shown: View) -> set[str]:
    """A neighbour's field, the country given by a field of its own."""
    answers = set()
    starts = [fact for fact in shown.facts if sample.question.endswith(f" whose {fact[1]} is {fact[2]}?")]
    for (owner, neighbour, length), (one, label, value) in itertools.product(shown.borders, starts):
        tail = f"of the country that has a {length} border with the country whose {label} is {value}?"
        if one != owner or not sample.question.endswith(tail):
            continue
        answers |= {
            end
            for two, last, end in shown.facts
            if two == neighbour and sample.question == f"What is the {last} {tail}"
        }
    return answers


def earlier(sample: Sample, shown: View) -> set[str]:
    """The earlier of two dates; each stands there once and holds one year."""
    dates: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for owner, label, value in shown.facts:
        if sample.question.startswith(f"Which has the earlier {label}: "):
            dates[label][owner].append(value)
    answers = set()
    for label, owners in dates.items():
        for one, two in itertools.permutations(owners, 2):
            if sample.question != f"Which has the earlier {label}: {one} or {two}?":
                continue
            years = [
                [set(re.findall(r"\b(1[5-9]\d\d|20\d\d)\b", text)) for text in owners[name]] for name in (one, two)
            ]
            found = {
                one if min(first) < min(second) else two
                for first, second in itertools.product(*years)
                if len(first) == len(second) == 1 and first != second
            }
            if len(found) > 1 or all(len(values) == 1 for values in years):
                answers |= found
    return answers


@once
def verses(document: Document) -> list[tuple[str, str]]:
    """Return (speaker, line) of a play: a name stands alone after an empty line and ends in a full stop."""
    speaker = ""
    found = []
    lines = document.text.split("\n")
    for number, line in enumerate(lines):
        words = line[:-1].split()
        alone = number == 0 or not lines[number - 1]
        named = all(word[0].isupper() or word in ("of", "the", "and") for word in words) and 0 < len(words) <= 6
        if alone and line.endswith(".") and named and re.fullmatch(r"[A-Za-z' ]+\.", line):
            speaker = line[:-1].strip()
        elif not line:
            speaker = ""
        elif speaker and not re.search(r"[\[\]_{}]", line):
            found.append((speaker, line.strip()))
    return found


def speaker(sample: Sample, shown: View) -> set[str]:
    """Whoever says the quoted line."""
    quote = sample.question.removeprefix('Who says "').removesuffix('"?')
    said = [(name, text) for d in shown.documents if d.metadata.get("kind") == "play" for name, text in verses(d)]
    return {name.title() for name, text in said if text == quote}


def speaker_line(sample: Sample, shown: View) -> set[str]:
    """The first line, in a named scene, of whoever says the quoted line."""
    match = re.fullmatch(r'Whoever says "(.+)": what is their first line in "(.+)"\?', sample.question)
    plays = [document for document in shown.documents if document.metadata.get("kind") == "play"]
    if match is None:
        return set()
    people = {(entity(d), name.title()) for d in plays for name, text in verses(d) if text == match.group(1)}
    answers = set()
    for document in plays:
        for play, name in people:
            lines = [text for other, text in verses(document) if (entity(document), other.title()) == (play, name)]
            if document.title == match.group(2) and lines:
                answers.add(lines[0])
    return answers


def called_function(sample: Sample, shown: View) -> set[str]:
    """Files that define a function which the named one calls."""
    match = re.fullmatch(r"Which file defines a function that (\w+) calls\?", sample.question)
    homes = defaultdict(set)
    called: set[str] = set()
    for document in shown.documents:
        for name, body in definitions(document) if document.metadata.get("kind") == "code" else ():
            homes[name].add(str(document.metadata.get("path", document.title)))
            if match and name == match.group(1):
                called |= set(re.findall(r"(?<![\w.])(?:nx\.)?(\w+)\(", _code(body))) - {name}
    return {path for name in called for path in homes.get(name, ())}


def _code(body: str) -> str:
    """Return a body without docstrings and comments; a "#" inside a string begins none."""
    code = re.sub(r'""".*?(?:"""|\Z)', "", body, flags=re.DOTALL)
    return re.sub(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|#[^\n]*""", lambda match: match[1] or "", code)


@once
def definitions(document: Document) -> list[tuple[str, str]]:
    """Return (name, text) of the top-level functions of a source file."""
    found: list[tuple[str, str]] = []
    for line in document.text.split("\n"):
        match = re.match(r"(?:async )?def (\w+)\((.*)", line)
        if match:
            found.append((match.group(1), match.group(2) + "\n"))
        elif found and (not line.strip() or line[0] in " )"):
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
        elif line.strip():
            found.append(("", ""))
    return [(name, body) for name, body in found if name]


@once
def messages(document: Document) -> list[tuple[str, str]]:
    """Return (speaker, message) of a dialogue."""
    if document.metadata.get("kind") == "chat":
        parts = re.split(r"(?m)^(system|developer|user|assistant|human|gpt|tool|function): ", document.text)
        return [(name, text.strip()) for name, text in zip(parts[1::2], parts[2::2], strict=True)]
    found = [line.partition(": ") for line in document.text.split("\n")]
    return [
        (name, text.strip()) for name, colon, text in found if colon and re.fullmatch(r"[A-Z][A-Za-z0-9 ]{0,19}", name)
    ]


def reply(sample: Sample, shown: View) -> set[str]:
    """The message after the quoted one."""
    match = re.fullmatch(r'What does (.+?) answer to "(.+)"\?', sample.question)
    answers = set()
    for document in shown.documents:
        said = messages(document) if document.metadata.get("kind") in ("dialogue", "chat") else []
        for (_, first), (name, second) in zip(said, said[1:], strict=False):
            if match and first == match.group(2) and name == match.group(1):
                answers.add(second)
    return answers


def gap(sample: Sample, shown: View) -> set[str]:
    """Marked terms that stand between the words on both sides of the gap."""
    shown_text = sample.question.removeprefix('Which term fills the gap: "').removesuffix('"?')
    before, _, after = shown_text.partition("____")
    answers = set()
    for document in shown.documents:
        text = collapsed(document)
        if before.strip() not in text:
            continue
        pattern = rf"{re.escape(before.strip())}\s*(``[^`]+``|`[^`]+`|\*[^*]+\*)\s*{re.escape(after.strip())}"
        answers |= {match.group(1).strip("`*") for match in re.finditer(pattern, text)}
    return answers


def parameter(sample: Sample, shown: View) -> set[str]:
    """Documented types of a parameter in the section "Parameters" of a function."""
    match = re.fullmatch(r"What type has the parameter (\w+) of (\w+)\?", sample.question)
    answers = set()
    for document in shown.documents:
        for name, body in definitions(document) if document.metadata.get("kind") == "code" else ():
            if match is None or name != match.group(2):
                continue
            code = re.sub(r'""".*?(?:"""|\Z)', lambda text: "." * len(text.group()), body, flags=re.DOTALL)
            own = body[: len(re.split(r"\n +(?:async )?(?:def|class) \w", code)[0])]
            # "Other Parameters" are parameters too.
            for part in re.findall(
                r"(?i:parameters)\n *-{3,}\n(.*?)(?=\n *[A-Z][A-Za-z ]+\n *-{3,}|\Z)", own, re.DOTALL
            ):
                for found in re.finditer(rf"^ +{match.group(1)} ?: (.+)$", part, re.MULTILINE):
                    kind = re.split(r",? \(?optional|\(default|, default", found.group(1).strip())[0]
                    answers.add(kind.strip(" ,").rstrip(".").strip(" ,"))
    return answers


def definition(sample: Sample, shown: View) -> set[str]:
    """Options that the documents of the named file define."""
    match = re.fullmatch(r"Which of these functions does (.+) define\?", sample.question)
    names = {
        name
        for document in shown.documents
        if match and str(document.metadata.get("path", document.title)) == match.group(1)
        for name, _ in definitions(document)
    }
    return names & set(sample.choices)
