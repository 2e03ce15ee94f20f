"""One sample for a reader: the evidence in its surroundings, each reasoning step beside it, question and answer."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.templates import render_choices, select_documents

if TYPE_CHECKING:
    from rich.text import Text

#: Lines shown on either side of evidence.
CONTEXT = 2
#: Characters shown on either side of evidence within its line, and of any other line: a line may be a whole document.
WIDTH = 240
#: Characters of one span of evidence.
SPAN = 1200
#: Documents in a row without evidence that get a line each; longer rows get one together.
ROW = 3
#: Around evidence where no colour can show it.
MARKS = ("»", "«")


@dataclass(frozen=True)
class Place:
    """A span of evidence: its number as shown, where its middle lies in the context (0 to 1), and its steps."""

    number: int
    span: Evidence
    position: float
    steps: tuple[int, ...]


def safe(text: str) -> str:
    """Return text that does nothing to a terminal: control characters become signs that name them.

    Tabs and line ends stay. Escape sequences lose their ESC, C1 controls and characters that reorder or hide text
    (bidirectional controls, zero width, tags) show their code point; what UTF-8 cannot write does, too.
    """
    return "".join(_sign(character) for character in text)


def _sign(character: str) -> str:
    code = ord(character)
    if character in "\t\n" or 0x20 <= code < 0x7F:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    # Cc: C1 controls; Cf: formats, with all bidirectional ones; Cs: lone surrogates; Zl, Zp: line ends of another kind.
    return f"<U+{code:04X}>" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def places(sample: Sample, documents: Sequence[Document]) -> list[Place]:
    """Return the sample's evidence in the order in which the context shows it, each span with its reasoning steps.

    A step belongs to the span that holds most of its words, document titles included; of equals to the one at its own
    place in the chain. Spans that stand there twice are shown once.
    """
    begins: dict[str, int] = {}
    total = 0
    for document in documents:
        begins[document.id] = total
        total += len(document.text)
    by_id = {document.id: document for document in documents}
    known = [span for span in dict.fromkeys(sample.evidence) if span.document in by_id]
    steps = _steps(sample, [f"{by_id[s.document].title} {by_id[s.document].text[s.start : s.end]}" for s in known])
    ordered = sorted(range(len(known)), key=lambda n: (begins[known[n].document], known[n].start, known[n].end))
    found = []
    for number, n in enumerate(ordered, 1):
        span = known[n]
        middle = begins[span.document] + (span.start + span.end) / 2
        found.append(Place(number, span, middle / max(1, total), tuple(steps.get(n, ()))))
    return found


def _steps(sample: Sample, texts: Sequence[str]) -> dict[int, list[int]]:
    """Return the steps of each span, by the span's number."""
    words = [set(re.findall(r"\w+", text.casefold())) for text in texts]
    result: dict[int, list[int]] = {}
    for number, step in enumerate(sample.reasoning_chain):
        wanted = set(re.findall(r"\w+", step.casefold()))
        shared = [(len(wanted & own), n == number, -n) for n, own in enumerate(words)]
        best = max(shared, default=(0, False, 0))
        # Half of a step's words, at least: "That is option C." belongs to no span.
        if wanted and 2 * best[0] >= len(wanted):
            result.setdefault(-best[2], []).append(number)
    return result


