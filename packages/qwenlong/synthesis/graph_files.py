"""The knowledge graph as a file: GraphML or node-link JSON, both read by networkx and both in a fixed order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import networkx as nx

from qwenlong.core.errors import UsageError
from qwenlong.core.files import atomic_file, write_json
from qwenlong.synthesis.graph import KnowledgeGraph
from qwenlong.synthesis.resolve import Resolution

SUFFIXES = (".graphml", ".json")
#: What stands between the names of a node in GraphML, which has no lists.
SEPARATOR = " | "


def check_suffix(path: Path) -> None:
    """Raise UsageError for a file that neither form is written to."""
    if path.suffix.casefold() not in SUFFIXES:
        raise UsageError(f"--out {path} ends in neither .graphml nor .json; the suffix says which form to write")


def write(graph: KnowledgeGraph, path: Path, resolution: Resolution | None = None) -> None:
    """Write a graph in the form that the suffix names, atomically; the same graph gives the same bytes.

    Nodes have kind, label (their canonical name) and aliases, edges relation, qualifier, document, start and end; with
    a resolution also what a node is taken for ("name", "date", …; "rule" for those of structured sources).
    """
    check_suffix(path)
    plain = _plain(graph, resolution)
    if path.suffix.casefold() == ".json":
        write_json(path, nx.node_link_data(plain, edges="edges"))
        return
    for _, values in plain.nodes(data=True):
        values["aliases"] = SEPARATOR.join(values["aliases"])
    xml: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    for node, values in plain.nodes(data=True):
        xml.add_node(_xml(node), **{name: _xml(value) for name, value in values.items()})
    for source, target, key, values in plain.edges(keys=True, data=True):
        xml.add_edge(_xml(source), _xml(target), key=key, **{name: _xml(value) for name, value in values.items()})
    with atomic_file(path) as partial:
        nx.write_graphml(xml, str(partial))


def _plain(graph: KnowledgeGraph, resolution: Resolution | None) -> nx.MultiDiGraph[str]:
    plain: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    for node in sorted(graph.graph.nodes):
        kind, _, label = node.partition(":")
        values: dict[str, Any] = {"kind": kind, "label": label, "aliases": [label]}
        if resolution is not None:
            values["aliases"] = list(resolution.aliases.get(node, ())) or [label]
            values["taken_for"] = resolution.kinds.get(node, "rule")
        plain.add_node(node, **values)
    for number, edge in enumerate(graph.edges):
        plain.add_edge(
            edge.source,
            edge.target,
            key=number,
            relation=edge.relation,
            qualifier=edge.qualifier,
            document=edge.document,
            start=edge.start,
            end=edge.end,
        )
    return plain


def _xml(value: Any) -> Any:
    """Drop characters that XML cannot hold."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", value)
