"""Verbs that make, fetch and check cohorts."""

from pathlib import Path

from compendium.verbs import FORCE, ORIENTATION, PROFILE, SEED, Words, argument, verb, whole_number
from magunet.base import profiles
from magunet.base.errors import InputError, require
from magunet.base.progress import track
from magunet.base.project import typed


@verb("download the real sample CT and derive its joint mask", "sample")
def sample(words: Words) -> None:
    from compendium.sample import fetch_sample
    print(*fetch_sample(), sep="\n")


@verb("make the profile's cohort, or phantoms like a cohort of scans, and print its folder",
      "cohort --like data/own --out data/phantoms-like-own --cases 20", PROFILE,
      argument("--like", metavar="COHORT", help="make phantoms with spacing, slices and noise of its scans"),
      argument("--out", type=Path, help="with --like: folder for the phantoms"),
      argument("--cases", type=whole_number(1, 99_999), help="with --like: how many; default: as it has"),
      argument("--seed", type=SEED, help="with --like: of the first phantom, default 0; then counting up"))
def cohort(words: Words) -> None:
    from magunet.cohort import load_cohort
    from sijphantom.cohort import cohort_of, make_phantoms_like
    if words.like:
        require(words.out, "--like needs a folder to write the phantoms into; give it with --out")
        model = load_cohort(words.like)
        make_phantoms_like(model, words.out, words.cases or len(model.cases), words.seed or 0, track)
        print(words.out)
    else:
        require(not (words.out or words.cases or words.seed is not None),
                "--out, --cases and --seed are for phantoms like a cohort; name it with --like")
        print(cohort_of(profiles.load(words.profile), track).root)


@verb("make a cohort of a public data set, or of your own CTs with bone labels",
      "import labelmap cts --labels bones --sacrum 1 --left-hip 2 --right-hip 3 --out data/own",
      argument("source", choices=("totalsegmentator", "vsd", "ctpelvic1k", "pengwin", "labelmap")),
      argument("src", type=Path, help="the folder it is unpacked in; for labelmap a CT, or a folder of CTs"),
      argument("--out", type=Path, required=True, help="folder for the cohort"),
      argument("--labels", type=Path, help="labelmap: bones, or a folder of them named like the CTs"),
      *(argument(f"--{bone}", type=int, nargs="+", metavar="N", help=f"labelmap: its numbers; {default}")
        for bone, default in (("sacrum", "25 26"), ("left-hip", "77"), ("right-hip", "78"))),
      argument("--patient", help="labelmap: whose CTs these are, if one has several; default: each its own"),
      ORIENTATION, FORCE)
def import_(words: Words) -> None:
    from compendium.importing.bones import BoneNumbers
    from compendium.importing.sources import import_cases, own_cases, published_cases
    base, out = typed(words.src), typed(words.out)
    numbers = {bone: tuple(values) for bone in BoneNumbers._fields if (values := getattr(words, bone))}
    if words.source == "labelmap":
        labels = words.labels and typed(words.labels)
        cases = own_cases(base, labels, BoneNumbers(**numbers), words.patient)
        base = base.parent if base.is_file() else base
    else:
        require(not (numbers or words.labels or words.patient), f"{words.source} has its own labels and "
                "patients; label numbers, --labels and --patient are for labelmap")
        cases = published_cases(words.source, base, out)
    cases = [case._replace(orientation=words.orientation) for case in cases]
    imported, present, skipped = import_cases(words.source, cases, base, out, track, words.force)
    for name, note in imported.items():
        print(f"imported  {name}" + (f"  ({note})" if note else ""))
    for name, reason in skipped.items():
        print(f"skipped   {name}: {reason}")
    if not imported and not present:
        name, reason = next(iter(skipped.items()))
        raise InputError(f"{words.src}: none of {len(skipped)} scans could be imported; {name}: {reason}")
    print(f"{len(imported)} imported, {len(present)} there before, {len(skipped)} skipped: {words.out}")
    if imported:
        print(f"look at {words.out / 'pictures'}, whether the labels lie on bone")
    if imported and (out / "splits.json").exists():
        print(f"{words.out} was split before these cases came; remove its splits.json to split it anew")


@verb("check a cohort in nnU-Net raw layout", "check data/own", argument("cohort", help="its folder"))
def check(words: Words) -> None:
    from compendium.check import check_cohort
    from magunet.cohort import load_cohort
    folder = load_cohort(words.cohort)
    table, problems = check_cohort(folder, track)
    unused = len(set(folder.cases) - set(folder.train) - set(folder.val))
    known = table.astype(object).where(table.notna(), "")
    print(known.to_string(index=False, float_format="{:.2f}".format))
    print(f"{len(folder.cases)} cases: {len(folder.train)} to train on, {len(folder.val)} to score"
          + (f", {unused} in neither list of splits.json" if unused else ""))
    if problems:
        print(*problems, sep="\n", flush=True)
        raise InputError(f"{folder.root}: {len(problems)} problem{'s'[:len(problems) > 1]} in "
                         f"{(table['problems'] > 0).sum()} of {len(table)} cases, listed above")
