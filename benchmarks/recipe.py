"""The study's recipe: what was tried on 20 tuning phantoms, which no table reports.

    python benchmarks/recipe.py [rates] [choices] [steps] [--networks NAME ...]     trains what is missing
    python benchmarks/recipe.py --show                                              prints what is stored

rates: every network alike with each learning rate in RATES, on voxels of 3 mm for 400 steps, which is quick.
choices: the 3D U-Net and MAG-UNet with one thing changed at a time, as quick. steps: the same two for 1/4 to
2 times the study's steps, as in the study. A trial is a training on the phantoms of profile cpu with one
thread; its Dice is the mean over the tuning phantoms, about the middle of their joints, on the prepared box.
Trials that are stored, in recipe.csv or by this machine, are not run again, so the command can be interrupted
and gone on with elsewhere, and two of them can share the work.
"""

import argparse
import copy
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from magunet import train
from magunet.base import profiles, project, provenance
from magunet.base.device import choose_device, choose_precision
from magunet.base.errors import InputError, require
from magunet.base.profiles import Settings
from magunet.base.progress import say, track
from magunet.prepare import Prepared, prepare_case
from magunet.studies import NETWORKS
from sijphantom.cohort import cohort_of

RATES = (0.0005, 0.0015, 0.0045)
"""Learning rates, each three times the one before."""
TUNING = {"profile": "tuning", "test_cases": 20, "test_seed": 40_000, "learning_rates": ()}
"""What differs from profile cpu: the phantoms that are scored, and no network has a rate of its own yet."""
SHARES = (0.25, 0.5, 1, 2)
"""Of the study's steps."""
CHOICES = {"plain": {}, "warm-up of 100 steps": {"warmup_steps": 100},
           "gradients clipped at 1": {"clip_norm": 1.0},
           "constant learning rate": {"schedule": "constant"},
           "strong augmentation": {"augmentation": "strong"}, "AdamW": {"optimizer": "adamw"}}
"""One change at a time."""
BOTH = ("3D U-Net", "MAG-UNet")
"""The networks that steps and choices are tried with."""
AVERAGE = 0.99
"""Of the averaged weights: what a step keeps of the average before it."""
KINDS = ("rates", "choices", "steps")
"""Of trials."""
FILE = "recipe.csv"
"""What was tried, beside this script: a row a trial."""
COLUMNS = ["kind", "network", "learning_rate", "steps", "seed", "trial", "dice", "averaged", "loss"]
"""Of a trial, whose name is its kind and a hash of network, settings and seed."""


def plan(kinds: list[str], networks: list[str]) -> list[tuple[str, str, Settings, int]]:
    """Kind, network, settings and seed of every trial."""
    cpu = replace(profiles.load("cpu"), **TUNING)
    quick = replace(cpu, voxel_mm=3.0, epochs=2, warmup_steps=0)
    rates = [("rates", network, replace(quick, learning_rate=rate), 0)
             for network in networks for rate in RATES]
    steps = [("steps", network, replace(cpu, epochs=round(share * cpu.epochs)), seed)
             for seed in (0, 1) for network in BOTH for share in SHARES]
    choices = [(f"choices: {name}", network, replace(quick, **change), seed)
               for seed in (0, 1) for network in BOTH for name, change in CHOICES.items()]
    return [trial for trial in rates + steps + choices if trial[0].split(":")[0] in kinds]


def name_of(kind: str, network: str, settings: Settings, seed: int) -> str:
    """Of a trial of the plan."""
    key = provenance.content_hash(network, settings.as_dict(), seed)
    return f"{kind.replace(': ', '-').replace(' ', '-')}-{key}"


