"""What a profile has produced so far: scores, figures, masks and notebooks."""

from pathlib import Path

import pandas as pd

from compendium.formats import Report
from compendium.results import Results, finished_runs
from compendium.sample import sample_paths
from compendium.scores import summary
from magunet.base import project
from magunet.metrics import overlap
from magunet.volume import read_volume

SCORES = "Scores on the validation cases, percent, mean ± SD over cases and seeds, on each scan's own grid"
"""Title of the table of scores."""


def overview(results: Results) -> Report:
    """Mean scores of a profile's networks and, unless the results are stored ones, the files it has made."""
    profile, means, tables = results.settings.profile, summary(results.scores).rename_axis(None), {}
    notes = [] if len(means) else [f"no scored run yet: PROFILE={profile} make reproduce"]
    if len(means):
        tables[SCORES] = means
    if results.folder is None and (files := _files(results)):
        paths = [path.relative_to(project.root()) for path in files]
        tables["Files"] = pd.DataFrame({"what it is": files.values()}, paths)
    return Report(f"Profile {profile}", tables, means.rename_axis("network").reset_index(), notes)


def _files(results: Results) -> dict[Path, str]:
    """Path -> what lies there."""
    profile = results.settings.profile
    outputs, mask, derived = project.runs() / profile, "ct_sij.nii.gz", sample_paths().mask
    files = dict.fromkeys(finished_runs(results.settings, scored=True).values(), "scored run")
    files |= dict.fromkeys(sorted(project.figures(profile).glob("*.png")), "figure")
    for folder, network in {"sample": "this profile's MAG-UNet", "first_mask": "data/weights"}.items():
        files |= dict.fromkeys(sorted((outputs / folder).glob("*")), f"real CT, by {network}")
        if (path := outputs / folder / mask) in files and derived.exists():
            dice = overlap(read_volume(path).array, read_volume(derived).array).dice
            files[path] += f"; Dice {dice:.2f} with the mask of bone labels that are predicted, too"
    return files | dict.fromkeys(sorted(outputs.glob("notebooks/*.ipynb")), "executed notebook")
