"""Verbs that train, score and use networks."""

import argparse
from pathlib import Path

from compendium.verbs import (
    Arguments,
    add_plain,
    add_profile,
    add_verb,
    export_folder,
    seed_number,
    settings_of,
)
from compendium.view import FORMATS
from magunet.base.errors import InputError


def add_train(verbs) -> None:
    parser = add_verb(verbs, "train", run_train, "train a network, or go on, and print its run folder",
                      "train '3D U-Net' --profile smoke --seed 0")
    add_profile(parser)
    add_plain(parser)
    parser.add_argument("network", help="a row of the paper's tables, such as MAG-UNet or '3D U-Net'")
    parser.add_argument("--seed", type=seed_number, help="default: the profile's first")
    parser.add_argument("--recompute", choices=("auto", "always", "never"), default="auto",
                        help="less memory for more time, the same weights; default: where memory demands it")


def run_train(arguments: Arguments) -> None:
    from compendium.trainings import fit_with_room
    from magunet.base.progress import track
    from magunet.studies import checked
    from sijphantom.cohort import cohort_of

    settings = settings_of(arguments)
    checked(arguments.network, settings.width_divisor)  # a wrong name fails before any work
    seed = settings.seeds[0] if arguments.seed is None else arguments.seed
    recompute = {"auto": None, "always": True, "never": False}[arguments.recompute]
    cohort = cohort_of(settings, track)
    print(fit_with_room(arguments.network, settings, seed, cohort, recompute, arguments.plain))


def add_evaluate(verbs) -> None:
    parser = add_verb(verbs, "evaluate", run_evaluate, "score a run on its validation cases",
                      "evaluate runs/MAG-UNet-0123456789-s0")
    parser.add_argument("run", help="a run folder")
    add_plain(parser)


def run_evaluate(arguments: Arguments) -> None:
    from compendium.scores import score_run
    from magunet.base.progress import track
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of

    settings = load_model(arguments.run).settings
    scores = score_run(Path(arguments.run), cohort_of(settings, track), arguments.plain)
    print(scores.round(4).to_string(index=False))


def format_names(text: str) -> tuple[str, ...]:
    """Formats to export, separated by commas."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    return names


def _add_formats(parser) -> None:
    parser.add_argument("--formats", type=format_names, help=f"some of {', '.join(FORMATS)}; default: all")
    parser.add_argument("--anonymise", action="store_true", help="neutral file names; DICOM SEG names no patient")
    add_plain(parser)


def add_predict(verbs) -> None:
    parser = add_verb(verbs, "predict", run_predict,
                      "segment a CT: mask, picture, files for 3D Slicer and PACS, a report",
                      "predict data/sample/ct.nii.gz --out out --formats nifti,png")
    parser.add_argument("ct", help="DICOM folder, NIfTI, NRRD or MHA")
    parser.add_argument("--model", help="a run folder; default: the weights in data/weights")
    parser.add_argument("--out", required=True, help="folder to write into")
    _add_formats(parser)


def run_predict(arguments: Arguments) -> None:
    from compendium.fits import with_room
    from compendium.view.export import Exported, Origin, case_name, export, find_source
    from magunet.base.progress import say
    from magunet.cohort import holds_air
    from magunet.predict import CARD_FILE, load_model, shipped_weights
    from magunet.series import AIR_HU
    from magunet.volume import read_volume

    run = shipped_weights() if arguments.model is None else Path(arguments.model)
    model, ct, out = load_model(run, arguments.plain), Path(arguments.ct), export_folder(arguments.out)
    if arguments.model is None:
        say("note: no --model given, so the weights that come with magunet are taken: "
            f"{model.record['network']}, trained on phantoms only; {run / CARD_FILE} says what they can do")
    if ct.is_dir() and out.resolve() == ct.resolve():
        raise InputError(f"{out}: is the folder of the series, which must hold nothing else; give another "
                         "--out")
    scan = read_volume(ct)
    source = find_source(ct, scan, arguments.formats)
    if not holds_air(scan):
        say(f"note: {ct} has no voxel below {AIR_HU}; unless it is a CT in HU, the mask means nothing")
    mask = segmented(with_room(model), ct, scan)
    case = Exported(case_name(ct, scan, arguments.anonymise), scan, mask, source=source)
    files = export(case, Origin.of(run, model), out, arguments.formats, arguments.anonymise)
    if not mask.array.any():
        say("note: the network found no joint in this scan; the mask is empty")
    print(*files, sep="\n")


def add_export(verbs) -> None:
    parser = add_verb(verbs, "export", run_export,
                      "write the same files for cases of a run's own cohort, prediction and truth",
                      "export runs/MAG-UNet-0123456789-s0 phantom_001 --out out")
    parser.add_argument("run", help="a run folder")
    parser.add_argument("case", nargs="+", help="names of cases of the cohort that the run was trained on")
    parser.add_argument("--out", help="folder to write into; default: exports in the run's folder")
    _add_formats(parser)


def run_export(arguments: Arguments) -> None:
    from compendium.fits import with_room
    from compendium.view.export import Exported, Origin, case_name, export
    from magunet.base.progress import say, track
    from magunet.cohort import read_checked
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of

    run = Path(arguments.run)
    model, out = with_room(load_model(run, arguments.plain)), export_folder(arguments.out or run / "exports")
    if "dicom-seg" in (arguments.formats or ()):
        raise InputError("a cohort's cases are no DICOM series; take the series with 'magunet predict' for "
                         "a DICOM SEG")
    cohort, origin = cohort_of(model.settings, track), Origin.of(run, model)
    for name in arguments.case:
        if name not in cohort.cases:
            raise InputError(f"{cohort.root}: has no case {name!r}; it has {', '.join(cohort.cases)}")
    lists = {"train": "the network was trained on this case",
             "val": "the network was not trained on this case"}
    notes = {name: note for which, note in lists.items() for name in model.record[which]}
    for name in track(arguments.case, "exported"):
        case = cohort.cases[name]
        scan, truth = read_checked(case.image, case.label)
        mask = segmented(model, case.image, scan)
        neutral = case_name(case.label, scan, arguments.anonymise)
        exported = Exported(neutral, scan, mask, truth, note=notes.get(name, "the run knows no such case"))
        files = export(exported, origin, out, arguments.formats, arguments.anonymise)
        if not mask.array.any():
            say(f"note: {neutral}: the network found no joint; the predicted mask is empty")
        print(*files, sep="\n")


def segmented(model, path: Path, scan):
    """The mask of a scan; an error names the file that it was read from."""
    try:
        return model.segment(scan)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