def trial(network: str, settings: Settings, seed: int, cases: dict[str, Prepared],
          tuning: dict[str, Prepared]) -> dict[str, float]:
    """Dice in percent over the tuning phantoms, with the last and with the averaged weights, and the loss."""
    device = choose_device()
    precision = choose_precision(settings.precision, device)
    windows = [name for name in cases for _ in range(settings.samples_per_case)]
    state = train.new_state(network, settings, seed, settings.epochs * len(windows), device)
    train.start_at_share(state.network, train.share_of(cases, settings))
    average = copy.deepcopy(state.network)
    for _ in range(settings.epochs):
        for place in torch.randperm(len(windows), generator=state.generator):
            state.network.train()
            train.train_step(state, cases[windows[place]], settings, device, precision)
            with torch.no_grad():
                for mean, last in zip(average.parameters(), state.network.parameters()):
                    mean.lerp_(last, 1 - AVERAGE)
    dice = [100 * train.validation_dice(net, tuning, settings, device, precision)
            for net in (state.network, average)]
    return {"dice": dice[0], "averaged": dice[1], "loss": float(torch.stack(state.losses[-100:]).mean())}


def all_trials(stored: Path, folder: Path) -> pd.DataFrame:
    """A row a trial: those of the stored file, wherever they were run, and of this machine's in a folder."""
    rows = [*pd.read_csv(stored).to_dict("records")] if stored.exists() else []
    rows += [provenance.read_json(file) | {"trial": file.stem} for file in folder.glob("*.json")]
    return pd.DataFrame(rows, columns=COLUMNS).drop_duplicates("trial").sort_values(COLUMNS[:5])


def tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What was tried, Dice in percent, mean over seeds."""
    choices = rows[rows["kind"].str.startswith("choices: ")]
    choices = choices.assign(choice=choices["kind"].str.removeprefix("choices: "))
    wide = {"Dice by learning rate": (rows[rows["kind"] == "rates"], "network", "learning_rate", "dice"),
            "Dice with one change": (choices, "choice", "network", "dice"),
            "Dice of averaged weights with one change": (choices, "choice", "network", "averaged"),
            "Dice by steps": (rows[rows["kind"] == "steps"], "network", "steps", "dice")}
    return {title: part.pivot_table(value, index, columns, sort=False).sort_index(axis=1).rename_axis(None)
            for title, (part, index, columns, value) in wide.items() if len(part)}


def main() -> None:
    """Train what is missing, store it, print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], help="default: all")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--show", action="store_true")
    words = parser.parse_args()
    torch.set_num_threads(1)
    folder, cohort, prepared = project.runs() / "tuning" / "trials", None, {}
    stored = Path(__file__).with_name(FILE)
    known = {*all_trials(stored, folder)["trial"]}
    for kind, network, settings, seed in plan(words.kinds or KINDS, words.networks):
        file = folder / f"{name_of(kind, network, settings, seed)}.json"
        if file.stem in known or file.exists() or words.show:
            continue
        cohort = cohort or cohort_of(settings, track)
        if settings.voxel_mm not in prepared:
            prepared[settings.voxel_mm] = {name: prepare_case(cohort.cases[name], settings)[0] for name in
                                           track([*cohort.train, *cohort.val], "prepared")}
        cases, tuning = ({name: prepared[settings.voxel_mm][name] for name in side}
                         for side in (cohort.train, cohort.val))
        row = {"kind": kind, "network": network, "seed": seed, "learning_rate": settings.learning_rate,
               "steps": settings.epochs * settings.samples_per_case * len(cases)} | trial(
                   network, settings, seed, cases, tuning)
        provenance.write_json(file, row)
        say(f"{kind}, {network}: {row}")
    rows = all_trials(stored, folder)
    require(len(rows), f"{stored}: missing, for nothing has been tried yet; leave out --show")
    if not words.show:
        with provenance.whole_file(stored) as part:
            rows.to_csv(part, index=False, float_format="%.4g")
    print(*(f"{title}\n{table.to_string(float_format='{:.1f}'.format, na_rep='-')}"
            for title, table in tables(rows).items()), sep="\n\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"recipe: {error}")
