#!/usr/bin/env bash
# Makes .venv and installs the locked packages; a no-op when they are there. Called by `make setup`.
#
#   PYTHON           interpreter of Python 3.11 (default: python3.11, else python3 if it is 3.11)
#   QWENLONG_TORCH   which torch: auto (default), cpu or cuda
#                      auto  cpu where there is no nvidia-smi, else cuda; cpu falls back to cuda's build with a message
#                      cpu   the CPU build, or an error
#                      cuda  the build that pip finds under the plain version
#
# Packages come from where pip is configured to look, nowhere else. A set-up that was interrupted goes on when run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH=2.13.0
VENV=.venv
STAMP=$VENV/.qwenlong-setup
CHOICE=${QWENLONG_TORCH:-auto}

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

case $CHOICE in
auto | cpu | cuda) ;;
*) fail "QWENLONG_TORCH = '$CHOICE' is unknown; use auto, cpu or cuda" ;;
esac

digest=$({
    cat requirements/cpu.txt pyproject.toml scripts/setup.sh
    printf '%s\n' "$CHOICE" "$PWD"
} | sha256sum | cut -d' ' -f1)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$digest" ] && [ -x "$VENV/bin/python" ]; then
    exit 0
fi

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3; do
        if is_311 "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
        # A named interpreter is the user's decision: nothing else is tried in its place.
        [ -n "${PYTHON:-}" ] && fail "PYTHON = '$PYTHON' is not Python 3.11; name one that is"
    done
    fail "no Python 3.11 found (tried python3.11 and python3); install it, or name it: make setup PYTHON=/path/to/python3.11"
}

# Two set-ups at once would write into one environment.
exec 9>.setup.lock
flock -n 9 || fail "another set-up is under way in $PWD; wait for it"
trap 'rm -f .setup.lock' EXIT

if ! is_311 "$VENV/bin/python" || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making $VENV with $("$python" --version)"
    rm -rf "$VENV"
    if ! "$python" -m venv "$VENV"; then
        rm -rf "$VENV"
        fail "$python cannot make environments; on Debian or Ubuntu: apt install python3.11-venv (or python3-venv)"
    fi
fi
rm -f "$STAMP"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

installed() { "$VENV/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true; }

want=$CHOICE
if [ "$want" = auto ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then want=cuda; else want=cpu; fi
fi
have=$(installed)
if [ "$want" = cpu ] && [ "$have" != "$TORCH+cpu" ]; then
    echo "Installing torch $TORCH (CPU build)"
    if ! pip install --quiet "torch==$TORCH+cpu"; then
        [ "$CHOICE" = cpu ] && fail \
            "no CPU build torch==$TORCH+cpu where pip looks; point PIP_EXTRA_INDEX_URL at an index of CPU builds, or use QWENLONG_TORCH=cuda"
        cat >&2 <<MESSAGE
No CPU build torch==$TORCH+cpu where pip looks. Installing torch==$TORCH instead, which works on CPU as well but may
bring CUDA libraries: some 3 GB to download, 7 GB on disk. To avoid that, stop here (Ctrl-C), point PIP_EXTRA_INDEX_URL
at an index of CPU builds, and run the same command again.
MESSAGE
        want=cuda
    fi
fi
if [ "$want" = cuda ] && [ "${have%%+*}" != "$TORCH" ]; then
    echo "Installing torch $TORCH"
    pip install --quiet "torch==$TORCH"
fi

echo "Installing the locked packages (requirements/cpu.txt)"
# The pin is repeated: without it a resolver may exchange the build that was just installed.
pip install --quiet -r requirements/cpu.txt "torch==$(installed)"
pip install --quiet --no-deps --no-build-isolation --editable .
printf '%s\n' "$digest" >"$STAMP"
echo "$VENV is ready ($("$VENV/bin/python" -c 'import sys; print(sys.version.split()[0])'), torch $(installed))"
