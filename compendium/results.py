"""Results of a profile: from its finished runs, or from a folder of small files, from which tables come back
without runs, data or a GPU."""

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from compendium.diagnostics import DIAGNOSTICS_FILE, read_diagnostics
from compendium.formats import Report, study_report
from compendium.grid import grid, networks_of, seeds_of
from compendium.sample import sample_paths
from compendium.scores import OVERLAPS, SCORES_FILE, SIDES_FILE, is_scored, read_scores, score_run, scored_by
from compendium.tables import study_table
from magunet.base import project
from magunet.base.errors import InputError, require
from magunet.base.profiles import Settings, from_mapping
from magunet.base.progress import say
from magunet.base.provenance import read_json, whole_file, write_json
from magunet.metrics import overlap
from magunet.predict import RECORD_FILE
from magunet.runs import data_hash, is_finished, run_folder
from magunet.studies import NETWORKS, checked
from magunet.train import LOG_FILE
from magunet.volume import read_volume
from sijphantom.cohort import existing_cohort

STORED_SCORES = (f"{SCORES_FILE}.xz", f"{SIDES_FILE}.xz")
"""Of stored results: those of all runs in one file, which is compressed, since 200 runs have many."""
CURVES_FILE = "curves.csv"
"""Of stored results: one row an epoch."""
SCALES_FILE = "scales.csv"
"""Of stored results: one row an epoch and name of `magunet.model.scales`."""
RUNS_FILE = "runs.json"
"""Of stored results: settings, split, and a record a run."""


class Results(NamedTuple):
    """Scores of a profile's runs by case and joint, and a record of each; folder: where they are stored."""

    settings: Settings
    runs: list[dict]
    scores: pd.DataFrame
    sides: pd.DataFrame
    folder: Path | None = None

    def report(self, table: int) -> Report:
        """Table 1, 2, 3 or 4. Raises InputError when there is no such table."""
        return study_report(study_table(table, self.scores, self.sides, self.runs), self.notes(table))

    def missing(self, table: int) -> list[str]:
        """A line for each seed without scores of networks that the profile names, or else of the paper's."""
        trained, all_of = set(zip(self.scores["network"], self.scores["seed"])), grid(self.settings, False)
        networks = [name for name in networks_of(table) if checked(name) in all_of]
        return [f"{name}, seed {seed}: " + (
                    f"not in {self.folder}" if self.folder else
                    f"not trained; magunet train '{name}' --profile {self.settings.profile} --seed {seed}")
                for name in networks for seed in seeds_of(name, self.settings)
                if (checked(name), seed) not in trained]

    def notes(self, table: int) -> list[str]:
        """What to know of the runs behind a table: their settings, and the devices that predicted."""
        chosen, trained = self.settings, set(map(checked, networks_of(table)))
        used = [run for run in self.runs if run["network"] in trained]
        devices, seeds = (sorted({run[name] for run in used}) for name in ("scored_on", "seed"))
        size = " x ".join(map(str, chosen.shape))
        own = "".join(f", of {name} {rate:g}" for name, rate in chosen.learning_rates if name in trained)
        note = (f"Profile {chosen.profile}: widths / {chosen.width_divisor}, input {size}, {chosen.epochs} "
                f"epoch{'s'[:chosen.epochs > 1]}, {chosen.samples_per_case} x each case an epoch, "
                f"learning rate {chosen.learning_rate:g}{own}, "
                f"seed{'s'[:len(seeds) != 1]} {', '.join(map(str, seeds)) or 'none'}.")
        return [note, f"Predicted on: {'; '.join(devices)}."] if devices else [note]


def finished_runs(settings: Settings, networks: Collection[str] = NETWORKS,
                  scored: bool = False) -> dict[tuple[str, int], Path]:
    """(Network, seed) -> folder of the profile's finished run, where there is one; trains nothing.

    Only runs of today's data, settings and code count. scored: only those that have today's scores.
    """
    if (cohort := existing_cohort(settings)) is None:
        return {}
    data = data_hash(cohort, settings)
    runs = {run: run_folder(run[0], settings, run[1], data)
            for run in itertools.product(networks, settings.seeds)}
    return {run: folder for run, folder in runs.items()
            if is_finished(folder) and (not scored or is_scored(folder, cohort, data, settings))}


def collect(settings: Settings, networks: Collection[str] = NETWORKS, score: bool = True) -> Results:
    """Results of the profile's finished runs of these networks.

    score: runs without today's scores are scored first, which takes its time; False leaves out what has none.
    """
    folders, cohort = finished_runs(settings, networks, scored=not score).values(), existing_cohort(settings)
    for folder in folders if score else ():
        score_run(folder, cohort)
    others = set() if score else {*finished_runs(settings, networks).values()} - {*folders}
    if count := sum((folder / SCORES_FILE).exists() for folder in others):
        say(f"note: scores of {count} runs are of other code, patients, grades or precision and left out; "
            "'magunet evaluate RUN' scores a run anew")
    records = [read_json(folder / RECORD_FILE) | {"scored_on": scored_by(folder).get("device", "unknown")}
               for folder in folders]
    nothing = pd.DataFrame(columns=["network", "seed", "case", *OVERLAPS])
    scores, sides = (
        pd.concat([read_scores(folder, file) for folder in folders] or [nothing], ignore_index=True)
        for file in (SCORES_FILE, SIDES_FILE))
    return Results(settings, records, scores, sides)


