#!/bin/sh
# Makes .venv from requirements.lock: what is listed there and nothing else, each file with its hash. On Debian and Ubuntu it also installs the package that venv needs.
set -eu
python=${PYTHON:-python3}

fail() { echo "install: $1" >&2; exit 2; }

command -v "$python" >/dev/null || fail "$python not found; install Python 3.11 or newer, or name one: PYTHON=python3.12 make"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; magunet needs 3.11 or newer: PYTHON=python3.12 make"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    command -v apt-get >/dev/null || fail "$python lacks the module venv; install it with your package manager"
    echo "install: $python lacks venv; installing the package python3-venv" >&2
    { $sudo apt-get -q update && $sudo apt-get -q install -y python3-venv; } >&2 ||
        fail "could not install python3-venv; do it by hand and run make again"
fi

echo "install: making .venv from requirements.lock (a few minutes, once)" >&2
rm -f .venv/installed
"$python" -m venv .venv
install_locked() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement "$1"
}
locked() { install_locked "$1" || fail "packages could not be installed; check the network connection and run make again"; }
command -v nvidia-smi >/dev/null || install_locked requirements-cpu.lock >/dev/null 2>&1 || :     # seldom on offer
locked requirements.lock
asks_for_gpu='import importlib.metadata as m, sys; sys.exit(not any(r.startswith(("cuda", "nvidia")) for r in m.requires("torch")))'
if .venv/bin/python -c "$asks_for_gpu"; then locked requirements-gpu.lock; fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch .venv/installed
