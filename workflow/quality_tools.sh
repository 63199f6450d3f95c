#!/bin/sh
# Puts what mutation testing and fuzzing need beside the environment, by requirements-quality.lock, each file with its hash.
set -eu
tools=runs/quality/tools
cmp -s requirements-quality.lock "$tools/lock" && exit
rm -rf "$tools"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target "$tools" \
    --requirement requirements-quality.lock ||
    { echo "quality: tools could not be installed; check the network connection and run make again" >&2; exit 2; }
cp requirements-quality.lock "$tools/lock"
