"""How much each job of a configuration reads, writes and trains on: what the arithmetic is fed with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwenlong.audit.planning.arithmetic import NOTHING, Range, Tokens, exactly
from qwenlong.audit.planning.assumed import Assumptions, BenchmarkSize
from qwenlong.audit.planning.graph import OWN
from qwenlong.core import published
from qwenlong.core.config import Config, MemoryRLConfig, StageConfig
from qwenlong.core.errors import ConfigError

#: What the judge of documents sees and may write (corpus/judge.py).
JUDGE_CHARACTERS, JUDGE_TOKENS = 6000, 1024


@dataclass(frozen=True)
class Prompts:
    """Lengths of prompts below a limit: the share of samples, their mean, and the mean over tokens."""

    share: float
    mean: float
    by_token: float
    """Length of the prompt that a token stands in: what attention costs goes by it."""


@dataclass(frozen=True)
class Corpus:
    """Documents that the corpus keeps, and where the number is from."""

    documents: Range
    tokens: Range
    source: str


def prompts(config: Config, limit: float) -> Prompts:
    """Return the lengths of training prompts up to a limit in tokens, from the configured targets.

    Samples that are longer are left out, as training does; where all are, those at the limit are taken.
    """
    synthesis = config.synthesis
    weights: list[tuple[float, float]]
    if synthesis.lengths is not None:
        histogram = synthesis.lengths.histogram
        counts: Sequence[int] = (
            published.load().figures["figure3_input_length_histogram"]["counts"]
            if histogram == "figure3"
            else histogram
        )
        width = round(synthesis.lengths.bin_tokens * synthesis.lengths.scale)
        weights = [((i + 0.5) * width, count) for i, count in enumerate(counts)]
    else:
        weights = [(float(target), 1.0) for target in synthesis.length_targets]
    inside = [(length, count) for length, count in weights if length <= limit]
    amount = sum(count for _, count in weights)
    n = sum(count for _, count in inside)
    if not n:
        return Prompts(1 / amount, limit, limit)
    tokens = sum(length * count for length, count in inside)
    return Prompts(n / amount, tokens / n, sum(length**2 * count for length, count in inside) / tokens)


def corpus(config: Config, assumptions: Assumptions, counted: Mapping[str, int] | None = None) -> Corpus:
    """Return the size of the corpus: as counted (`documents`, `characters`), as bounded, or as assumed."""
    data, per_token = assumptions.data, assumptions.lengths.characters_per_token
    if counted is not None:
        tokens = exactly(counted["characters"]).per(per_token)
        return Corpus(exactly(counted["documents"]), tokens, "corpus.json")
    c = config.corpus
    each = data.packages_tokens / data.packages_documents
    if c.max_documents_per_source is not None:
        most = float(c.max_documents_per_source * (len(c.sources) + len(c.folders) + len(c.datasets)))
        length = exactly(each)
        if c.section_characters is not None:
            length = (Range(0.4, 0.8, 1.0) * c.section_characters).per(per_token)
        return Corpus(Range(most / 2, most, most), Range(most / 2, most, most) * length, "max_documents_per_source")
    if c.judge_filter or c.datasets or c.folders:
        documents = Range(data.packages_documents, data.documents, data.documents)
        tokens = Range(data.packages_tokens, data.tokens, data.tokens)
        return Corpus(documents, tokens, "low: the packages alone; else the paper's corpus")
    return Corpus(exactly(data.packages_documents), exactly(data.packages_tokens), "the packages")


def samples(config: Config, assumptions: Assumptions, step: str) -> Range:
    """Return how many training samples are there after "made", "verified" or "binned"."""
    data = assumptions.data
    found = exactly(config.synthesis.samples_per_task * len(config.synthesis.tasks)) * data.made
    if step in ("verified", "binned"):
        found = found * data.verified
    return found * data.binned if step == "binned" else found


def asked(number: Range, k: int, lengths: Prompts, limit: int, assumptions: Assumptions) -> Tokens:
    """Return k responses to each of so many prompts, each prompt read once."""
    response = assumptions.lengths.response_share * limit
    return Tokens(
        prompt=number * lengths.mean,
        read_at=lengths.by_token,
        response=number * k * response,
        written_at=lengths.by_token + response.typical / 2,
    )


def verification(config: Config, assumptions: Assumptions) -> Tokens:
    """Return blind tries, and k tries with more documents."""
    number, s = samples(config, assumptions, "made"), config.selection
    question = assumptions.lengths.question
    blind = asked(number, s.blind_tries, Prompts(1, question.typical, question.typical), s.max_new_tokens, assumptions)
    lengths = prompts(config, config.base.window - s.max_new_tokens)
    return blind + asked(number, s.k, lengths, s.max_new_tokens, assumptions)


def difficulty(config: Config, assumptions: Assumptions) -> Tokens:
    """Return k tries of each verified sample."""
    s = config.selection
    lengths = prompts(config, config.base.window - s.max_new_tokens)
    return asked(samples(config, assumptions, "verified"), s.k, lengths, s.max_new_tokens, assumptions)


def score(config: Config, assumptions: Assumptions, stage: StageConfig) -> Tokens:
    """Return k tries of each sample within a stage's limits, which are the stage's."""
    lengths = prompts(config, stage.max_input_tokens)
    number = samples(config, assumptions, "binned") * lengths.share
    return asked(number, config.selection.k, lengths, stage.max_output_tokens, assumptions)


def training(config: Config, assumptions: Assumptions, stage: StageConfig) -> Tokens:
    """Return a stage's rollouts, and the rows that it trains on."""
    groups = stage.steps * stage.batch_prompts
    if stage.memory is not None:
        return _memory(config, assumptions, stage, stage.memory)
    lengths = prompts(config, stage.max_input_tokens)
    found = asked(exactly(groups), stage.group_size, lengths, stage.max_output_tokens, assumptions)
    response = assumptions.lengths.response_share * stage.max_output_tokens
    return Tokens(
        found.prompt,
        found.read_at,
        found.response,
        found.written_at,
        trained=groups * stage.group_size * (response + lengths.mean),
        trained_at=lengths.by_token + response.typical,
    )


