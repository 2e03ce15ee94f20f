"""Sections about samples and triples that language models propose (SPEC section 2). Off where no endpoint is set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qwenlong.core.config.models import EndpointConfig
from qwenlong.core.config.section import Section

MaseTask = Literal["viewpoint", "in_context_learning", "reading_comprehension", "dialogue_memory", "multiple_choice"]


class MaseConfig(Section):
    """Multi-agent self-evolution: a proposer asks, a solver answers, a verifier compares."""

    enabled: bool = False
    """Whether the workflow runs it and hands what was accepted to synthesis. Needs an endpoint."""
    proposer: EndpointConfig | None = None
    """Writes question and answer; none: llm.generator."""
    solver: EndpointConfig | None = None
    """Answers from the documents without seeing the proposed answer; none: the proposer's endpoint."""
    verifier: EndpointConfig | None = None
    """Decides whether both answers say the same; none: the proposer's endpoint."""
    tasks: tuple[MaseTask, ...] = (
        "dialogue_memory",
        "in_context_learning",
        "multiple_choice",
        "reading_comprehension",
        "viewpoint",
    )
    """Types of question; dialogue memory is asked of conversations only."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Rounds; each asks for harder questions than the one before and shows what was accepted. [assumed]"""
    clusters: Annotated[int, Field(ge=1)] = 16
    """Clusters of related documents. [assumed]"""
    documents_per_cluster: Annotated[int, Field(ge=1)] = 3
    """Documents in a cluster. [assumed]"""
    per_cluster: Annotated[int, Field(ge=1)] = 1
    """Questions proposed per cluster, type and round. [assumed]"""
    history: Annotated[int, Field(ge=0)] = 8
    """Accepted questions of its cluster that the proposer sees, the latest ones. [assumed]"""
    max_similarity: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Jaccard similarity (words and pairs of words) to an accepted question of the cluster above which a new one is
    dropped. [assumed]"""
    document_characters: Annotated[int, Field(ge=200)] = 24000
    """Characters of each document that the agents see; evidence lies within them."""
    tries: Annotated[int, Field(ge=1)] = 3
    """Replies asked for, each with another seed, before one without usable form counts as refused."""
    proposer_tokens: Annotated[int, Field(ge=16)] = 4096
    """Output limit of the proposer; a reply that reaches it is refused."""
    solver_tokens: Annotated[int, Field(ge=16)] = 4096
    """Output limit of the solver."""
    verifier_tokens: Annotated[int, Field(ge=16)] = 1024
    """Output limit of the verifier."""
    proposer_temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature of the proposer; solver and verifier answer at 0. [assumed]"""


class ExtractConfig(Section):
    """Triples (subject, relation, object) for the knowledge graph."""

    enabled: bool = False
    """Whether the workflow reads triples with a model and hands them to synthesis. Needs an endpoint."""
    endpoint: EndpointConfig | None = None
    """Reads prose; none: llm.generator."""
    passage_characters: Annotated[int, Field(ge=200)] = 4000
    """Longest passage of a document that is read in one request, cut at paragraphs. [assumed]"""
    max_triples: Annotated[int, Field(ge=1)] = 20
    """Triples asked for per passage. [assumed]"""
    max_words: Annotated[int, Field(ge=1)] = 12
    """Longest subject or object, in words: a longer one is a clause, not a node. [assumed]"""
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    """Output limit; a reply that reaches it is refused."""
    tries: Annotated[int, Field(ge=1)] = 3
    """Replies asked for, each with another seed, before one without usable form counts as refused."""


class GraphConfig(Section):
    """Which names of extracted triples are one node, and the walks over the graph of all documents."""

    entity_similarity: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Cosine similarity of their embeddings from which two names may be one node. Their words must agree too: the same
    ones in another order, or a middle name more. [assumed]"""
    relation_similarity: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Cosine similarity from which two relations with the same prepositions are one. [assumed]"""
    doubt_similarity: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Cosine similarity from which names or relations that stay apart count as perhaps the same: a question must have
    one answer under both readings. [assumed]"""
    max_block: Annotated[int, Field(ge=2)] = 256
    """Largest number of names with a word in common that are compared with each other; a word of more is passed over.
    Bounds the cost, which grows with names times this. [assumed]"""
    relevant_relations: Annotated[int, Field(ge=1)] = 12
    """Relations of a walk's subgraph beside the first: the most similar ones among those that meet it at a node.
    [assumed]"""
    walks: Annotated[int, Field(ge=1)] = 4
    """Random walks that start at each node, for each number of hops. [assumed]"""
    obfuscate_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the paths whose first name or date is made vaguer where the answer stays the only one. [assumed]"""
    rewriter: EndpointConfig | None = None
    """Rewrites the questions of walks in its own words; none: they keep the wording of the rules."""
    rewriter_tokens: Annotated[int, Field(ge=16)] = 1024
    """Output limit of the rewriter."""


class SqlConfig(Section):
    """Bounds of the sandbox in which SQL over documents' tables runs."""

    seconds: Annotated[float, Field(gt=0)] = 5.0
    """Longest run of one query; it is interrupted then. [assumed]"""
    rows: Annotated[int, Field(ge=1)] = 1000
    """Most rows that a query may give. [assumed]"""
    memory_mb: Annotated[int, Field(ge=32)] = 512
    """Memory of the database; a query that needs more fails, nothing goes to disk. [assumed]"""


class Nl2SqlConfig(Section):
    """Questions with SQL that a model writes over documents' tables, `qwenlong synthesize nl2sql`."""

    enabled: bool = False
    """Whether the workflow runs it and gives what both requests agree on to the training samples."""
    endpoint: EndpointConfig | None = None
    """Writes question and SQL; none: llm.generator."""
    solver: EndpointConfig | None = None
    """Translates the question alone back into SQL; none: the endpoint above."""
    tables: Annotated[int, Field(ge=1)] = 32
    """Tables asked about, each over documents of one schema. [assumed]"""
    per_table: Annotated[int, Field(ge=1)] = 4
    """Questions asked for per table. [assumed]"""
    documents_per_table: Annotated[int, Field(ge=1)] = 3
    """Most documents whose rows one question is over. [assumed]"""
    sample_rows: Annotated[int, Field(ge=1)] = 5
    """Rows of the table that a request shows. [assumed]"""
    max_tokens: Annotated[int, Field(ge=16)] = 2048
    """Output limit of both; a reply that reaches it is refused."""
    tries: Annotated[int, Field(ge=1)] = 3
    """Replies asked for, each with another seed, before one without usable form counts as refused."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature of the writer; the solver answers at 0. [assumed]"""
