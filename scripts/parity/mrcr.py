"""Run MRCR's grading function on the parity cases: `_sequence_ratio` of groq/openbench, the data card's `grade`.

    python scripts/parity/mrcr.py --checkout DIR --cases tests/parity/mrcr/cases.jsonl --out values.json
    python scripts/parity/mrcr.py --checkout DIR --cases tests/parity/mrcr/cases.jsonl --check

DIR is a checkout of the repository at the commit of official.json. The function is taken out of its module, which
imports an evaluation framework that grading does not use. Needs Python alone.
"""

from __future__ import annotations

import ast
from difflib import SequenceMatcher
from pathlib import Path

from official_values import main

PATH = "src/openbench/scorers/mrcr.py"


def scorer(checkout: Path):
    """Return a function from record and response to the official value."""
    tree = ast.parse((checkout / PATH).read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "_sequence_ratio"]
    names: dict = {"SequenceMatcher": SequenceMatcher}
    exec(compile(ast.Module(functions, []), PATH, "exec"), names)
    grade = names["_sequence_ratio"]
    return lambda record, response: grade(response, record["answer"], record["random_string_to_prepend"])


if __name__ == "__main__":
    main(__doc__, scorer)
