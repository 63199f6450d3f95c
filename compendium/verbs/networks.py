"""Verbs that train, score and use networks."""

import argparse
from pathlib import Path

from compendium.verbs import PLAIN, PROFILE, SEED, Words, argument, export_folder, settings_of, verb
from compendium.view import FORMATS
from magunet.base.errors import InputError


@verb("train a network, or go on, and print its run folder", "train '3D U-Net' --profile smoke --seed 0",
      argument("network", help="a row of the paper's tables, such as MAG-UNet or '3D U-Net'"), PROFILE, PLAIN,
      argument("--seed", type=SEED, help="default: the profile's first"),
      argument("--recompute", choices=("auto", "always", "never"), default="auto",
               help="less memory for more time, the same weights; default: where memory demands it"))
def train(words: Words) -> None:
    from compendium.fits import fit_with_room
    from magunet.base.progress import track
    from magunet.studies import checked
    from sijphantom.cohort import cohort_of

    settings = settings_of(words)
    checked(words.network, settings.width_divisor)      # a wrong name fails before any work
    seed = settings.seeds[0] if words.seed is None else words.seed
    recompute = {"auto": None, "always": True, "never": False}[words.recompute]
    print(fit_with_room(words.network, settings, seed, cohort_of(settings, track), recompute, words.plain))


@verb("score a run on its validation cases", "evaluate runs/MAG-UNet-0123456789-s0",
      argument("run", help="a run folder"), PLAIN)
def evaluate(words: Words) -> None:
    from compendium.scores import score_run
    from magunet.base.progress import track
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of

    study = cohort_of(load_model(words.run).settings, track)
    print(score_run(Path(words.run), study, words.plain).round(4).to_string(index=False))


def format_names(text: str) -> tuple[str, ...]:
    """Formats to export, separated by commas."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    return names


OUTPUT = (argument("--formats", type=format_names, help=f"some of {', '.join(FORMATS)}; default: all"), PLAIN,
          argument("--anonymise", action="store_true", help="neutral file names; no patient in DICOM SEG"))
"""Arguments of verbs that write masks."""


@verb("segment a CT: mask, picture, files for 3D Slicer and PACS, a report",
      "predict data/sample/ct.nii.gz --out out --formats nifti,png",
      argument("ct", help="DICOM folder, NIfTI, NRRD or MHA"),
      argument("--model", help="a run folder; default: the weights that come with magunet, in data/weights"),
      argument("--out", required=True, help="folder to write into"), *OUTPUT)
def predict(words: Words) -> None:
    from compendium.fits import with_room
    from compendium.view.export import case_name, find_source
    from magunet.base.progress import say
    from magunet.cohort import holds_air
    from magunet.predict import CARD_FILE, load_model, shipped_weights
    from magunet.series import AIR_HU
    from magunet.volume import read_volume

    run = shipped_weights() if words.model is None else Path(words.model)
    model, ct, out = load_model(run, words.plain), Path(words.ct), export_folder(words.out)
    if words.model is None:
        say("note: no --model given, so the weights that come with magunet are taken: "
            f"{model.record['network']}, trained on phantoms only; {run / CARD_FILE} says what they can do")
    if ct.is_dir() and out.resolve() == ct.resolve():
        raise InputError(f"{out}: is the folder of the series, which must hold nothing else; "
                         "give another --out")
    scan = read_volume(ct)
    source = find_source(ct, scan, words.formats)
    if not holds_air(scan):
        say(f"note: {ct} has no voxel below {AIR_HU}; unless it is a CT in HU, the mask means nothing")
    _hand_on(words, with_room(model), run, out, ct, scan, case_name(ct, scan, words.anonymise), source=source)


@verb("write the same files for cases of a run's own cohort, prediction and truth",
      "export runs/MAG-UNet-0123456789-s0 phantom_001 --out out", argument("run", help="a run folder"),
      argument("case", nargs="+", help="names of cases of the cohort that the run was trained on"),
      argument("--out", help="folder to write into; default: exports in the run's folder"), *OUTPUT)
def export(words: Words) -> None:
    from compendium.fits import with_room
    from compendium.view.export import case_name
    from magunet.base.progress import track
    from magunet.cohort import read_checked
    from magunet.predict import load_model
    from sijphantom.cohort import cohort_of

    run = Path(words.run)
    model, out = with_room(load_model(run, words.plain)), export_folder(words.out or run / "exports")
    if "dicom-seg" in (words.formats or ()):
        raise InputError("a cohort's cases are no DICOM series; take the series with 'magunet predict' for a "
                         "DICOM SEG")
    study = cohort_of(model.settings, track)
    for name in words.case:
        if name not in study.cases:
            raise InputError(f"{study.root}: has no case {name!r}; it has {', '.join(study.cases)}")
    for case in track([study.cases[name] for name in words.case], "exported"):
        scan, truth = read_checked(case.image, case.label)
        note = ("the network was trained on this case" if case.name in model.record["train"] else
                "the network was not trained on this case" if case.name in model.record["val"] else
                "the run knows no such case")
        neutral = case_name(case.label, scan, words.anonymise)
        _hand_on(words, model, run, out, case.image, scan, neutral, truth=truth, note=note)


def _hand_on(words: Words, model, run: Path, out: Path, path: Path, scan, name: str, **more) -> None:
    """Segment the scan that was read from a path, write it under a name, and print the files."""
    from compendium.view.export import Exported, export, origin_of
    from magunet.base.progress import say

    try:
        mask = model.segment(scan)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    case, origin = Exported(name, scan, mask, **more), origin_of(run, model)
    files = export(case, origin, out, words.formats, words.anonymise)
    if not mask.array.any():
        say(f"note: {name}: the network found no joint; the mask is empty")
    print(*files, sep="\n")
