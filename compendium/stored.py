"""The results of a profile's runs in a folder of small files: its tables come back from there without runs, data or a GPU.

``scores.csv`` and ``scores_by_side.csv`` hold one row a case and one a joint, ``curves.csv`` one an epoch of training,
``runs.json`` the settings, the split, and of each run what trained it where.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from compendium.scores import SCORES_FILE, SIDES_FILE, read_scores, scored_on
from compendium.study import Collected, networks_of, notes_of
from compendium.tables import BEYOND, trained_as
from magunet.base.errors import InputError
from magunet.base.profiles import Settings, from_mapping
from magunet.base.provenance import read_json, whole_file, write_json
from magunet.predict import RECORD_FILE
from magunet.train import LOG_FILE

CURVES_FILE, RUNS_FILE = "curves.csv", "runs.json"
NOTHING_SCORED = "no run of profile {0} has been scored yet: PROFILE={0} make reproduce"
SHARED = ("data_hash", "train", "val")
"""What the records of one profile's runs have in common, beside the settings."""


def store(runs: Sequence[Path], settings: Settings, folder: Path) -> list[Path]:
    """Write what there is to say of scored runs of one profile and cohort into a folder, and return the files.

    Raises InputError when there is no run, or when they differ in data or split.
    """
    if not runs:
        raise InputError(NOTHING_SCORED.format(settings.profile))
    records = [read_json(run / RECORD_FILE) for run in runs]
    shared = {name: records[0][name] for name in SHARED}
    for run, record in zip(runs, records):
        if any(record[name] != shared[name] for name in SHARED):
            raise InputError(f"{run}: was trained on other data than {runs[0]}; store only runs of one cohort and split")
    said = [{name: value for name, value in record.items() if name not in ("settings", *SHARED)} | {"scored_on": scored_on(run)}
            for run, record in zip(runs, records)]
    parts = {SCORES_FILE: map(read_scores, runs), SIDES_FILE: (read_scores(run, SIDES_FILE) for run in runs),
             CURVES_FILE: map(_curve, runs, records)}
    tables = {file: pd.concat(each, ignore_index=True) for file, each in parts.items()}
    for file, table in tables.items():
        with whole_file(folder / file) as part:
            table.to_csv(part, index=False)
    write_json(folder / RUNS_FILE, {"settings": settings.as_dict(), **shared, "runs": said})
    return [folder / file for file in (*tables, RUNS_FILE)]


def _curve(run: Path, record: dict) -> pd.DataFrame:
    """Loss, validation Dice, learning rate and seconds of each epoch."""
    try:
        log = pd.read_json(run / LOG_FILE, lines=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{run / LOG_FILE}: missing or damaged; remove the folder and train the run again") from error
    log.insert(0, "network", record["network"])
    log.insert(1, "seed", record["seed"])
    return log


@dataclass(frozen=True)
class Stored:
    """What `store` wrote: settings, the runs' records, and scores by case and by joint."""

    folder: Path
    settings: Settings
    runs: list[dict]
    scores: pd.DataFrame
    sides: pd.DataFrame

    def collected(self, table: int) -> Collected:
        """What `compendium.study.collect` finds in the runs themselves. Raises InputError when there is no such table."""
        names = networks_of(table)
        trained = {trained_as(name) for name in names}
        there = set(zip(self.scores["network"], self.scores["seed"]))
        missing = [f"{name}, seed {seed}: not in {self.folder}" for name in names if name not in BEYOND.get(table, ())
                   for seed in self.settings.seeds if (trained_as(name), seed) not in there]
        devices = {run["scored_on"] for run in self.runs if run["network"] in trained}
        mine = (frame[frame["network"].isin(trained)].reset_index(drop=True) for frame in (self.scores, self.sides))
        return Collected(*mine, missing, notes_of(self.settings, devices))


def read_stored(folder: Path) -> Stored:
    """Read what `store` wrote. Raises InputError when it is missing or damaged."""
    try:
        told = read_json(folder / RUNS_FILE)
        if not {"network", "scored_on"} <= set.intersection(*(set(run) for run in told["runs"])):
            raise ValueError(f"the runs in {RUNS_FILE} are not described")
        return Stored(folder, from_mapping(told["settings"], str(folder / RUNS_FILE)), told["runs"], read_scores(folder),
                      read_scores(folder, SIDES_FILE))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: holds no results that can be read ({reason}); give a folder that 'magunet store' wrote, "
                         "or store the profile's results again") from error
