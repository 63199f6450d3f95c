#!/bin/sh
# Changes metrics, losses, geometry and splits one place at a time, and prints the changes that no test notices.
# workflow/survivors.md says which of them are no mistakes, and why.
set -eu
python=$PWD/.venv/bin/python
mutmut=mutmut==3.8.1                        # not in the lock: nothing else needs it, nor the dozen packages that it needs
[ -d runs/quality/mutmut ] || "$python" -m pip install --quiet --disable-pip-version-check --target runs/quality/mutmut "$mutmut"
rm -rf runs/quality/copy && mkdir -p runs/quality/copy
git ls-files -z | xargs -0 cp --parents --target-directory=runs/quality/copy
PYTHONPATH=$PWD/runs/quality/mutmut
export PYTHONPATH
cd runs/quality/copy
"$python" -m mutmut run --max-children "${CORES:-1}" > ../mutmut.log 2>&1 || { tail -n 20 ../mutmut.log; exit 1; }
tr '\r' '\n' < ../mutmut.log | tail -n 1                   # killed, without a test, out of time, suspicious, survived
for name in $("$python" -m mutmut results | grep survived | sed 's/^ *//; s/:.*//'); do
    "$python" -m mutmut show "$name" | grep '^[-+#]' | grep -v '^---\|^+++'
done
echo "why these may survive: workflow/survivors.md"
