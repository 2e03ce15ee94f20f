#!/usr/bin/env bash
# Makes the environment of BFCL's official harness (.venv-bfcl), which wants other versions than the rest. Name the
# folder as evaluation.bfcl_environment, and `qwenlong evaluate run bfcl_v4_memory_…` holds its conversations there.
#
#   scripts/bfcl_env.sh install          for memory_kv and memory_rec_sum (0.3 GB)
#   scripts/bfcl_env.sh install vector   for memory_vector too: torch, faiss, sentence-transformers (1.5 GB more)
#
#   PYTHON             interpreter of Python 3.11 (default: that of .venv)
#   QWENLONG_BFCL      another folder for the environment
#   QWENLONG_MINILM    folder with the model all-MiniLM-L6-v2, for machines that cannot reach the hub
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
TORCH=2.13.0
VENV=${QWENLONG_BFCL:-$here/.venv-bfcl}
STAMP=$VENV/.ready

fail() {
    printf 'error: %s\n' "$@" >&2
    exit "${code:-1}"
}

[ "${1:-}" = install ] || code=2 fail "usage: scripts/bfcl_env.sh install [vector]"
case ${2:-} in
'') files=(bfcl) ;;
vector) files=(bfcl bfcl-vector) ;;
*) code=2 fail "no part ${2}; there is: vector" ;;
esac
locks=("${files[@]/#/$here/requirements/}")
locks=("${locks[@]/%/.txt}")
digest=$(cat "${locks[@]}" | sha256sum | cut -d' ' -f1)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$digest" ]; then
    echo "$VENV is ready"
    exit
fi
mkdir -p "$(dirname "$VENV")"
exec 9>"$VENV.lock"
flock -n 9 || fail "another installation into $VENV is under way; wait for it"
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$(command -v "$python")" ] || fail "no Python at $python; run make setup, or name one: PYTHON=…"
rm -rf "$VENV"
"$python" -m venv "$VENV"
pip=("$VENV/bin/python" -m pip --disable-pip-version-check install --quiet)
# The package asks for the clients of every vendor and for Qwen's agents; the memory categories with our own handler
# need none of them.
"${pip[@]}" --no-deps --require-hashes -r "$here/requirements/bfcl.txt"
if [ "${2:-}" = vector ]; then
    "${pip[@]}" "torch==$TORCH+cpu" || "${pip[@]}" "torch==$TORCH"
    "${pip[@]}" --no-deps --require-hashes -r "$here/requirements/bfcl-vector.txt"
    if [ -n "${QWENLONG_MINILM:-}" ]; then
        [ -f "$QWENLONG_MINILM/modules.json" ] || fail "QWENLONG_MINILM=$QWENLONG_MINILM holds no modules.json"
        # The harness runs in this folder and loads the model by this name.
        ln -s "$(realpath "$QWENLONG_MINILM")" "$VENV/all-MiniLM-L6-v2"
    fi
fi
printf '%s\n' "$digest" >"$STAMP"
echo "$VENV is ready"
