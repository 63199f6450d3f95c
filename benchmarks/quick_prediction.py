"""What `magunet predict --quick` gains and costs, on the validation cases of a finished run.

    python benchmarks/quick_prediction.py RUN

For each case: Dice of the whole pass and of the quick one with the truth, of the two with each other, and the quick one's
processor time as a fraction of the whole pass's, the look at low resolution included.
"""

import argparse
import time
from pathlib import Path

import pandas as pd

from magunet.base.progress import track
from magunet.cohort import read_checked
from magunet.metrics import overlap
from magunet.predict import load_model
from sijphantom.cohort import cohort_of


def main() -> None:
    """Print one line a case, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    model = load_model(parser.parse_args().run)
    cohort, rows = cohort_of(model.settings, track), {}
    for name in track(cohort.val, "cases"):
        case = cohort.cases[name]
        scan, truth = read_checked(case.image, case.label)
        masks, seconds = [], []
        for quick in (False, True):
            began = time.process_time()
            masks.append(model.segment(scan, quick).array != 0)
            seconds.append(time.process_time() - began)
        rows[name] = {"whole": overlap(masks[0], truth.array != 0).dice, "quick": overlap(masks[1], truth.array != 0).dice,
                      "agreement": overlap(masks[1], masks[0]).dice, "time": seconds[1] / seconds[0]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.loc["mean"] = table.mean()
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
