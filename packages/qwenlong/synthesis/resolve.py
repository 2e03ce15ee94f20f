"""Which names of different documents are one node: forms, blocks of names with a word in common, embeddings.

Precision comes first, since a wrong merge makes a wrong answer: what is only likely to be one stays apart and is
remembered as a doubt, under which a question must have the same answer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qwenlong.core.config import GraphConfig
from qwenlong.core.records import Document
from qwenlong.synthesis import names, relations
from qwenlong.synthesis.agents import plain
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.intake import node_name

Form = tuple[str, ...]
Mention = tuple[str, str]
#: Relations by which a document itself says that two names are one.
ALIASES = frozenset(
    {
        *("also known as", "also called", "known also as", "aka", "a.k.a", "better known as", "alias", "alias of"),
        *("is short for", "short for", "abbreviated as", "abbreviation of", "abbreviated", "is the abbreviation of"),
        *("is also known as", "is also called", "was also known as", "was also called", "is abbreviated as"),
        *("is better known as", "is an alias of", "stands for", "is another name for", "another name for"),
    }
)


@dataclass
class Group:
    """The mentions that share a form (or a value, or a document's noun)."""

    key: str
    kind: str
    form: Form
    labels: Counter[str] = field(default_factory=Counter)
    documents: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Resolution:
    """What `resolve` gives. Nodes are named as in the graph ("entity:Ada Lovelace"); relations by their first form."""

    nodes: Mapping[Mention, str]
    kinds: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]]
    near: Mapping[str, frozenset[str]]
    relations: Mapping[str, str]
    wordings: Mapping[str, tuple[str, ...]]
    near_relations: Mapping[str, frozenset[str]]
    inverse: Mapping[str, str]
    counts: Mapping[str, int]

    def node(self, end: str, document: str) -> str:
        """Return the node that an edge's end in a document is."""
        return self.nodes[node_name(end), document]


def lower_words(documents: Iterable[Document]) -> set[str]:
    """Return the words that documents write in lower case."""
    return {word for document in documents for word in re.findall(r"(?<![\w'’-])[^\W\d_A-Z][^\W\d_]*", document.text)}


def resolve(
    edges: Sequence[Edge],
    documents: Iterable[Document],
    anchors: Collection[str],
    config: GraphConfig,
) -> Resolution:
    """Return the nodes and relations of extracted edges over all documents; the same input gives the same result.

    `anchors` are nodes of structured sources: a name with the very form of one is that node, and they never merge.
    Dates, numbers and other values are one when they are written alike. A proper name is one node in all documents; a
    common noun, and a single word that is also part of a person's longer name, is a node of its document only. Names
    merge when a document says so, or when their words agree (`names.compatible`), their embeddings are similar, and no
    document uses both, which would tell them apart.
    """
    sources = {edge.document for edge in edges}
    common = lower_words(document for document in documents if document.id in sources)
    groups, homes = _groups(edges, common)
    ordered = [groups[key] for key in sorted(groups)]
    joins, doubts, counts = _pairs(ordered, common, config)
    stated = _stated(edges, homes)
    fixed = _unique(anchors)
    clusters = _agglomerate(ordered, joins, stated, fixed, counts)
    return _named(edges, ordered, homes, clusters, doubts, fixed, config, counts)


def _groups(edges: Sequence[Edge], common: Collection[str]) -> tuple[dict[str, Group], dict[Mention, str]]:
    mentions: dict[Mention, set[str]] = defaultdict(set)
    for edge in edges:
        for end in (edge.source, edge.target):
            mentions[node_name(end), edge.document].add(end.partition(":")[0])
    kinds: dict[str, str] = {label: names.kind_of(label, common) for label, _ in mentions}
    persons: set[str] = set()
    for label, kind in kinds.items():
        parts = names.form(label)
        # "John Smith" makes "John" and "Smith" names of many; "Arlow Bridge" says nothing against "Arlow".
        plainly = kind == "name" and len(parts) > 1 and names.words(label)[-1][0].isupper()
        if plainly and not any(part in common for part in parts):
            persons |= {parts[0], parts[-1]}
    groups: dict[str, Group] = {}
    homes: dict[Mention, str] = {}
    for (label, document), sorts in sorted(mentions.items()):
        parts = names.form(label)
        kind = kinds[label]
        if kind in ("date", "number"):
            key = f"{kind}\x1f{plain(label)}"
        elif kind == "noun" and sorts == {"value"}:
            key, kind = f"value\x1f{plain(label)}", "value"
        elif kind == "noun" or (len(parts) == 1 and parts[0] in persons):
            key, kind = f"local\x1f{' '.join(parts)}\x1f{document}", "noun" if kind == "noun" else "ambiguous"
        else:
            key = f"name\x1f{' '.join(parts)}"
        group = groups.setdefault(key, Group(key, kind, parts))
        group.labels[label] += 1
        group.documents.add(document)
        homes[label, document] = key
    return groups, homes


