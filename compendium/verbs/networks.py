"""Verbs that train, score and use networks."""

import argparse
from pathlib import Path

import numpy as np

from compendium.verbs import FORCE, ORIENTATION, PLAIN, PROFILE, SEED, Words, argument, export_folder, verb
from compendium.view import FORMATS
from magunet.base import profiles
from magunet.base.errors import InputError, require
from magunet.base.progress import say, track

RUN = argument("run", type=Path, help="a run folder")
"""What a training has written."""


@verb("train a network, or go on, and print its run folder", "train '3D U-Net' --profile smoke --seed 0",
      argument("network", help="a row of the paper's tables, such as MAG-UNet or '3D U-Net', or one's own: "
               "'own mff_kernels=1,5 attention=none' is MAG-UNet with these switches"), PROFILE, PLAIN,
      argument("--seed", type=SEED, help="default: the profile's first"),
      argument("--recompute", choices=("auto", "always", "never"), default="auto",
               help="less memory for more time, the same weights; default: where memory demands it"))
def train(words: Words) -> None:
    from compendium.fits import fit_with_room
    from magunet.studies import checked
    from sijphantom.cohort import cohort_of
    settings = profiles.load(words.profile)
    checked(words.network, settings.width_divisor)      # a wrong name fails before any work
    seed = settings.seeds[0] if words.seed is None else words.seed
    recompute = {"auto": None, "always": True, "never": False}[words.recompute]
    print(fit_with_room(words.network, settings, seed, cohort_of(settings, track), recompute, words.plain))


@verb("score a run on its validation cases, and say what of the network they need",
      "evaluate runs/MAG-UNet-0123456789-s0", RUN, PLAIN)
def evaluate(words: Words) -> None:
    from compendium.diagnostics import diagnose, diagnostics_report
    from compendium.scores import score_run
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of
    study = cohort_of(load_model(words.run).settings, track)
    print(score_run(words.run, study, words.plain).round(4).to_string(index=False))
    print("", diagnostics_report(diagnose(words.run, study, words.plain)).text(), sep="\n")


THICK_MM = 6
"""Longer voxels are announced: networks learned from slices up to 5 mm apart."""
OBLIQUE = 10
"""Degrees between the axes of a scan and the patient's from which on masks are worse."""


def format_names(text: str) -> tuple[str, ...]:
    """Formats to export, separated by commas."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    return names


OUTPUT = (argument("--formats", type=format_names, help=f"some of {', '.join(FORMATS)}; default: all"), PLAIN,
          argument("--anonymise", action="store_true", help="neutral file names; no patient in DICOM SEG"),
          argument("--overwrite", action="store_true", help="replace files that are no earlier export of the "
                   "same scan"))
"""Arguments of verbs that write masks."""


@verb("segment a CT: mask, picture, files for 3D Slicer and PACS, a report",
      "predict data/sample/ct.nii.gz --out out --formats nifti,png",
      argument("ct", type=Path, help="DICOM folder, NIfTI, NRRD or MHA"),
      argument("--model", type=Path, help="a run folder; default: the weights that come with magunet"),
      argument("--out", type=Path, required=True, help="folder to write into"), ORIENTATION, FORCE, *OUTPUT)
def predict(words: Words) -> None:
    from compendium.fits import with_room
    from compendium.view.export import Exported, case_name, earlier_files, find_source, origin_of
    from magunet.body import NARROW_MM, body_box, hu_problem
    from magunet.predict import CARD_FILE, load_model, shipped_weights
    from magunet.volume import extent_problem, read_volume
    run, ct, out = words.model or shipped_weights(), words.ct, export_folder(words.out)
    model = load_model(run, words.plain)
    if words.model is None:
        say("note: no --model given, so the weights that come with magunet are taken: "
            f"{model.record['network']}, trained on phantoms only; {run / CARD_FILE} says what they can do")
    require(not ct.is_dir() or out.resolve() != ct.resolve(),
            f"{out}: is the folder of the series, which must hold nothing else; give another --out")
    scan = read_volume(ct, words.orientation)
    require(not (problem := extent_problem(scan)), f"{ct}: {problem}")
    source = find_source(ct, scan, words.formats)
    notes = []
    if problem := hu_problem(scan):
        require(words.force, f"{ct}: {problem}; or take the values as they are with --force")
        notes.append(f"{problem}; the mask may mean nothing")
    name = case_name(ct, scan, words.anonymise)
    earlier_files(out, name, scan, words.overwrite)         # refused before the mask is computed
    answer = _answer(with_room(model), scan, ct)
    if (width := body_box(scan)[1][2]) < NARROW_MM:
        notes.append(f"the body in it is {width:.0f} mm wide, so cut off, or a child's; a network that "
                     "learned from whole adults may take something else for a joint: look at the mask")
    if (tilt := np.degrees(np.arccos(np.abs(scan.direction).max(0).min().clip(max=1)))) > OBLIQUE:
        notes.append(f"its axes are {tilt:.0f} degrees off the patient's; a network that learned from axial "
                     "slices finds less in it: resample it to such, or look at the mask")
    if max(scan.spacing) > THICK_MM:
        notes.append(f"its slices are {max(scan.spacing):.1f} mm apart, and networks learned from up to 5 mm")
    for note in notes:
        say(f"note: {ct}: {note}")
    note = "; ".join(filter(None, [*notes, answer.note]))
    case = Exported(name, scan, answer.mask, source=source, note=note, chance=answer.chance)
    _write(case, origin_of(run, model), out, words)


@verb("write the same files for cases of a run's own cohort, prediction and truth",
      "export runs/MAG-UNet-0123456789-s0 phantom_001 --out out", RUN,
      argument("case", nargs="+", help="names of cases of the cohort that the run was trained on"),
      argument("--out", type=Path, help="folder to write into; default: exports in the run"), *OUTPUT)
def export(words: Words) -> None:
    from compendium.fits import with_room
    from compendium.view.export import Exported, case_name, origin_of
    from magunet.cohort import read_checked
    from magunet.predict import load_model
    from magunet.runs import data_hash
    from sijphantom.cohort import cohort_of
    out, model = export_folder(words.out or words.run / "exports"), load_model(words.run, words.plain)
    require("dicom-seg" not in (words.formats or ()), "a cohort's cases are no DICOM series; take the series "
            "with 'magunet predict' for a DICOM SEG")
    study, network = cohort_of(model.settings, track), with_room(model)
    same = data_hash(study, model.settings) == model.record["data_hash"]
    for name in words.case:
        require(name in study.cases, f"{study.root}: has no case {name!r}; it has {', '.join(study.cases)}")
    for case in track([study.cases[name] for name in words.case], "exported"):
        scan, truth = read_checked(case)
        answer, name = _answer(network, scan, case.image), case_name(case.label, scan, words.anonymise)
        notes = [f"the network was {'' if case.name in model.record['train'] else 'not '}trained on this case"
                 if same else "the cohort is no more what the network was trained on", answer.note]
        result = Exported(name, scan, answer.mask, truth, None, "; ".join(filter(None, notes)), answer.chance)
        _write(result, origin_of(words.run, model), out, words)


def _answer(model, scan, path: Path):
    """The `magunet.predict.Answer` to a scan. Raises InputError, which names the path that it came from."""
    try:
        answer = model.answer(scan)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if answer.note:
        say(f"note: {path}: {answer.note}")
    return answer


def _write(case, origin, out: Path, words: Words) -> None:
    """Export a case and print its files."""
    from compendium.view.export import export
    print(*export(case, origin, out, words.formats, words.anonymise, words.overwrite), sep="\n")
