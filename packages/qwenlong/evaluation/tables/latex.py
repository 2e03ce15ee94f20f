"""Tables as LaTeX with booktabs: single tables to be included, or a document that compiles by itself."""

from __future__ import annotations

from qwenlong.evaluation.tables import text
from qwenlong.evaluation.tables.build import Table
from qwenlong.evaluation.tables.faults import LEGEND

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{textcomp}
\setlength{\parindent}{0pt}
\begin{document}
"""

_ESCAPES = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    text.MINUS: "$-$",
    text.PLUS_MINUS: r"$\pm$",
    text.NONE: "--",
    text.DAGGER: r"$^\dagger$",
}
#: In commands: two hyphens are no dash, quotes are straight, and lines may break inside a path.
_TYPED = {"-": "-{}", "'": r"\textquotesingle{}", "/": r"/\allowbreak{}"}


def escape(value: str) -> str:
    """Return text that LaTeX prints as it is; what pdfLaTeX has no letter for becomes a question mark."""
    return "".join(_ESCAPES.get(c, c if " " <= c <= "~" else "?") for c in " ".join(value.split()))


def typed(value: str) -> str:
    """Return a command in typewriter type."""
    return "".join(f"\\texttt{{{''.join(_TYPED.get(c, escape(c)) for c in word)}}} " for word in value.split()).rstrip()


def document(tables: list[Table]) -> str:
    """Return a whole document: `pdflatex FILE` makes it a page a table."""
    body = "\n\\clearpage\n".join(f"{render(table)}\n{remarks(table)}" for table in tables)
    return f"{PREAMBLE}{escape(LEGEND)}\n\\clearpage\n{body}\n\\end{{document}}\n"


def render(table: Table) -> str:
    """Return one table environment; it needs booktabs and graphicx, and shrinks to the line where it is wider."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        f"\\caption{{{escape(_caption(table))}}}",
        f"\\label{{tab:ours-{table.name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        f"& {' & '.join(escape(name) for name in table.column_titles)} \\\\",
        r"\midrule",
    ]
    was_ours = False
    for number, row in enumerate(table.rows):
        if number and (row.ours or was_ours):
            lines.append(r"\addlinespace")
        was_ours = row.ours
        for label, cells, kind in text.lines(row):
            shown = escape(label)
            shown = f"\\textbf{{{shown}}}" if kind == "ours" else f"\\quad {shown}" if row.ours else shown
            lines.append(f"{shown} & {' & '.join(_cell(cell) for cell in cells)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _cell(value: str) -> str:
    """Return a cell, its interval and n smaller."""
    first, _, rest = value.partition(" ")
    return escape(first) + (f" {{\\scriptsize {escape(rest)}}}" if rest else "")


def _caption(table: Table) -> str:
    return f"{table.title} (the paper's Table {table.number})" if table.number != table.name else table.title


def remarks(table: Table) -> str:
    """Return notes, and the commands of what was not run, as running text."""
    blocks = []
    if table.notes:
        items = "\n".join(f"\\item {escape(note)}" for note in table.notes)
        blocks.append(f"{{\\footnotesize\\begin{{itemize}}\n{items}\n\\end{{itemize}}\\par}}")
    if table.missing:
        commands = "\n".join(f"\\item {escape(label)}: {typed(command)}" for label, command in table.missing)
        blocks.append(
            "{\\scriptsize\\raggedright Blank cells of ours were not run. They are made by:\n"
            f"\\begin{{itemize}}\n{commands}\n\\end{{itemize}}\\par}}"
        )
    return "\n".join(blocks)
