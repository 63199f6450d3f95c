#!/bin/sh
# Makes the site of the pages, and of the notebooks that were run in one folder, in another; a broken link or a
# notebook that was not run to its end fails.      sh workflow/site.sh runs/smoke/notebooks runs/docs/site
set -eu
sh workflow/tools.sh docs
rm -rf "$2.part"
PYTHONPATH=runs/docs/tools .venv/bin/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir docs \
    --define "executed=$1" --doctree-dir "$2.part/doctrees" . "$2.part/site" || { echo "no site: what is wrong stands above" >&2; exit 1; }
rm -rf "$2" && mv "$2.part/site" "$2" && rm -r "$2.part"
cp "$2/README.html" "$2/index.html"
