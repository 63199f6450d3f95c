"""Verbs that make, fetch, check and prepare cohorts."""

import argparse
from pathlib import Path

from compendium.verbs import settings_of
from magunet.base.errors import InputError


def run_sample(arguments: argparse.Namespace) -> None:
    from compendium.sample import fetch_sample

    sample = fetch_sample()
    print(sample.ct, sample.bones, sample.mask, sep="\n")


def run_cohort(arguments: argparse.Namespace) -> None:
    from magunet.base.progress import track
    from sijphantom.cohort import cohort_of

    print(cohort_of(settings_of(arguments), track).root)


def run_phantom(arguments: argparse.Namespace) -> None:
    from magunet.base.progress import track
    from magunet.cohort import load_cohort
    from sijphantom.cohort import make_phantoms_like

    cohort = load_cohort(arguments.like)
    count = len(cohort.cases) if arguments.cases is None else arguments.cases
    make_phantoms_like(cohort, Path(arguments.out), count, arguments.seed, track)
    print(arguments.out)


def run_import(arguments: argparse.Namespace) -> None:
    from compendium.importing.bones import BoneNumbers
    from compendium.importing.sources import import_cases, own_cases, published_cases
    from magunet.base.progress import track

    source, base, out = arguments.source, Path(arguments.src).resolve(), Path(arguments.out).resolve()
    given = {name: getattr(arguments, name) for name in ("sacrum", "left_hip", "right_hip")}
    numbers = {name: tuple(values) for name, values in given.items() if values}
    if source == "labelmap":
        labels = Path(arguments.labels).resolve() if arguments.labels else None
        scans = own_cases(base, labels, BoneNumbers(**numbers), arguments.patient)
        base = base if labels is None or labels.is_dir() else base.parent
    elif numbers or arguments.labels or arguments.patient:
        raise InputError(f"{source} has its own labels and patients; label numbers, --labels and --patient are for labelmap")
    else:
        scans = published_cases(source, base, out)
    outcome = import_cases(source, scans, base, out, track)
    for name, note in outcome.imported.items():
        print(f"imported  {name}" + (f"  ({note})" if note else ""))
    for name, reason in outcome.skipped.items():
        print(f"skipped   {name}: {reason}")
    if not outcome.imported and not outcome.present:
        name, reason = next(iter(outcome.skipped.items()))
        raise InputError(f"{arguments.src}: none of {len(outcome.skipped)} scans could be imported; {name}: {reason}")
    counts = f"{len(outcome.imported)} imported, {len(outcome.present)} there before, {len(outcome.skipped)} skipped"
    print(f"{counts}: {arguments.out}")
    if outcome.imported and (out / "splits.json").exists():
        print(f"{arguments.out} was split before these cases came; remove its splits.json to split it anew")


def run_check(arguments: argparse.Namespace) -> None:
    from compendium.check import check_cohort, table_text
    from magunet.base.progress import track
    from magunet.cohort import load_cohort

    cohort = load_cohort(arguments.cohort)
    table, problems = check_cohort(cohort, track)
    print(table_text(table))
    unused = len(set(cohort.cases) - set(cohort.train) - set(cohort.val))
    print(f"{len(cohort.cases)} cases: {len(cohort.train)} to train on, {len(cohort.val)} to score"
          + (f", {unused} in neither list of splits.json" if unused else ""))
    print(*problems, sep="\n", end="\n" if problems else "", flush=True)
    if problems:
        bad = (table["problems"] > 0).sum()
        raise InputError(f"{cohort.root}: {len(problems)} problem{'s'[:len(problems) > 1]} in {bad} of {len(table)} cases, "
                         "listed above")


def run_prepare(arguments: argparse.Namespace) -> None:
    from magunet.base.progress import track
    from magunet.prepare import prepare_case
    from sijphantom.cohort import cohort_of

    settings = settings_of(arguments)
    cohort = cohort_of(settings, track)
    for case in track(list(cohort.cases.values()), "prepared"):
        prepared, key = prepare_case(case.name, case.image, case.label, settings)
        print(case.name, key, *prepared.image.shape)
