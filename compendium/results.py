"""Results of a profile: from its finished runs, or from a folder of small files that hold them.

From stored files tables come back without runs, data or a GPU: ``scores.csv`` and ``scores_by_side.csv`` have
one row a case and one a joint, ``curves.csv`` one an epoch, ``runs.json`` the settings and records of runs.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from compendium.formats import Report, study_report
from compendium.grid import BEYOND, networks_of, trained_as
from compendium.scores import OVERLAPS, SCORES_FILE, SIDES_FILE, read_scores, score_run, scored_on
from compendium.tables import study_table
from magunet.base import project
from magunet.base.errors import InputError
from magunet.base.profiles import Settings, from_mapping
from magunet.base.provenance import read_json, whole_file, write_json
from magunet.cohort import Cohort, load_cohort
from magunet.predict import RECORD_FILE
from magunet.runs import data_hash, is_finished, run_folder
from magunet.studies import NETWORKS
from magunet.train import LOG_FILE
from sijphantom.cohort import phantom_folder

CURVES_FILE = "curves.csv"
"""Of stored results: one row an epoch."""
RUNS_FILE = "runs.json"
"""Of stored results: settings, split, and a record a run."""
SHARED = ("data_hash", "train", "val")
"""What the records of one profile's runs have in common, beside the settings."""


@dataclass(frozen=True)
class Results:
    """Scores of a profile's runs by case and joint, and a record of each; folder: where they are stored."""

    settings: Settings
    runs: list[dict]
    scores: pd.DataFrame
    sides: pd.DataFrame
    folder: Path | None = None

    def report(self, table: int) -> Report:
        """Table 1, 2, 3 or 4. Raises InputError when there is no such table."""
        return study_report(study_table(table, self.scores, self.sides), self.notes(table))

    def missing(self, table: int) -> list[str]:
        """A line for each network of a table, but those beyond the paper, and seed that has no scores."""
        trained = set(zip(self.scores["network"], self.scores["seed"]))
        lines = []
        for name in (name for name in networks_of(table) if name not in BEYOND.get(table, ())):
            for seed in (seed for seed in self.settings.seeds if (trained_as(name), seed) not in trained):
                train = f"not trained; magunet train '{name}' --profile {self.settings.profile} --seed {seed}"
                lines.append(f"{name}, seed {seed}: {f'not in {self.folder}' if self.folder else train}")
        return lines

    def notes(self, table: int) -> list[str]:
        """What to know of the runs behind a table: their settings, and the devices that predicted."""
        chosen, trained = self.settings, set(map(trained_as, networks_of(table)))
        devices = sorted({run["scored_on"] for run in self.runs if run["network"] in trained})
        size, seeds = f"{chosen.depth} x {chosen.size} x {chosen.size}", ", ".join(map(str, chosen.seeds))
        note = (f"Profile {chosen.profile}: widths / {chosen.width_divisor}, input {size}, {chosen.epochs} "
                f"epoch{'s'[:chosen.epochs > 1]}, {chosen.samples_per_case} x each case an epoch, "
                f"seed{'s'[:len(chosen.seeds) > 1]} {seeds}.")
        return [note, f"Predicted on: {'; '.join(devices)}."] if devices else [note]


def existing_cohort(settings: Settings) -> Cohort | None:
    """The profile's cohort; None where the built-in one has not been made. Raises as `load_cohort` does."""
    folder = project.root() / settings.cohort if settings.cohort else phantom_folder(settings)
    return load_cohort(folder) if settings.cohort or (folder / "dataset.json").exists() else None


def finished_runs(settings: Settings, networks: Collection[str] = NETWORKS,
                  scored: bool = False) -> dict[tuple[str, int], Path]:
    """(Network, seed) -> folder of the profile's finished run, where there is one; trains nothing.

    Only runs of today's data, settings and code count. scored: only those that have been scored.
    """
    if (cohort := existing_cohort(settings)) is None:
        return {}
    data = data_hash(cohort, settings)
    runs = {(name, seed): run_folder(name, settings, seed, data)
            for name in networks for seed in settings.seeds}
    return {run: folder for run, folder in runs.items()
            if is_finished(folder) and (not scored or (folder / SCORES_FILE).exists())}


def collect(settings: Settings, networks: Collection[str] = NETWORKS, score: bool = True) -> Results:
    """Results of the profile's finished runs of these networks.

    score: runs without today's scores are scored first, which takes its time; False leaves out what has none.
    """
    folders = list(finished_runs(settings, networks, scored=not score).values())
    cohort = existing_cohort(settings)
    for folder in folders if score else ():
        score_run(folder, cohort)
    return _results(settings, folders)


def _results(settings: Settings, folders: list[Path]) -> Results:
    records = [read_json(folder / RECORD_FILE) | {"scored_on": scored_on(folder)} for folder in folders]
    sides = [read_scores(folder, SIDES_FILE) for folder in folders]
    return Results(settings, records, _joined(map(read_scores, folders)), _joined(sides))


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    tables = list(tables) or [pd.DataFrame(columns=["network", "seed", "case", *OVERLAPS])]
    return pd.concat(tables, ignore_index=True)


def store(settings: Settings, folder: Path) -> list[Path]:
    """Write scores, learning curves and records of a profile's scored runs into a folder; return the files.

    Raises InputError when no run has been scored, or a log is damaged.
    """
    runs = finished_runs(settings, scored=True)
    if not runs:
        raise InputError(f"no run of profile {settings.profile} has been scored yet: "
                         f"PROFILE={settings.profile} make reproduce")
    results = _results(settings, list(runs.values()))
    curves = pd.concat([_curve(*run, path) for run, path in runs.items()], ignore_index=True)
    for file, table in {SCORES_FILE: results.scores, SIDES_FILE: results.sides, CURVES_FILE: curves}.items():
        with whole_file(folder / file) as part:
            table.to_csv(part, index=False)
    shared = {name: results.runs[0][name] for name in SHARED}
    records = [{name: run[name] for name in run.keys() - {"settings", *SHARED}} for run in results.runs]
    write_json(folder / RUNS_FILE, {"settings": settings.as_dict(), **shared, "runs": records})
    return [folder / file for file in (SCORES_FILE, SIDES_FILE, CURVES_FILE, RUNS_FILE)]


def _curve(network: str, seed: int, run: Path) -> pd.DataFrame:
    """Loss, validation Dice, learning rate and seconds of each epoch of a run."""
    try:
        log = pd.read_json(run / LOG_FILE, lines=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{run / LOG_FILE}: missing or damaged; remove the folder and train the run "
                         "again") from error
    return log.assign(network=network, seed=seed)[["network", "seed", *log.columns]]


def read_stored(folder: Path) -> Results:
    """Read what `store` wrote. Raises InputError when it is missing or damaged."""
    try:
        content = read_json(folder / RUNS_FILE)
        if not {"network", "scored_on"} <= set.intersection(*(set(run) for run in content["runs"])):
            raise ValueError(f"the runs in {RUNS_FILE} are not described")
        settings = from_mapping(content["settings"], str(folder / RUNS_FILE))
        scores, sides = read_scores(folder), read_scores(folder, SIDES_FILE)
        return Results(settings, content["runs"], scores, sides, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: holds no results that can be read ({reason}); give a folder that "
                         "'magunet tables --out' wrote, or store the results again") from error