def _pairs(
    groups: Sequence[Group], common: Collection[str], config: GraphConfig
) -> tuple[dict[tuple[int, int], float], set[tuple[int, int]], Counter[str]]:
    """Return the pairs of names that may be one with their similarity, the doubtful ones, and counts."""
    import numpy as np

    from qwenlong.core.embeddings import embed

    counts: Counter[str] = Counter()
    chosen = [n for n, group in enumerate(groups) if group.kind in ("name", "ambiguous", "noun")]
    blocks: dict[str, list[int]] = defaultdict(list)
    for number in chosen:
        for word in sorted(set(groups[number].form)):
            blocks[word].append(number)
    rows = np.zeros((len(groups), 1), np.float32)
    if chosen:
        made = embed([_label(groups[number]) for number in chosen])
        rows = np.zeros((len(groups), made.shape[1]), np.float32)
        rows[chosen] = made
    joins: dict[tuple[int, int], float] = {}
    doubts: set[tuple[int, int]] = set()
    least = min(config.entity_similarity, config.doubt_similarity)
    for word, block in sorted(blocks.items()):
        if len(block) > config.max_block:
            counts["common_words"] += 1
            continue
        scores = rows[block] @ rows[block].T
        for left, right in np.argwhere(np.triu(scores >= least, 1)).tolist():
            pair = block[left], block[right]
            one, other = groups[pair[0]], groups[pair[1]]
            # Each pair is looked at in the block of its first word in common only.
            if word != min(w for w in set(one.form) & set(other.form) if len(blocks[w]) <= config.max_block):
                continue
            score = round(float(scores[left, right]), 6)
            if "noun" in (one.kind, other.kind):
                # "the bridge" of one document is perhaps its "Arlow Bridge".
                if one.documents & other.documents and names.doubtful(one.form, other.form):
                    doubts.add(pair)
                continue
            proper = one.kind == other.kind == "name"
            if proper and score >= config.entity_similarity and names.compatible(one.form, other.form, common):
                joins[pair] = score
            elif score >= config.doubt_similarity and names.doubtful(one.form, other.form):
                doubts.add(pair)
    return joins, doubts, counts


def _stated(edges: Sequence[Edge], homes: Mapping[Mention, str]) -> set[tuple[str, str]]:
    """Return pairs of groups that a document calls one."""
    return {
        (homes[node_name(edge.source), edge.document], homes[node_name(edge.target), edge.document])
        for edge in edges
        if " ".join(names.words(edge.relation)).casefold() in ALIASES
    }


def _agglomerate(
    groups: Sequence[Group],
    joins: Mapping[tuple[int, int], float],
    stated: Collection[tuple[str, str]],
    anchors: Mapping[Form, str],
    counts: Counter[str],
) -> list[list[int]]:
    """Return clusters of groups: what documents state first, then the most similar pairs, complete linkage."""
    members = {number: [number] for number in range(len(groups))}
    home = {number: number for number in members}
    place = {group.key: number for number, group in enumerate(groups)}

    def anchored(left: int, right: int) -> bool:
        found = {anchors[groups[n].form] for n in (*members[left], *members[right]) if groups[n].form in anchors}
        return len(found) > 1

    def join(left: int, right: int) -> None:
        left, right = sorted((left, right))
        members[left] += members.pop(right)
        for number in members[left]:
            home[number] = left

    said = {tuple(sorted((place[one], place[other]))) for one, other in stated}
    for one, other in sorted(said):
        kinds = {groups[one].kind, groups[other].kind}
        if home[one] != home[other] and kinds == {"name"} and not anchored(home[one], home[other]):
            join(home[one], home[other])
            counts["stated"] += 1
    for (one, other), _ in sorted(joins.items(), key=lambda item: (-item[1], item[0])):
        left, right = sorted((home[one], home[other]))
        if left == right:
            continue
        shown = [set().union(*(groups[n].documents for n in members[side])) for side in (left, right)]
        if shown[0] & shown[1] or anchored(left, right):
            counts["kept_apart"] += 1
        elif all((min(a, b), max(a, b)) in joins for a in members[left] for b in members[right]):
            join(left, right)
            counts["merged"] += 1
        else:
            counts["not_linked"] += 1
    return [sorted(found) for _, found in sorted(members.items())]


