#!/bin/sh
# Puts what a make command needs beside the environment, by its lock, each file with its hash:
#     sh workflow/tools.sh fuzz (damaged files) or docs (the site of the pages)
set -eu
lock=requirements-$1.lock tools=runs/$1/tools
cmp -s "$lock" "$tools/lock" && exit
rm -rf "$tools"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target "$tools" \
    --requirement "$lock" ||
    { echo "$1: tools could not be installed; check the network connection and run make again" >&2; exit 2; }
cp "$lock" "$tools/lock"
