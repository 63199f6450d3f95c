"""What a profile has produced so far: scores, figures, masks and notebooks, as text for the terminal."""

from pathlib import Path

import pandas as pd

from compendium.sample import sample_paths
from compendium.scores import SCORES_FILE, read_scores, summary
from compendium.study import existing_cohort
from magunet.base import project
from magunet.base.errors import InputError
from magunet.base.profiles import Settings
from magunet.base.provenance import read_json
from magunet.metrics import overlap
from magunet.runs import data_hash, is_finished, run_folder
from magunet.studies import NETWORKS
from magunet.volume import read_volume


def overview(settings: Settings) -> str:
    """The profile's score table and the paths of what was made; says so where there is nothing yet.

    Only runs of today's data, settings and code count. Scores nothing and makes nothing.
    """
    outputs = project.runs() / settings.profile
    parts = [f"Profile {settings.profile}: widths / {settings.width_divisor}, {settings.epochs} epochs"]
    runs = scored_runs(settings)
    if runs:
        scores = pd.concat([read_scores(run) for run in runs])
        parts.append("Scores on the validation cases, percent, mean ± SD over cases and seeds, on each scan's own grid:\n"
                     + summary(scores).to_string())
    else:
        parts.append(f"no scored run yet: PROFILE={settings.profile} make reproduce")
    parts.append(_listing("Runs", runs))
    parts.append(_listing("Figures", sorted(project.figures(settings.profile).glob("*.png"))))
    for folder, network in (("sample", "this profile's MAG-UNet"), ("first_mask", "the weights in data/weights")):
        parts.append(_listing(f"Real CT, by {network}", sorted(outputs.glob(f"{folder}/*")))
                     + _real_score(outputs / folder / "ct_sij.nii.gz"))
    notebooks = sorted(outputs.glob("notebooks/*.ipynb"))
    parts.append("Notebooks (executed copies, seconds):\n"
                 + "\n".join(f"  {_shown(path)}  {_seconds(path)}" for path in notebooks))
    return "\n\n".join(parts)


def scored_runs(settings: Settings) -> list[Path]:
    """Finished and scored runs of the profile, in the order of ``magunet.studies``."""
    cohort = existing_cohort(settings)
    if cohort is None:
        return []
    data = data_hash(cohort, settings)
    folders = [run_folder(network, settings, seed, data) for network in NETWORKS for seed in settings.seeds]
    return [folder for folder in folders if is_finished(folder) and (folder / SCORES_FILE).exists()]


def _real_score(predicted: Path) -> str:
    """Dice of the mask on the real CT with the one derived from its bone labels, as a line."""
    derived = sample_paths().mask
    if not (predicted.exists() and derived.exists()):
        return ""
    dice = overlap(read_volume(predicted).array, read_volume(derived).array).dice
    return f"\n  Dice {dice:.2f} with the mask derived from predicted bone labels; a check of the path, no claim of accuracy"


def _listing(title: str, paths: list[Path]) -> str:
    return f"{title}:\n" + "\n".join(f"  {_shown(path)}" for path in paths)


def _shown(path: Path) -> Path:
    return path.relative_to(project.root())


def _seconds(notebook: Path) -> str:
    try:
        duration = read_json(notebook)["metadata"].get("papermill", {}).get("duration")
        return "not finished" if duration is None else f"{duration:.0f}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{notebook}: is no executed notebook ({error!r}); remove it and run it again") from error