def _label(group: Group) -> str:
    """Return the label that is used most, the longest and first of those used as often."""
    return min(group.labels, key=lambda label: (-group.labels[label], -len(label), label))


def _unique(anchors: Collection[str]) -> dict[Form, str]:
    by_form: dict[Form, list[str]] = defaultdict(list)
    for anchor in sorted(anchors):
        by_form[names.form(node_name(anchor))].append(anchor)
    # A country and its capital may share a name; then the country is meant, or nobody where two are.
    return {
        one: (entities or found)[0]
        for one, found in by_form.items()
        if len(entities := [a for a in found if a.startswith("entity:")]) == 1 or (not entities and len(found) == 1)
    }


def _named(
    edges: Sequence[Edge],
    groups: Sequence[Group],
    homes: Mapping[Mention, str],
    clusters: Sequence[Sequence[int]],
    doubts: Collection[tuple[int, int]],
    anchors: Mapping[Form, str],
    config: GraphConfig,
    counts: Counter[str],
) -> Resolution:
    node_of: dict[str, str] = {}
    kinds: dict[str, str] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for cluster in clusters:
        found = [groups[number] for number in cluster]
        labels: Counter[str] = sum((group.labels for group in found), Counter())
        kind = found[0].kind
        merged = Group("", kind, (), labels)
        fixed = sorted({anchors[g.form] for g in found if g.form in anchors}) if kind == "name" else []
        prefix = "value" if kind in ("date", "number", "value") else "entity"
        node = fixed[0] if len(fixed) == 1 else f"{prefix}:{_label(merged)}"
        if kind in ("noun", "ambiguous"):
            node = f"{node} ({min(found[0].documents)})"
        counts["anchored"] += len(fixed) == 1
        kinds[node] = kind
        aliases[node] = tuple(sorted({*aliases.get(node, ()), *labels}))
        node_of |= dict.fromkeys((group.key for group in found), node)
    near: dict[str, set[str]] = defaultdict(set)
    for one, other in doubts:
        left, right = node_of[groups[one].key], node_of[groups[other].key]
        if left != right:
            near[left].add(right)
            near[right].add(left)
    by_relation = _relations(edges, {mention: node_of[key] for mention, key in homes.items()}, config)
    counts["names"] = sum(group.kind == "name" for group in groups)
    counts["nodes"] = len(kinds)
    counts["doubts"] = sum(map(len, near.values())) // 2
    counts["relations"] = len({edge.relation for edge in edges})
    counts["relation_clusters"] = len(by_relation[1])
    keys = ("names", "stated", "merged", "kept_apart", "not_linked", "anchored", "common_words", "doubts", "nodes")
    return Resolution(
        {mention: node_of[key] for mention, key in homes.items()},
        kinds,
        aliases,
        {node: frozenset(others) for node, others in sorted(near.items())},
        *by_relation,
        {key: counts[key] for key in (*keys, "relations", "relation_clusters")},
    )


def _relations(
    edges: Sequence[Edge], nodes: Mapping[Mention, str], config: GraphConfig
) -> tuple[dict[str, str], dict[str, tuple[str, ...]], dict[str, frozenset[str]], dict[str, str]]:
    """Return wording → cluster, cluster → wordings, cluster → doubtful clusters, passive → active cluster."""
    ends: dict[Form, set[tuple[str, str]]] = defaultdict(set)
    for edge in edges:
        pair = (nodes[node_name(edge.source), edge.document], nodes[node_name(edge.target), edge.document])
        ends[relations.form(edge.relation)].add(pair)
    frozen = {one: frozenset(pairs) for one, pairs in ends.items()}
    home, near = relations.cluster(frozen, config.relation_similarity, config.doubt_similarity)
    named = {one: " ".join(first) for one, first in home.items()}
    wording = {edge.relation: named[relations.form(edge.relation)] for edge in edges}
    wordings: dict[str, set[str]] = defaultdict(set)
    for text, cluster in wording.items():
        wordings[cluster].add(text)
    doubtful: dict[str, set[str]] = defaultdict(set)
    inverse: dict[str, str] = {}
    for one, others in near.items():
        doubtful[named[one]] |= {named[other] for other in others} - {named[one]}
        active = relations.inverse(one)
        if active in named:
            inverse[named[one]] = named[active]
    return (
        dict(sorted(wording.items())),
        {cluster: tuple(sorted(texts)) for cluster, texts in sorted(wordings.items())},
        {cluster: frozenset(others) for cluster, others in sorted(doubtful.items())},
        dict(sorted(inverse.items())),
    )