def store(settings: Settings, folder: Path) -> list[Path]:
    """Write what a profile's scored runs have come to into a folder; return the files.

    Raises InputError when no run has been scored, a log or diagnostics are damaged, or the folder holds
    trainings that this machine does not have, which would be lost.
    """
    results, curves, scales, used = collect(settings, score=False), [], [], []
    require(results.runs, f"no run of profile {settings.profile} has been scored yet: "
                          f"PROFILE={settings.profile} make reproduce")
    if (folder / RUNS_FILE).exists():
        stored, here = ({(one.settings.profile, run["network"], run["seed"]) for run in one.runs}
                        for one in (read_stored(folder), results))
        require(stored <= here, f"{folder}: of {len(stored)} trainings there this machine has only "
                f"{len(stored & here)}, of this profile, by today's code and on today's data; others would "
                "be lost: give another folder, or remove this one")
    for (network, seed), run in finished_runs(settings, scored=True).items():
        try:
            log = pd.read_json(run / LOG_FILE, lines=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{run / LOG_FILE}: missing or damaged; remove the folder and train the run "
                             "again") from error
        scales += [(network, seed, epoch, *value) for epoch, values in zip(
                   log["epoch"], log.pop("scales") if "scales" in log else ()) for value in values.items()]
        used += [read_diagnostics(run)] if (run / DIAGNOSTICS_FILE).exists() else []
        curves.append(log.assign(network=network, seed=seed)[["network", "seed", *log.columns]])
    tables = {**dict(zip(STORED_SCORES, (results.scores, results.sides))), CURVES_FILE: pd.concat(curves),
              SCALES_FILE: pd.DataFrame(scales, columns=["network", "seed", "epoch", "name", "value"]),
              **({DIAGNOSTICS_FILE: pd.concat(used)} if used else {})}
    for file, table in tables.items():
        with whole_file(folder / file) as part:
            table.to_csv(part, index=False, float_format="%.4g")
    shared = {name: results.runs[0][name] for name in ("data_hash", "train", "val")}
    records = [{name: run[name] for name in run.keys() - {"settings", *shared}} for run in results.runs]
    write_json(folder / RUNS_FILE, {"settings": settings.as_dict(), **shared, "runs": records})
    return [folder / file for file in (*tables, RUNS_FILE)]


def read_stored(folder: Path) -> Results:
    """Read what `store` wrote. Raises InputError when it is missing or damaged."""
    try:
        content = read_json(folder / RUNS_FILE)
        description = {"network", "seed", "epochs", "settings_hash", "scored_on", "seconds", "peak_memory_mb"}
        if not content["runs"] or not all(description <= set(run) for run in content["runs"]):
            raise ValueError(f"the runs in {RUNS_FILE} are not described")
        settings = from_mapping(content["settings"], str(folder / RUNS_FILE))
        scores, sides = (read_scores(folder, file) for file in STORED_SCORES)
        return Results(settings, content["runs"], scores, sides, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: holds no results that can be read ({reason}); give a folder that "
                         "'magunet tables --out' wrote, or remove it and store the results again") from error


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the cases of each network, in percent as in the paper."""
    grouped = scores.groupby("network", sort=False)
    mean, sd = (100 * table for table in (grouped[list(OVERLAPS)].mean(), grouped[list(OVERLAPS)].std()))
    spread = sd.map(lambda value: "" if pd.isna(value) else f" ± {value:.1f}")
    return pd.concat([grouped.size().rename("cases"), mean.map("{:.1f}".format) + spread], axis=1)


def overview(results: Results) -> Report:
    """Mean scores of a profile's networks and, unless the results are stored ones, the files it has made."""
    settings, means = results.settings, summary(results.scores).rename_axis(None)
    notes = [] if len(means) else [f"no scored run yet: PROFILE={settings.profile} make reproduce"]
    tables = {"Scores on the validation cases, percent, mean ± SD over cases and seeds, on each scan's own "
              "grid": means} if len(means) else {}
    if results.folder is None:
        outputs, sample = project.runs() / settings.profile, sample_paths().mask
        files = dict.fromkeys(finished_runs(settings, scored=True).values(), "scored run")
        pictures = (project.root() / "figures" / settings.profile).glob("*.png")
        files |= dict.fromkeys(sorted(pictures), "figure")
        for folder, network in {"sample": "this profile's MAG-UNet", "first_mask": "data/weights"}.items():
            files |= dict.fromkeys(sorted((outputs / folder).glob("*")), f"real CT, by {network}")
            if (mask := outputs / folder / "ct_sij.nii.gz") in files and sample.exists():
                dice = overlap(read_volume(mask).array, read_volume(sample).array).dice
                files[mask] += f"; Dice {dice:.2f} with the mask of bone labels that are predicted, too"
        files |= dict.fromkeys(sorted(outputs.glob("notebooks/*.ipynb")), "executed notebook")
        if files:
            paths = [path.relative_to(project.root()) for path in files]
            tables["Files"] = pd.DataFrame({"what it is": files.values()}, paths)
    return Report(f"Profile {settings.profile}", tables, means.rename_axis("network").reset_index(), notes)
