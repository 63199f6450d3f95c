"""What each verb of the ``magunet`` command does with its arguments.

Imports stand in the functions, so that a verb loads only what it needs.
"""

import argparse
import os
from pathlib import Path

from magunet.errors import InputError


def settings_of(arguments: argparse.Namespace):
    from magunet import profiles

    return profiles.load(arguments.profile)


def run_cohort(arguments: argparse.Namespace) -> None:
    from magunet.data.cohort import cohort_of
    from magunet.progress import track

    print(cohort_of(settings_of(arguments), track).root)


def run_phantom(arguments: argparse.Namespace) -> None:
    from magunet import provenance
    from magunet.data.cohort import load_cohort
    from magunet.data.likeness import phantom_options
    from magunet.data.phantom_cohort import write_phantoms
    from magunet.progress import track

    cohort, out = load_cohort(arguments.like), Path(arguments.out)
    count = len(cohort.cases) if arguments.cases is None else arguments.cases
    marker = out / "like.json"      # tells a folder of this verb from anything else
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not marker.exists())):
        raise InputError(f"{out}: is not empty, and not from 'magunet phantom'; give a new folder with --out")
    options = phantom_options(cohort, count, track)
    wanted = dict(zip(range(arguments.seed, arguments.seed + count), options))
    provenance.write_json(marker, {"like": cohort.root.resolve().name})
    write_phantoms(out, wanted, f"magunet phantoms like {cohort.root.name}", track)
    print(out)


def run_check(arguments: argparse.Namespace) -> None:
    from magunet.data.cohort import load_cohort
    from magunet.progress import track
    from magunet.report.checks import as_text, check_cohort

    cohort = load_cohort(arguments.cohort)
    table, problems = check_cohort(cohort, track)
    print(as_text(table))
    unused = len(set(cohort.cases) - set(cohort.train) - set(cohort.val))
    print(f"{len(cohort.cases)} cases: {len(cohort.train)} to train on, {len(cohort.val)} to score"
          + (f", {unused} in neither list of splits.json" if unused else ""))
    print(*problems, sep="\n", end="\n" if problems else "", flush=True)
    if problems:
        bad = (table["problems"] > 0).sum()
        raise InputError(f"{cohort.root}: {len(problems)} problem{'s'[:len(problems) > 1]} in {bad} of {len(table)} cases, "
                         "listed above")


def run_prepare(arguments: argparse.Namespace) -> None:
    from magunet.data.cohort import cohort_of
    from magunet.data.prepare import prepare_case
    from magunet.progress import track

    settings = settings_of(arguments)
    cohort = cohort_of(settings, track)
    for case in track(list(cohort.cases.values()), "prepared"):
        prepared, key = prepare_case(case.name, case.image, case.label, settings)
        print(case.name, key, *prepared.image.shape)


def run_train(arguments: argparse.Namespace) -> None:
    from magunet.data.cohort import cohort_of
    from magunet.learn.runs import fit
    from magunet.nets.studies import checked
    from magunet.progress import track

    settings = settings_of(arguments)
    checked(arguments.network, settings.width_divisor)  # a wrong name fails before any work
    seed = settings.seeds[0] if arguments.seed is None else arguments.seed
    recompute = {"auto": None, "always": True, "never": False}[arguments.recompute]
    print(fit(arguments.network, settings, seed, cohort_of(settings, track), recompute))


def run_evaluate(arguments: argparse.Namespace) -> None:
    from magunet.data.cohort import cohort_of
    from magunet.learn.predict import load_model
    from magunet.progress import track
    from magunet.report.scores import score_run

    settings = load_model(arguments.run).settings
    print(score_run(Path(arguments.run), cohort_of(settings, track)).round(4).to_string(index=False))


def run_predict(arguments: argparse.Namespace) -> None:
    from magunet.data.check import holds_air
    from magunet.data.series import AIR_HU
    from magunet.data.volume import read_volume
    from magunet.learn.memory import with_room
    from magunet.learn.predict import load_model
    from magunet.progress import say
    from magunet.view.export import Exported, Origin, case_name, export, find_source

    model, ct, out = load_model(arguments.model), Path(arguments.ct), export_folder(arguments.out)
    if arguments.engine == "openvino":
        from magunet.learn.openvino import with_openvino
        model = with_openvino(model)
    if ct.is_dir() and out.resolve() == ct.resolve():
        raise InputError(f"{out}: is the folder of the series, which must hold nothing else; give another --out")
    scan = read_volume(ct)
    source = find_source(ct, scan, arguments.formats)
    if not holds_air(scan):
        say(f"note: {ct} has no voxel below {AIR_HU}; unless it is a CT in HU, the mask means nothing")
    mask = segmented(with_room(model), ct, scan, arguments.quick)
    notes = {"quick: only slices around what a look at low resolution found were segmented": arguments.quick,
             "the network was run by OpenVINO": arguments.engine == "openvino"}
    note = "; ".join(text for text, said in notes.items() if said)
    case = Exported(case_name(ct, scan, arguments.anonymise), scan, mask, source=source, note=note)
    files = export(case, Origin.of(Path(arguments.model), model), out, arguments.formats, arguments.anonymise)
    if not mask.array.any():
        say("note: the network found no joint in this scan; the mask is empty")
    print(*files, sep="\n")


