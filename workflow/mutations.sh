#!/bin/sh
# Changes metrics, losses, geometry and splits one place at a time, and prints the changes that no test notices.
# workflow/survivors.md says which of them are no mistakes, and why; a function that is not in it fails.
set -eu
python=$PWD/.venv/bin/python
sh workflow/tools.sh quality
rm -rf runs/quality/copy && mkdir -p runs/quality/copy
git ls-files -z | xargs -0 cp --parents --target-directory=runs/quality/copy
PYTHONPATH=$PWD/runs/quality/tools
export PYTHONPATH
cd runs/quality/copy
"$python" -m mutmut run --max-children "${CORES:-1}" > ../mutmut.log 2>&1 || { tail -n 20 ../mutmut.log; exit 1; }
tr '\r' '\n' < ../mutmut.log | tail -n 1                   # killed, without a test, out of time, suspicious, survived
unexplained=
for name in $("$python" -m mutmut results | grep survived | sed 's/^ *//; s/:.*//'); do
    "$python" -m mutmut show "$name" | grep '^[-+#]' | grep -v '^---\|^+++'
    function=$(echo "$name" | sed 's/__mutmut_[0-9]*$//; s/.*ǁ\(.*\)ǁ\(.*\)/\1.\2/; s/.*\.x_//')          # its class.method, or its name
    grep -q "^|[^|]*\`$function\`" workflow/survivors.md || unexplained="$unexplained $name"
done
[ -z "$unexplained" ] || { echo "not explained in workflow/survivors.md:$unexplained"; exit 1; }
echo "why these may survive: workflow/survivors.md"
