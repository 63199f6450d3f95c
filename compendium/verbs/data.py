"""Verbs that make, fetch and check cohorts, and say what the machine can do with them."""

from pathlib import Path

from compendium.verbs import Arguments, add_profile, add_verb, case_count, seed_number, settings_of
from magunet.base.errors import InputError


def add_sample(verbs) -> None:
    add_verb(verbs, "sample", run_sample, "download the real sample CT and derive its joint mask", "sample")


def run_sample(arguments: Arguments) -> None:
    from compendium.sample import fetch_sample

    sample = fetch_sample()
    print(sample.ct, sample.bones, sample.mask, sep="\n")


def add_cohort(verbs) -> None:
    parser = add_verb(verbs, "cohort", run_cohort,
                      "make the profile's cohort, or phantoms like a cohort of scans, and print its folder",
                      "cohort --like data/own --out data/phantoms-like-own --cases 20")
    add_profile(parser)
    like = parser.add_argument_group("phantoms with the spacing, slices and noise of a cohort's scans")
    like.add_argument("--like", metavar="COHORT", help="the cohort whose scans they take after")
    like.add_argument("--out", help="folder for the phantoms")
    like.add_argument("--cases", type=case_count, help="how many; default: as many as the cohort has")
    like.add_argument("--seed", type=seed_number, help="of the first phantom, default 0; then counting up")


def run_cohort(arguments: Arguments) -> None:
    from magunet.base.progress import track
    from magunet.cohort import load_cohort
    from sijphantom.cohort import cohort_of, make_phantoms_like

    if arguments.like is None:
        if arguments.out or arguments.cases or arguments.seed is not None:
            raise InputError("--out, --cases and --seed are for phantoms like a cohort; name it with --like")
        print(cohort_of(settings_of(arguments), track).root)
        return
    if arguments.out is None:
        raise InputError("--like needs a folder to write the phantoms into; give it with --out")
    cohort = load_cohort(arguments.like)
    make_phantoms_like(cohort, Path(arguments.out), arguments.cases or len(cohort.cases), arguments.seed or 0, track)
    print(arguments.out)


def add_import(verbs) -> None:
    parser = add_verb(verbs, "import", run_import,
                      "make a cohort of a public data set, or of your own CTs with bone labels",
                      "import labelmap cts --labels bones --sacrum 1 --left-hip 2 --right-hip 3 --out "
                      "data/own")
    parser.add_argument("source", choices=("totalsegmentator", "vsd", "ctpelvic1k", "pengwin", "labelmap"))
    parser.add_argument("src", help="the folder it is unpacked in; for labelmap a CT, or a folder of CTs")
    parser.add_argument("--out", required=True, help="folder for the cohort")
    own = parser.add_argument_group("labelmap", "label numbers default to those of TotalSegmentator")
    own.add_argument("--labels", help="the segmentation, or a folder of them named like the CTs")
    for name, default in (("sacrum", "25 26"), ("left-hip", "77"), ("right-hip", "78")):
        own.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help=f"its numbers, default {default}")
    own.add_argument("--patient", help="whose CTs these are, where one has several; default: each its own")


def run_import(arguments: Arguments) -> None:
    from compendium.importing.bones import BoneNumbers
    from compendium.importing.sources import import_cases, own_cases, published_cases
    from magunet.base.progress import track

    source, base, out = arguments.source, Path(arguments.src).resolve(), Path(arguments.out).resolve()
    choices = {name: getattr(arguments, name) for name in ("sacrum", "left_hip", "right_hip")}
    numbers = {name: tuple(values) for name, values in choices.items() if values}
    if source == "labelmap":
        labels = Path(arguments.labels).resolve() if arguments.labels else None
        scans = own_cases(base, labels, BoneNumbers(**numbers), arguments.patient)
        base = base if labels is None or labels.is_dir() else base.parent
    elif numbers or arguments.labels or arguments.patient:
        raise InputError(f"{source} has its own labels and patients; label numbers, --labels and --patient "
                         "are for labelmap")
    else:
        scans = published_cases(source, base, out)
    outcome = import_cases(source, scans, base, out, track)
    for name, note in outcome.imported.items():
        print(f"imported  {name}" + (f"  ({note})" if note else ""))
    for name, reason in outcome.skipped.items():
        print(f"skipped   {name}: {reason}")
    if not outcome.imported and not outcome.present:
        name, reason = next(iter(outcome.skipped.items()))
        raise InputError(f"{arguments.src}: none of {len(outcome.skipped)} scans could be imported; {name}: "
                         f"{reason}")
    print(f"{len(outcome.imported)} imported, {len(outcome.present)} there before, {len(outcome.skipped)} skipped: "
          f"{arguments.out}")
    if outcome.imported and (out / "splits.json").exists():
        print(f"{arguments.out} was split before these cases came; remove its splits.json to split it anew")


def add_check(verbs) -> None:
    parser = add_verb(verbs, "check", run_check, "check a cohort in nnU-Net raw layout", "check data/own")
    parser.add_argument("cohort", help="its folder")


def run_check(arguments: Arguments) -> None:
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
        raise InputError(f"{cohort.root}: {len(problems)} problem{'s'[:len(problems) > 1]} in {bad} of "
                         f"{len(table)} cases, listed above")


def add_doctor(verbs) -> None:
    text = "say what this machine has, which profiles fit into its memory, and how long they take"
    add_verb(verbs, "doctor", run_doctor, text, "doctor")


def run_doctor(arguments: Arguments) -> None:
    from compendium.doctor import machine, memory_table, time_table
    from magunet.base.device import choose_device

    device = choose_device()
    print(machine(device), memory_table(device).to_string(), sep="\n\n")
    print("", time_table(device).to_string(), sep="\n")