def marked(document: Document, here: Sequence[Place], whole: bool, styled: bool, context: int = CONTEXT) -> Text:
    """Return a document's text with its evidence highlighted: whole, or the lines around the evidence."""
    from rich.text import Text

    text, result = document.text, Text()
    spans = _merged([(place.span.start, min(place.span.end, len(text))) for place in here])
    windows = [(0, len(text))] if whole else _windows(text, spans, context)
    for begin, end in windows:
        if begin > 0:
            result.append("…\n", style="dim")
        at = begin
        for start, stop in [span for span in spans if begin <= span[0] < end]:
            _append(result, text[at:start], whole, "tail" if at == begin else "middle")
            inner = text[start:stop]
            if not whole and len(inner) > SPAN:
                inner = f"{inner[: SPAN // 2]} … {len(inner) - SPAN:,} more characters … {inner[-SPAN // 2 :]}"
            shown = safe(inner)
            result.append(shown if styled else f"{MARKS[0]}{shown}{MARKS[1]}", style="bold reverse" if styled else "")
            at = stop
        _append(result, text[at:end], whole, "head")
        if not result.plain.endswith("\n"):
            result.append("\n")
    if windows and windows[-1][1] < len(text):
        result.append("…\n", style="dim")
    result.rstrip()
    return result


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans that neither overlap nor touch, in their order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _windows(text: str, spans: Sequence[tuple[int, int]], context: int) -> list[tuple[int, int]]:
    """Return the parts of a text that are `context` lines around its spans; parts that meet become one."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        begin = start
        for _ in range(context + 1):
            begin = text.rfind("\n", 0, begin)
            if begin < 0:
                break
        stop = end - 1
        for _ in range(context + 1):
            stop = text.find("\n", stop + 1)
            if stop < 0:
                stop = len(text)
                break
        begin += 1
        if found and begin <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((begin, stop))
    return found


def _append(result: Text, text: str, whole: bool, keep: str) -> None:
    """Add text between spans of evidence; long lines keep their end towards the evidence."""
    if not whole:
        text = "\n".join(_short(line, keep) for line in text.split("\n"))
    result.append(safe(text))


def _short(line: str, keep: str) -> str:
    if len(line) <= 2 * WIDTH:
        return line
    if keep == "tail":
        return f"… {line[-WIDTH:]}"
    return f"{line[:WIDTH]} …" if keep == "head" else f"{line[:WIDTH]} … {line[-WIDTH:]}"


def lines(
    sample: Sample,
    documents: Mapping[str, Document],
    *,
    whole: bool = False,
    styled: bool = True,
    context: int = CONTEXT,
) -> list[Text]:
    """Return what `synthesize show` prints. Without `styled`, evidence stands between MARKS."""
    from rich.text import Text

    shown = select_documents(sample, documents)
    found = places(sample, shown)
    homes = {place.span.document for place in found}
    size = sum(len(document.text) for document in shown)
    head = f"{sample.id}  {sample.task} / {sample.question_type}  {sample.template}  by {sample.generator}"
    result = [
        Text(safe(head), style="bold"),
        Text(safe(f"{sample.n_tokens:,} tokens, {len(shown)} documents, {size:,} characters; from {sample.source}")),
        *_measures(sample),
    ]
    titles = {document.id: document.title for document in shown}
    path = list(dict.fromkeys(span.document for span in sample.evidence))
    if sample.n_hops:
        result.append(Text(safe(f"{sample.n_hops} hops: " + " → ".join(titles.get(d, d) for d in path))))
    result.append(Text())
    row: list[tuple[int, Document]] = []
    for number, document in enumerate(shown, 1):
        if document.id not in homes and not whole:
            row.append((number, document))
            continue
        result += _folded(row)
        row = []
        result.append(Text(safe(f"[{number}] {document.title}  ({document.id})"), style="cyan"))
        here = [place for place in found if place.span.document == document.id]
        result += [line for place in here for line in _beside(place, sample)]
        result += [marked(document, here, whole, styled, context), Text()]
    result += _folded(row)
    result += [Text(), Text(safe(f"Question: {sample.question}"), style="bold")]
    if sample.choices:
        result.append(Text(safe(render_choices(sample.choices))))
    result.append(Text(safe(f"Format: {sample.instruction}"), style="dim"))
    beside = {step: place.number for place in found for step in place.steps}
    for number, step in enumerate(sample.reasoning_chain):
        where = f"  ← evidence {beside[number]}" if number in beside else ""
        result.append(Text(safe(f"  {number + 1}. {step}{where}")))
    result.append(Text(safe(f"Answer: {' | '.join(sample.answers)}"), style="bold green"))
    return result


def _measures(sample: Sample) -> Iterator[Text]:
    from rich.text import Text

    if sample.difficulty is not None:
        measured = sample.difficulty
        yield Text(safe(f"difficulty: pass@{measured.k} = {measured.pass_at_k:.2f} ({measured.model})"))
    if sample.checks:
        checks = ", ".join(
            f"{name} {value if isinstance(value, str) else json.dumps(value)}"
            for name, value in sorted(sample.checks.items())
        )
        yield Text(safe(f"checks: {checks}"))
    if sample.n_needles:
        yield Text(f"{sample.n_needles} needles")


def _beside(place: Place, sample: Sample) -> Iterator[Text]:
    """Yield the lines over a span's text: its number and place in the context, then its steps."""
    from rich.text import Text

    yield Text(f"  evidence {place.number} at {100 * place.position:.0f}% of the context", style="yellow")
    for step in place.steps:
        yield Text(safe(f"    step {step + 1}: {sample.reasoning_chain[step]}"), style="yellow")


def _folded(row: Sequence[tuple[int, Document]]) -> Iterator[Text]:
    """Yield a line for each of a few documents without evidence, or one line for all of them."""
    from rich.text import Text

    if len(row) > ROW:
        size = sum(len(document.text) for _, document in row)
        yield Text(
            f"[{row[0][0]}–{row[-1][0]}] {len(row)} documents without evidence, {size:,} characters (--all)",
            style="dim",
        )
        return
    for number, document in row:
        yield Text(
            safe(f"[{number}] {document.title}  ({document.id}), {len(document.text):,} characters without evidence"),
            style="dim",
        )