def _memory(config: Config, assumptions: Assumptions, stage: StageConfig, memory: MemoryRLConfig) -> Tokens:
    targets = [min(t, memory.max_document_tokens) for t in config.synthesis.memory_length_targets]
    document = sum(targets) / len(targets)
    turns, prompt, response, length = agent(
        assumptions, document, memory.chunk_tokens, memory.memory_tokens, memory.answer_tokens
    )
    trajectories = exactly(stage.steps * stage.batch_prompts * stage.group_size)
    return Tokens(
        trajectories * prompt,
        length,
        trajectories * response,
        length,
        trajectories * (prompt + response),
        length + (response * (1 / turns)).typical,
    )


def agent(
    assumptions: Assumptions, document: float, chunk: int, memory: int, answer: int
) -> tuple[int, Range, Range, float]:
    """Return calls, prompt and written tokens for one document through the memory agent, and the prompt of a call.

    A call for each chunk shows question, memory and chunk; the last one question and memory.
    """
    lengths = assumptions.lengths
    chunks = max(1, math.ceil(document / chunk))
    written = lengths.memory_share * memory
    prompt = exactly(document) + (chunks + 1) * lengths.question + chunks * written
    response = chunks * written + lengths.answer_share * answer
    each = document / chunks + lengths.question.typical + written.typical
    return chunks + 1, prompt, response, each


def benchmark(config: Config, assumptions: Assumptions, name: str) -> BenchmarkSize:
    """Return a benchmark's size. Raises ConfigError for one that no assumption covers."""
    s = config.synthesis
    if name == OWN[0]:
        mean = prompts(config, config.evaluation.max_input_tokens).mean
        return BenchmarkSize(items=s.heldout_per_task * len(s.tasks), prompt=mean)
    if name == OWN[1]:
        return BenchmarkSize(items=max(1, s.long_heldout_per_task) * len(s.tasks), prompt=s.long_length_target)
    if name not in assumptions.benchmarks:
        known = ", ".join(sorted({*OWN, *assumptions.benchmarks}))
        raise ConfigError(
            f"evaluation: the size of benchmark {name!r} is not known, only those of {known}; give a file with it "
            "under `benchmarks`, --assumptions FILE"
        )
    return assumptions.benchmarks[name]


