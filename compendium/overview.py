"""What a profile has produced so far: scores, figures, masks and notebooks."""

from pathlib import Path

import pandas as pd

from compendium.formats import Report
from compendium.results import Results, finished_runs
from compendium.sample import sample_paths
from compendium.scores import summary
from magunet.base import project
from magunet.base.errors import InputError
from magunet.base.provenance import read_json
from magunet.metrics import overlap
from magunet.volume import read_volume

SCORES = "Scores on the validation cases, percent, mean ± SD over cases and seeds, on each scan's own grid"
"""Title of the table of scores."""


def overview(results: Results) -> Report:
    """Mean scores of a profile's networks; and what files it has made, unless the results are stored ones."""
    chosen, scores = results.settings, results.scores
    title = f"Profile {chosen.profile}: widths / {chosen.width_divisor}, {chosen.epochs} epochs"
    if scores.empty:
        tables, notes = {}, [f"no scored run yet: PROFILE={chosen.profile} make reproduce"]
    else:
        tables, notes = {SCORES: summary(scores).rename_axis(None)}, []
    if results.folder is None and (files := _files(results)):
        paths, texts = zip(*files)
        tables["Files"] = pd.DataFrame({"what it is": texts}, index=paths)
    return Report(title, tables, notes, summary(scores).reset_index())


def _files(results: Results) -> list[tuple[Path, str]]:
    """Path from the project's folder, and what lies there."""
    profile = results.settings.profile
    outputs = project.runs() / profile
    files = [(run, "scored run") for run in finished_runs(results.settings, scored=True).values()]
    files += [(path, "figure") for path in sorted(project.figures(profile).glob("*.png"))]
    for folder, network in (("sample", "this profile's MAG-UNet"), ("first_mask", "weights in data/weights")):
        paths = sorted((outputs / folder).glob("*"))
        files += [(path, f"real CT, by {network}{_dice(path)}") for path in paths]
    notebooks = sorted(outputs.glob("notebooks/*.ipynb"))
    files += [(path, f"executed notebook, {_seconds(path)}") for path in notebooks]
    return [(path.relative_to(project.root()), text) for path, text in files]


def _dice(path: Path) -> str:
    """Dice of a mask on the real CT with the one derived from its bone labels, in words; else nothing."""
    derived = sample_paths().mask
    if not (path.name == "ct_sij.nii.gz" and derived.exists()):
        return ""
    dice = overlap(read_volume(path).array, read_volume(derived).array).dice
    return f"; Dice {dice:.2f} with the mask of its predicted bone labels, which claims no accuracy"


def _seconds(notebook: Path) -> str:
    try:
        duration = read_json(notebook)["metadata"].get("papermill", {}).get("duration")
        return "not finished" if duration is None else f"{duration:.0f} s"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{notebook}: is no executed notebook ({error!r}); remove it") from error
