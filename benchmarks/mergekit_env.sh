#!/usr/bin/env bash
# Makes an environment of its own for mergekit at DIR, to measure it with benchmarks/merge.py. mergekit is under the
# LGPL: it is run as a command, nothing of it is imported or shipped.
#
#   benchmarks/mergekit_env.sh DIR
#
#   PYTHON    interpreter of Python 3.11 (default: that of .venv)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ $# -eq 1 ] || { echo "usage: benchmarks/mergekit_env.sh DIR" >&2; exit 2; }
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$(command -v "$python")" ] || { echo "error: no Python at $python; run make setup, or name one: PYTHON=…" >&2; exit 1; }
# mergekit 0.1.5 asks for transformers 5, torch 2 and pydantic 2.10 or later: these fit without --no-deps. The whole
# set of what decides its speed and memory is pinned.
pins=(mergekit==0.1.5 transformers==5.24.0 safetensors==0.8.0 pydantic==2.14.4 numpy==2.4.6)
stamp="torch 2.13.0 ${pins[*]}"
[ "$(cat "$1/.ready" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$1"
"$python" -m venv "$1"
pip=("$1/bin/python" -m pip --disable-pip-version-check install --quiet)
# The CPU build has a version of its own where it lies on an index of CPU builds, and the plain one elsewhere.
"${pip[@]}" "torch==2.13.0+cpu" || "${pip[@]}" "torch==2.13.0"
"${pip[@]}" "torch==2.13.0" "${pins[@]}"
"$1/bin/python" -m pip --disable-pip-version-check check
"$1/bin/mergekit-yaml" --help >/dev/null
printf '%s\n' "$stamp" >"$1/.ready"