def evaluation(config: Config, assumptions: Assumptions, name: str, through_agent: bool) -> tuple[Tokens, Range]:
    """Return what a model reads and writes on a benchmark, and the tokens of the longest chain of calls."""
    e, size = config.evaluation, benchmark(config, assumptions, name)
    k = e.samples or size.samples
    if through_agent:
        a = config.agent
        question = exactly(size.items * k)
        # The query is split in a call of its own.
        calls, prompt, response, each = agent(
            assumptions, size.prompt, a.chunk_tokens, a.memory_tokens, a.answer_tokens
        )
        split = assumptions.lengths.question
        found = Tokens(question * (prompt + split), each, question * (response + split), each)
        return found, response + split
    prompt_tokens = min(size.prompt, float(e.max_input_tokens))
    response = (size.response or assumptions.lengths.response_share * e.max_output_tokens).at_most(e.max_output_tokens)
    found = Tokens(
        exactly(size.items * prompt_tokens),
        prompt_tokens,
        size.items * k * response,
        prompt_tokens + response.typical / 2,
    )
    return found, assumptions.overheads.tail * e.max_output_tokens


def judged(config: Config, assumptions: Assumptions, name: str) -> Range:
    """Return how often the evaluation's judge is asked about one model on a benchmark."""
    if config.llm.evaluation_judge is None:
        return NOTHING
    size = benchmark(config, assumptions, name)
    responses = size.items * (config.evaluation.samples or size.samples)
    share = {
        "no": NOTHING,
        "failed": assumptions.calls.judged_responses,
        # The paper's question where the rule fails, and the benchmark's own about every response.
        "every": assumptions.calls.judged_responses + 1,
    }[size.judged]
    return share * responses


def generated(config: Config, assumptions: Assumptions, rule: str, size: Corpus) -> tuple[Range, Range, Range]:
    """Return the generator's calls for a rule, and the tokens that it reads and writes in one.

    `rule`: corpus (the judge of documents), mase, extract, nl2sql.
    """
    calls, lengths = assumptions.calls, assumptions.lengths
    s = config.synthesis
    if rule == "corpus":
        each = [t / max(1.0, d) for t, d in zip(size.tokens.values(), size.documents.values(), strict=True)]
        read = Range(*sorted(each)).at_most(JUDGE_CHARACTERS / lengths.characters_per_token.typical)
        return (
            size.documents.per(assumptions.data.kept_by_filters),
            read + lengths.question,
            calls.generated.at_most(JUDGE_TOKENS),
        )
    if rule == "mase":
        m = s.mase
        asked_for = m.clusters * len(m.tasks) * m.rounds * m.per_cluster * 3
        # Proposer and solver read the documents, the verifier two answers.
        read = (exactly(m.documents_per_cluster * m.document_characters)).per(lengths.characters_per_token) * (2 / 3)
        most = (m.proposer_tokens + m.solver_tokens + m.verifier_tokens) / 3
        return asked_for * calls.tries, read + lengths.question, calls.generated.at_most(most)
    if rule == "extract":
        # A passage is counted in characters; every document has one at least.
        passage = s.extract.passage_characters / lengths.characters_per_token.typical
        ends = zip(size.documents.values(), size.tokens.values(), strict=True)
        n = Range(*(max(documents, tokens / passage) for documents, tokens in ends))
        read = Range(*sorted(t / max(1.0, k) for t, k in zip(size.tokens.values(), n.values(), strict=True)))
        return n * calls.tries, read + lengths.question, calls.generated.at_most(s.extract.max_tokens)
    questions = s.nl2sql.tables * s.nl2sql.per_table * 2
    return questions * calls.tries, 3 * lengths.question, calls.generated.at_most(s.nl2sql.max_tokens)
