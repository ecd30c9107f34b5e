#!/bin/sh
# Makes .venv in this checkout and installs srtrain into it. A second run finds nothing to do.
#   sh scripts/setup.sh                       from any folder
#   PYTHON=/opt/python3.12 sh scripts/setup.sh   with a chosen interpreter
set -eu

fail() {
    echo "srtrain: setup: $*" >&2
    exit 1
}

suits() { # is $1 a Python that starts and is new enough? (pyenv's shims may exist and still fail)
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

makes_environments() { # Debian packs venv apart from Python
    "$1" -c 'import ensurepip, ssl, venv' >/dev/null 2>&1
}

find_python() {
    without_venv=
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || fail "PYTHON=$PYTHON does not start, or is older than 3.11"
        makes_environments "$PYTHON" || fail "PYTHON=$PYTHON lacks the venv module"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3 python3.14 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 \
        "$HOME"/.local/share/uv/python/*/bin/python3; do
        suits "$candidate" || continue
        if makes_environments "$candidate"; then
            echo "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    [ -z "$without_venv" ] ||
        fail "$without_venv lacks the venv module · apt-get install python3-venv (or its like)"
    fail "no Python 3.11 or newer found · install one (apt-get install python3 python3-venv," \
        "pyenv install 3.12, or uv python install 3.12), or name it: PYTHON=/path/to/python3"
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
HOME=${HOME:-/nonexistent}
stamp=.venv/srtrain.stamp
wanted=$(cat pyproject.toml constraints.txt | cksum)
usable=false
if [ -x .venv/bin/pip ] && suits .venv/bin/python; then # pip comes last: else it is a torso
    # Scripts of an environment name its path: in a checkout that moved they point to the old one.
    [ -f "$stamp" ] && [ "$(sed -n 2p "$stamp")" != "$root" ] || usable=true
fi
if $usable && [ "$(sed -n 1p "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

if ! $usable; then
    # To make it anew would empty what the link points to: another checkout's, or a shared one.
    [ ! -L .venv ] || [ ! -e .venv/pyvenv.cfg ] ||
        fail "$root/.venv is a link to an environment that was not made here · rm .venv (the link" \
            "alone), and this makes one"
    python=$(find_python)
    needed=${SRTRAIN_DISK_GB:-8} # measured: 6.4 GB installed, the rest for pip's unpacking
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$needed" ] ||
        fail "$free GB free in $root, about $needed GB needed · free some space, or clone elsewhere"
    echo "srtrain: setup: $python makes $root/.venv (about 7 GB, a few minutes)"
    "$python" -m venv --clear .venv || fail "$python could not make $root/.venv · see above"
fi

rm -f "$stamp"
.venv/bin/python -m pip install --use-pep517 -c constraints.txt -e '.[dev]' ||
    fail "pip could not install everything · see above; is the package index reachable?" \
        "Then run the same command again"
printf '%s\n' "$wanted" "$root" >"$stamp"
echo "srtrain: setup: done"