def run_export(arguments: argparse.Namespace) -> None:
    from magunet.data.cohort import cohort_of, read_checked
    from magunet.learn.memory import with_room
    from magunet.learn.predict import load_model
    from magunet.progress import say, track
    from magunet.view.export import Exported, Origin, case_name, export

    run = Path(arguments.run)
    model, out = with_room(load_model(run)), export_folder(arguments.out or run / "exports")
    if "dicom-seg" in (arguments.formats or ()):
        raise InputError("a cohort's cases are no DICOM series; take the series with 'magunet predict' for a DICOM SEG")
    cohort, origin = cohort_of(model.settings, track), Origin.of(run, model)
    for name in arguments.case:
        if name not in cohort.cases:
            raise InputError(f"{cohort.root}: has no case {name!r}; it has {', '.join(cohort.cases)}")
    lists = {"train": "the network was trained on this case", "val": "the network was not trained on this case"}
    notes = {name: note for which, note in lists.items() for name in model.record[which]}
    for name in track(arguments.case, "exported"):
        case = cohort.cases[name]
        scan, truth = read_checked(case.image, case.label)
        mask = segmented(model, case.image, scan)
        shown = case_name(case.label, scan, arguments.anonymise)
        shown_case = Exported(shown, scan, mask, truth, note=notes.get(name, "the run knows no such case"))
        files = export(shown_case, origin, out, arguments.formats, arguments.anonymise)
        if not mask.array.any():
            say(f"note: {shown}: the network found no joint; the predicted mask is empty")
        print(*files, sep="\n")


def segmented(model, path: Path, scan, quick: bool = False):
    """The mask of a scan; an error names the file that it was read from."""
    try:
        return model.segment(scan, quick)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def export_folder(out: str | Path) -> Path:
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder to write into")
    there = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: nothing can be written there; give another folder")
    return out


def run_sample(arguments: argparse.Namespace) -> None:
    from magunet.data.sample import fetch_sample

    sample = fetch_sample()
    print(sample.ct, sample.bones, sample.mask, sep="\n")


def run_import(arguments: argparse.Namespace) -> None:
    from magunet.data.bones import BoneNumbers
    from magunet.data.sources import find_labelmaps, find_scans, import_scans
    from magunet.progress import track

    source, base, out = arguments.source, Path(arguments.src).resolve(), Path(arguments.out).resolve()
    given = {name: getattr(arguments, name) for name in ("sacrum", "left_hip", "right_hip")}
    numbers = {name: tuple(values) for name, values in given.items() if values}
    if source == "labelmap":
        labels = Path(arguments.labels).resolve() if arguments.labels else None
        scans = find_labelmaps(base, labels, BoneNumbers(**numbers), arguments.patient)
        base = base if labels is None or labels.is_dir() else base.parent
    elif numbers or arguments.labels or arguments.patient:
        raise InputError(f"{source} has its own labels and patients; label numbers, --labels and --patient are for labelmap")
    else:
        scans = find_scans(source, base, out)
    outcome = import_scans(source, scans, base, out, track)
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


def run_audit(arguments: argparse.Namespace) -> None:
    from magunet.report.audit import as_text, parameter_audit

    print("Parameters in Mi = 2^20; the paper writes M.")
    print(as_text(parameter_audit()))


def run_study(arguments: argparse.Namespace) -> None:
    from magunet.progress import say
    from magunet.report.formats import FORMATS
    from magunet.report.study import collect
    from magunet.report.tables import study_table

    found = collect(arguments.table, settings_of(arguments))
    for line in found.missing:
        say(line)
    print(FORMATS[arguments.format](study_table(arguments.table, found.scores, found.sides), found.notes))


def run_report(arguments: argparse.Namespace) -> None:
    from magunet.report.overview import overview

    print(overview(settings_of(arguments)))


def run_viewer(arguments: argparse.Namespace) -> None:
    from magunet.view import offline

    match arguments.action:
        case "install":
            folder, done = offline.install(arguments.bundle and Path(arguments.bundle))
            print(f"{'installed' if done else 'already installed'}: {folder}")
            if done:
                print("reload JupyterLab's page, and itkwidgets draws in it without a network")
        case "uninstall":
            print("removed; JupyterLab's extension is as published" if offline.uninstall() else "nothing to remove")
        case "bundle":
            print(offline.write_bundle(Path(arguments.file)))
        case "check":
            problems = offline.problems()
            print(*problems, sep="\n", end="\n" if problems else "", flush=True)
            if problems:
                raise InputError("itkwidgets cannot be used here, for the reasons above; notebook 10 takes the next viewer")
            print(f"ready: {offline.extension_folder()}")


def run_doctor(arguments: argparse.Namespace) -> None:
    from magunet.learn.device import choose_device
    from magunet.report.doctor import machine, memory_table, time_table

    device = choose_device()
    print(machine(device), memory_table(device).to_string(), time_table(device).to_string(), sep="\n\n")


def run_bench(arguments: argparse.Namespace) -> None:
    from magunet.bench.contests import CONTESTS
    from magunet.bench.suite import as_markdown, measure, table, write_readme

    if arguments.readme and not (arguments.json and Path(arguments.readme).is_file()):
        raise InputError(f"{arguments.readme}: --readme needs a document that exists, and --json")
    if unknown := [name for name in arguments.contest if name not in CONTESTS]:
        raise InputError(f"no contest {unknown[0]!r}; there are {', '.join(CONTESTS)}")
    results, left_out = measure(arguments.contest or list(CONTESTS), arguments.json and Path(arguments.json))
    if results:
        print(as_markdown(table(results)) if arguments.format == "md" else table(results).to_string(index=False))
    print(*(f"{result.work}: {result.note}" for result in results.values() if result.note),
          *(f"left out: {name}: {reason}" for name, reason in left_out.items()), sep="\n")
    if arguments.readme:
        write_readme(Path(arguments.readme), Path(arguments.json))
