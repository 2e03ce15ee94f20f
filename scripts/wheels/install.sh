#!/usr/bin/env bash
# Installs a wheelhouse on a machine without a network, from its folder or from parts. Needs bash and Python 3.12 with pip.
#
#   bash install.sh --venv DIR        a virtual environment (sees the machine's packages if the wheelhouse was made
#                                     without some of them)
#   bash install.sh --target DIR      a plain folder for PYTHONPATH
#   bash install.sh --check           checks files and platform, installs nothing
#
#   --from PATH      parts, or folders of parts or of wheels (several; default: the folder of this script)
#   --joined DIR     where parts are put together (default: joined, beside this script)
#   --jobs N         pips side by side (default: one a core, at most 16)
#   --allow-missing  go on where the machine lacks a package that the wheelhouse was made without
#
#   PYTHON           the interpreter (default: python3.12, else python3 if it is that)
#
# An installation that was interrupted goes on when run again. From parts alone: tar xf ANY-PART.tar --wildcards 'install*'
set -euo pipefail
WANTED=3.12
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

tried=
for candidate in ${PYTHON:+"$PYTHON"} "python$WANTED" python3 python; do
    version=$(version_of "$candidate") || version=absent
    if [ "$version" = "$WANTED" ]; then
        exec "$candidate" "$here/install.py" "$@"
    fi
    tried="$tried $candidate ($version)"
    # A named interpreter is the user's decision: nothing else is tried in its place.
    [ -n "${PYTHON:-}" ] && break
done
printf 'error: these wheels are for Python %s, which is not here; tried:%s\n' "$WANTED" "$tried" >&2
printf 'Install it or name it: PYTHON=/path/to/python%s bash %s\n' "$WANTED" "$0" >&2
exit 1
