"""Verbs that train, score and use networks."""

import argparse
from pathlib import Path

from compendium.verbs import export_folder, settings_of
from magunet.base.errors import InputError


def run_train(arguments: argparse.Namespace) -> None:
    from magunet.base.progress import track
    from magunet.runs import fit
    from magunet.studies import checked
    from sijphantom.cohort import cohort_of

    settings = settings_of(arguments)
    checked(arguments.network, settings.width_divisor)  # a wrong name fails before any work
    seed = settings.seeds[0] if arguments.seed is None else arguments.seed
    recompute = {"auto": None, "always": True, "never": False}[arguments.recompute]
    print(fit(arguments.network, settings, seed, cohort_of(settings, track), recompute))


def run_evaluate(arguments: argparse.Namespace) -> None:
    from compendium.scores import score_run
    from magunet.base.progress import track
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of

    settings = load_model(arguments.run).settings
    print(score_run(Path(arguments.run), cohort_of(settings, track)).round(4).to_string(index=False))


def run_predict(arguments: argparse.Namespace) -> None:
    from compendium.memory import with_room
    from compendium.view.export import Exported, Origin, case_name, export, find_source
    from magunet.base.progress import say
    from magunet.cohort import holds_air
    from magunet.predict import load_model
    from magunet.series import AIR_HU
    from magunet.shipped import CARD_FILE, shipped_weights
    from magunet.volume import read_volume

    run = shipped_weights() if arguments.model is None else Path(arguments.model)
    model, ct, out = load_model(run), Path(arguments.ct), export_folder(arguments.out)
    if arguments.model is None:
        say(f"note: no --model given, so the weights that come with magunet are taken: {model.record['network']}, trained on "
            f"phantoms only; {run / CARD_FILE} says what they can do")
    if arguments.engine == "openvino":
        from compendium.openvino import with_openvino
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
    files = export(case, Origin.of(run, model), out, arguments.formats, arguments.anonymise)
    if not mask.array.any():
        say("note: the network found no joint in this scan; the mask is empty")
    print(*files, sep="\n")


def run_export(arguments: argparse.Namespace) -> None:
    from compendium.memory import with_room
    from compendium.view.export import Exported, Origin, case_name, export
    from magunet.base.progress import say, track
    from magunet.cohort import read_checked
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of

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
