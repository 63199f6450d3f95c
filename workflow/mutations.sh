#!/bin/sh
# Changes metrics, losses, geometry and splits one place at a time, and prints the changes that no test notices.
# Names what may survive, and why, in workflow/survivors.txt; anything else that survives is an error.
set -eu
python=$PWD/.venv/bin/python
mutmut=mutmut==3.8.1                        # not in the lock: nothing else needs it, nor the dozen packages that it needs
[ -d runs/quality/mutmut ] || "$python" -m pip install --quiet --disable-pip-version-check --target runs/quality/mutmut "$mutmut"
rm -rf runs/quality/copy && mkdir -p runs/quality/copy
git ls-files -z | xargs -0 cp --parents --target-directory=runs/quality/copy
PYTHONPATH=$PWD/runs/quality/mutmut
export PYTHONPATH
cd runs/quality/copy
"$python" -m mutmut run --max-children "${CORES:-1}" 'magunet.report.metrics.*' 'magunet.report.surfaces.*' \
    'magunet.learn.losses.*' 'magunet.data.cohort.x_split_by_patient*' 'magunet.data.cohort.x__check_split*' \
    'magunet.data.volume.x_same_geometry*' 'magunet.data.volume.x_corners*' 'magunet.data.volume.x__nearest_axes*' \
    'magunet.data.volume.x_orientation*' 'magunet.data.volume.x_reorient*' 'magunet.data.volume.xǁVolume*' > ../mutmut.log 2>&1 ||
    { tail -n 20 ../mutmut.log; exit 1; }
