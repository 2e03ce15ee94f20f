"""Length extension: irrelevant documents around the evidence up to a target length in tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

from qwenlong.core import templates
from qwenlong.core.files import digest_value
from qwenlong.core.records import Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool

#: Documents that are tried in a row without one that fits before a sample counts as full.
MAX_MISSES = 40
#: Tokens that a document's heading may cost in the prompt.
HEADING = 16


def sample(candidate: Candidate, documents: Sequence[Document], tokenizer: Tokenizer, target: int) -> Sample:
    """Return the sample that shows `documents` in this order, its prompt counted exactly. The id names the content."""
    ids = tuple(document.id for document in documents)
    home = next(document for document in documents if document.id == candidate.evidence[0].document)
    made = Sample(
        id="-",
        task=candidate.task,
        question_type=candidate.question_type,
        question=candidate.question,
        instruction=candidate.instruction,
        documents=ids,
        evidence=candidate.evidence,
        answers=candidate.answers,
        choices=candidate.choices,
        answer_prefix=candidate.answer_prefix,
        n_needles=candidate.n_needles,
        reasoning_chain=candidate.reasoning_chain,
        n_hops=candidate.n_hops,
        category=home.category,
        source=home.source,
        generator=candidate.generator,
        template=candidate.template,
        checks={"length_target": target, **dict(candidate.checks)},
        n_tokens=0,
        tokenizer=tokenizer.digest,
    )
    return renamed(made, documents, tokenizer)


def renamed(made: Sample, documents: Sequence[Document], tokenizer: Tokenizer) -> Sample:
    """Return a sample with the id and the token count that its content gives it."""
    content = [made.question, made.instruction, made.choices, made.answers, made.documents]
    tokens = prompt_tokens(made, documents, tokenizer)
    return made.model_copy(update={"id": f"{made.task}-{digest_value(content)[:12]}", "n_tokens": tokens})


def prompt_tokens(made: Sample, documents: Sequence[Document], tokenizer: Tokenizer) -> int:
    """Return the tokens of the rendered chat prompt."""
    return tokenizer.count_chat(templates.messages(made, {d.id: d for d in documents}, tokenizer))


def context_tokens(documents: Sequence[Document], tokenizer: Tokenizer) -> int:
    """Return the tokens of the documents as the prompt shows them."""
    return tokenizer.count(templates.render_documents(documents))


def length(candidate: Candidate, pool: Pool, tokenizer: Tokenizer, of_context: bool) -> int:
    """Return the tokens that the evidence alone needs, of the prompt or of the documents."""
    shown = [pool.by_id[name] for name in candidate.documents]
    return context_tokens(shown, tokenizer) if of_context else sample(candidate, shown, tokenizer, 0).n_tokens


def extend(
    candidate: Candidate,
    pool: Pool,
    tokenizer: Tokenizer,
    target: int,
    at_least: bool,
    of_context: bool,
    randomness: random.Random,
) -> Sample | None:
    """Return the candidate among irrelevant documents of its pool, evidence complete and in random places.

    The length (of the prompt, or of the documents with `of_context`) is at most `target`, or with `at_least` the first
    that reaches it. None when that cannot be had, or when the evidence alone breaks the target. A document that would
    change the answer is never inserted.
    """
    shown = [pool.by_id[name] for name in candidate.documents]

    def measure() -> int:
        if of_context:
            return context_tokens(shown, tokenizer)
        return sample(candidate, shown, tokenizer, target).n_tokens

    size = measure()
    if not candidate.holds(shown) or (size > target and not at_least):
        return None
    misses, exact = 0, True
    order = list(range(len(pool.documents)))
    inside = {document.id for document in shown}
    while size < target and misses < MAX_MISSES and order:
        # A swap with the last: a draw without replacement, in constant time.
        place = randomness.randrange(len(order))
        order[place], order[-1] = order[-1], order[place]
        document = pool.documents[order.pop()]
        # The heading costs tokens too; the exact count follows below.
        too_long = size + document.n_tokens + 4 > target and not at_least
        if too_long and not exact:
            size, exact = measure(), True
            too_long = size + document.n_tokens + 4 > target
        if too_long or document.id in inside or not candidate.holds([*shown, document]):
            misses += 1
            continue
        shown.append(document)
        inside.add(document.id)
        # Counting all documents for each one added would be quadratic: a bound from above will do until it reaches the
        # target, then the exact count takes its place.
        new, counted = size + document.n_tokens + HEADING, False
        if new >= target:
            new, counted = measure(), True
        if new > target and not at_least:
            inside.remove(shown.pop().id)
            misses += 1
        else:
            size, exact, misses = new, counted, 0
    required = len(candidate.documents)
    size = measure()
    while size > target and not at_least and len(shown) > required:
        shown.pop()
        size = measure()
    if (size < target) if at_least else (size > target):
        return None
    randomness.shuffle(shown)
    made = sample(candidate, shown, tokenizer, target)
    # Numbers of the headings move with the order: one more look at the exact count.
    final = context_tokens(shown, tokenizer) if of_context else made.n_tokens
    return made if (final >= target if at_least else final <= target) and candidate.holds(shown) else None
