"""The finished runs behind one of the paper's tables: found, scored where need be, and told what is missing."""

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from compendium.scores import SIDES_FILE, read_scores, score_run, scored_on
from compendium.tables import BEYOND, REFERENCE, study_rows
from magunet.base import project
from magunet.base.profiles import Settings
from magunet.cohort import Cohort, load_cohort
from magunet.runs import data_hash, is_finished, run_folder
from sijphantom.cohort import phantom_folder


@dataclass(frozen=True)
class Collected:
    """Scores by case and by side of all finished runs, what is missing (a line each), and what to know of the runs."""

    scores: pd.DataFrame
    sides: pd.DataFrame
    missing: list[str]
    notes: list[str]


def existing_cohort(settings: Settings) -> Cohort | None:
    """The profile's cohort, None where the built-in one has not been made yet. Raises InputError as `load_cohort`."""
    if settings.cohort:
        return load_cohort(project.root() / settings.cohort)
    root = phantom_folder(settings)
    return load_cohort(root) if (root / "dataset.json").exists() else None


def collect(table: int, settings: Settings) -> Collected:
    """Scores of every row of a table, and of MAG-UNet, for the profile's seeds; trains nothing.

    Only runs of today's data, settings and code count. Runs without today's scores are scored, which takes its time.
    Raises InputError when there is no such table.
    """
    cohort = existing_cohort(settings)
    data = data_hash(cohort, settings) if cohort else ""
    scores, sides, missing, devices = [], [], [], set()
    for name in networks_of(table):
        for seed in settings.seeds:
            folder = run_folder(name, settings, seed, data)
            if not (cohort and is_finished(folder)):
                if name not in BEYOND.get(table, ()):
                    missing.append(f"{name}, seed {seed}: not trained; magunet train '{name}' --profile {settings.profile} "
                                   f"--seed {seed}")
                continue
            scores.append(score_run(folder, cohort))
            sides.append(read_scores(folder, SIDES_FILE))
            devices.add(scored_on(folder))
    return Collected(_joined(scores), _joined(sides), missing, notes_of(settings, devices))


def networks_of(table: int) -> list[str]:
    """The networks of a table's rows, those beyond the paper's, and MAG-UNet. Raises InputError when there is no such table."""
    return list(dict.fromkeys([*(row.network for row in study_rows(table, BEYOND.get(table, ()))), REFERENCE]))


def notes_of(settings: Settings, devices: Collection[str]) -> list[str]:
    """What to know of runs of these settings that predicted on these devices."""
    epochs, seeds = (f"{word}{'s'[:many]}" for word, many in (("epoch", settings.epochs > 1), ("seed", len(settings.seeds) > 1)))
    notes = [f"Profile {settings.profile}: widths / {settings.width_divisor}, input {settings.depth} x {settings.size} x "
             f"{settings.size}, {settings.epochs} {epochs}, {settings.samples_per_case} x each case an epoch, {seeds} "
             f"{', '.join(map(str, settings.seeds))}."]
    if devices:
        notes.append(f"Predicted on: {'; '.join(sorted(devices))}.")
    return notes


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["network"])
