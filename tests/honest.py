"""Agents that do what their prompts ask, for any documents: scripts for tests in which the endpoint must behave.

Nothing is remembered between calls: the solver finds the answer from the question and the documents it is shown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

#: The roles of the self-evolving agents, in their order.
MASE = ("proposer", "solver", "verifier")
_FOLLOWS = re.compile(r'Which (\d) words follow "(.+?)" in document "(.+?)"\?')
_MESSAGE = re.compile(r"^([A-Z][A-Za-z0-9 ]{0,19}): (\S.*)$", re.MULTILINE)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def role(body: Mapping[str, Any]) -> str:
    """Return which path asks: proposer, solver, verifier, extractor, corpus_judge or reward_judge."""
    text = body["messages"][0]["content"]
    starts = {
        "You write one question": "proposer",
        "You answer a question": "solver",
        "You decide whether two answers": "verifier",
        "You read one passage": "extractor",
        "You choose documents": "corpus_judge",
    }
    return next((name for start, name in starts.items() if text.startswith(start)), "reward_judge")


def documents(text: str) -> list[tuple[str, str]]:
    """Return (title, text) of the documents that a prompt shows."""
    mark = re.search(r"between the marks (#\w+)\.", text)
    assert mark is not None, text[:200]
    found = re.findall(rf"Document \d+:\n{mark[1]}\n(.*?)\n{mark[1]}(?=\n)", text, re.DOTALL)
    return [(body.partition("\n")[0], body.partition("\n")[2]) for body in found]


def lines(body: str) -> list[str]:
    """Return the lines of a document that the script can ask about."""
    return [line.strip() for line in body.split("\n") if len(line.split()) >= 8 and '"' not in line]


def _draw(text: str, n: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % n


def propose(text: str) -> str:
    """Ask for the words that follow three words of a line, or for messages of a speaker."""
    shown = documents(text)
    if "Messages of one speaker" in text:
        count = re.search(r"exactly (\d+) such", text)
        assert count is not None
        for number, (_, body) in enumerate(shown, 1):
            for speaker in sorted({name for name, _ in _MESSAGE.findall(body)}):
                said = [message.strip() for name, message in _MESSAGE.findall(body) if name == speaker]
                if len(said) >= int(count[1]):
                    early = said[: int(count[1])]
                    form = {"document": number, "speaker": speaker, "messages": early}
                    return json.dumps(form | {"description": f"is among the first {count[1]} of its speaker"})
    passages = 3 if "three separate" in text else 2 if "two separate" in text else 1
    places = [(n, title, line) for n, (title, body) in enumerate(shown, 1) for line in lines(body)]
    if len(places) < 3:
        return "Nothing can be asked of these documents."
    at = _draw(text, len(places))
    number, title, line = places[at]
    words, length = line.split(), 2 + at % 2
    answer = " ".join(words[3 : 3 + length])
    rest = [places[(at + step) % len(places)] for step in range(1, len(places))]
    form = {
        "question": f'Which {length} words follow "{" ".join(words[:3])}" in document "{title}"?',
        "answer": answer,
        "evidence": [{"document": n, "quote": quote} for n, _, quote in [(number, title, line), *rest][:passages]],
        "reasoning": [f"The line goes on: {answer}"],
    }
    if "three wrong ones" in text:
        digits = any(c.isdigit() for c in answer)
        wrong = [(n, " ".join(other.split()[3 : 3 + length])) for n, _, other in rest]
        alike = [(n, one) for n, one in wrong if any(c.isdigit() for c in one) == digits and one != answer]
        form["distractors"] = [{"document": n, "quote": one} for n, one in alike[:3]]
    return "I think {so}.\n" + json.dumps(form)


def solve(text: str) -> str:
    """Find the words, or the message, that the question asks for."""
    shown = documents(text)
    message = re.search(r'Question: Reproduce the (\w+) message of (.+?) in "(.+?)" that', text)
    if message:
        prefix = re.search(r'answer is "(\w+:)" followed', text)
        said = [m for title, body in shown if title == message[3] for n, m in _MESSAGE.findall(body) if n == message[2]]
        assert prefix is not None
        return json.dumps({"found": True, "answer": f"{prefix[1]} {said[_ORDINALS.index(message[1])].strip()}"})
    asked = _FOLLOWS.search(text)
    assert asked is not None, text[-400:]
    for title, body in shown:
        for line in lines(body) if title == asked[3] else ():
            if line.startswith(" ".join(asked[2].split())) or " ".join(line.split()).startswith(asked[2]):
                answer = " ".join(line.split()[3 : 3 + int(asked[1])])
                options = {option: letter for letter, option in re.findall(r"^\(([A-D])\) (.*)$", text, re.MULTILINE)}
                return json.dumps({"found": True, "answer": options.get(answer, answer)})
    return json.dumps({"found": False, "answer": ""})


def extract(text: str) -> str:
    """State that the first word of each long line stands before its fourth."""
    triples = []
    for line in lines(text)[:40]:
        words = line.split()
        if line in text.split("Write at most")[0].split("\n", 3)[-1]:
            form = {"subject": words[0], "relation": "stands before", "object": words[3], "kind": "value"}
            triples.append(form | {"quote": line[:300]})
    return json.dumps({"triples": triples[:5]})


def reply(body: Mapping[str, Any]) -> str:
    """Return what an honest model would answer."""
    text = body["messages"][0]["content"]
    who = role(body)
    if who in ("proposer", "solver", "extractor"):
        return {"proposer": propose, "solver": solve, "extractor": extract}[who](text)
    return "It is so.\n[[YES]]"
