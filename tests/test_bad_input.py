"""Whatever a user gives that cannot be used: one line that names it, what is wrong and what to do, status 2,
and nothing left.

Every entry of the corpus goes through the command itself, in a compendium with a cohort of boxes and a scored
run of it. What only looks odd must work: the second half.
"""

import json
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from bad_files import DAMAGED, SCAN, SCANS, SERIES, UNSTATED, WORKS, series, sound, text
from boxes import TINY
from conftest import ROOT
from test_cli import call
from test_sources import EMPTY, own, scan, totalsegmentator, vsd, write_on_another_grid

from compendium import cli
from magunet.base.provenance import write_json
from magunet.studies import build
from magunet.volume import Volume, read_volume, same_geometry, write_volume

OWN, BOXES = Path("papermill_params/own.yaml"), Path("data/boxes")
LIST, SPLIT = BOXES / "dataset.json", BOXES / "splits.json"
SCAN_1, MASK_1 = BOXES / "imagesTr/box_1_0000.nii.gz", BOXES / "labelsTr/box_1.nii.gz"
RUN = Path("runs/run")
"""A link to the run's folder, whose name has a hash."""
RECORD, WEIGHTS = RUN / "run.json", RUN / "weights.safetensors"
PROGRESS = re.compile(r"\w+ \d+/\d+")


def changed(path: Path, **values) -> Callable[[], None]:
    """Other values in a JSON object, or in the settings (JSON is YAML); None takes one out."""
    def spoil() -> None:
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None or k not in values}))
    return spoil


def holding(path: str | Path, content: bytes | str) -> Callable[[], None]:
    return lambda: text(content)(Path(path))


def reworded(path: str | Path, old: bytes, new: bytes) -> Callable[[], None]:
    """A file, found by a pattern, with other words somewhere."""
    def spoil() -> None:
        found, = Path().glob(str(path))
        assert old in found.read_bytes()
        found.write_bytes(found.read_bytes().replace(old, new))
    return spoil


def revoxelled(change: Callable[[np.ndarray], np.ndarray], *paths: Path, z: float = 0) -> Callable[[], None]:
    """NIfTI files with other voxels, perhaps of another shape, on a grid moved by ``z`` mm."""
    def spoil() -> None:
        for path in paths:
            old = read_volume(path)
            write_volume(Volume(change(old.array), old.spacing, (*old.origin[:2], old.origin[2] + z),
                                old.direction), path)
    return spoil


def weights(network="3D U-Net", divisor=16, times=1.0) -> Callable[[], None]:
    """Weights of another network, or NaN."""
    return lambda: safetensors.torch.save_file({
        name: tensor * times if tensor.is_floating_point() else tensor
        for name, tensor in build(network, divisor).state_dict().items()}, WEIGHTS)


def segmentation(old: bytes, new: bytes) -> Callable[[], None]:
    """A scan of the VSD data set with other words in its segmentation's header."""
    return lambda: (vsd(Path("src"), scan()), reworded("src/**/*.seg.nrrd", old, new)())


def mine(change: Callable[[Path, Path], object] = lambda ct, labels: None) -> Callable[[], None]:
    """A CT of one's own and its bone labels, of which one is changed."""
    return lambda: change(*own(Path("mine"), scan()))


WITH = "--model runs/run --out out"
PREDICT, EVALUATE, EXPORT = f"predict scan.mha {WITH}", "evaluate runs/run", "export runs/run box_1"
TRAIN, CHECK = "train '3D U-Net' --profile own", "check data/boxes"
TABLE, TABLES = "tables 4 --profile own", "tables --profile own"
LIKE = "cohort --like data/boxes --out out"
SRC, VSD, PENGWIN = "src --out out", "import vsd src --out out", "import pengwin src --out out"
IMPORT = "import labelmap mine/ct.nii.gz --labels mine/ct_seg.nii.gz --out out"
NO_JSON, NOT_YAML = "json ... not valid JSON ... restore it", ".yaml ... not valid YAML"
NO_NUMBER = "own.yaml ... parameter 'epochs' must be a valid integer"
NOT_A_RUN = "runs/run ... cannot be read or do not fit together ... train the run again"
NO_SACRUM = "mine/ct.nii.gz ... no sacrum in view"
NO_SEGMENT = ".seg.nrrd ... does not say which voxels are Sacrum ... save it again in 3D Slicer"
NO_FOLDER = "is a file ... give a folder"
LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}], " for n in range(1, 10))
CORPUS = {
    **{f"scan: {name}": (lambda f=file, m=make: m(Path(f)), f"predict {file} {WITH}", f"{file} ... {says}")
       for name, (file, make, says) in SCANS.items()},
    **{f"series: {name}": (lambda m=make: m(Path("series")), f"predict series {WITH}", f"series ... {says}")
       for name, (make, says) in SERIES.items()},
    # Cohorts: their lists, and a case of them that training, checking, exporting meet
    "list of no bytes": (holding(LIST, b""), CHECK, f"dataset.{NO_JSON}"),
    "list cut": (holding(LIST, '{"labels": {'), TRAIN, f"dataset.{NO_JSON}"),
    "list nested without end": (holding(LIST, "[" * 10**5), CHECK, f"dataset.{NO_JSON}"),
    "list no text": (holding(LIST, b"\xff\xfe{"), TRAIN, f"dataset.{NO_JSON}"),
    "other images": (changed(LIST, file_ending=".mha"), CHECK, "dataset.json ... .nii.gz ... convert"),
    "no object": (changed(LIST, cases={"box_0": 3}), TABLE, "dataset.json ... 'cases' ... correct"),
    "split of no bytes": (holding(SPLIT, b""), EVALUATE, f"splits.{NO_JSON}"),
    "a list of lists": (holding(LIST, "[]"), CHECK, "dataset.json ... JSON object ... restore it"),
    "a list of cases": (changed(LIST, cases=["box_0"]), TRAIN, "dataset.json ... 'cases' ... correct"),
    "no images": (lambda: shutil.rmtree(BOXES / "imagesTr"), TRAIN, "no images named imagesTr/CASE_0000.nii"),
    "unknown case": (changed(SPLIT, val=["box_9"]), TRAIN, "splits.json ... 'box_9' ... remove the file"),
    "no mask": (MASK_1.unlink, TRAIN, "box_1.nii.gz ... is missing ... add it or remove the image"),
    "case without scan": (changed(LIST, cases={"box_9": {}}), CHECK, "dataset.json ... 'box_9' ... no image"),
    "no image": (SCAN_1.unlink, CHECK, "box_1.nii.gz ... has no image box_1_0000.nii.gz"),
    "image of no bytes": (holding(SCAN_1, b""), TRAIN, f"box_1_0000.nii.gz ... {DAMAGED}"),
    "image cut": (holding(SCAN_1, b"\x1f\x8b\x08"), EXPORT, f"box_1_0000.nii.gz ... {DAMAGED}"),
    "one slice": (revoxelled(lambda a: a[8:9], SCAN_1, MASK_1), EXPORT, "box_1_0000.nii.gz ... at least 2"),
    "moved": (revoxelled(lambda a: a, MASK_1, z=5), TRAIN, "box_1.nii.gz ... another grid ... resample the"),
    **{f"voxels: {says}": (revoxelled(change, path), command, says) for path, change, command, says in [
        (SCAN_1, lambda a: a * 1e300, EXPORT, "box_1_0000.nii.gz ... beyond ... export it again"),
        (SCAN_1, lambda a: a + 1, EVALUATE, "runs/run ... trained on other data ... train on this"),
        (MASK_1, lambda a: a * 0.5, EXPORT, "box_1.nii.gz ... [0.0, 0.5] ... 0 and 1 only"),
        (MASK_1, lambda a: a * np.int16(-1), CHECK, "box_1.nii.gz ... labels [-1, 0] ... 0 and 1 only"),
        (MASK_1, lambda a: np.where(a, np.nan, 0.0), TRAIN, "box_1.nii.gz ... NaN ... export it again"),
        (MASK_1, lambda a: a * 0, TRAIN, "box_1.nii.gz ... is empty ... remove the case or label it")]},
    # Runs
    "weights of no bytes": (holding(WEIGHTS, b""), PREDICT, NOT_A_RUN),
    "weights pickled": (holding(WEIGHTS, pickle.dumps({"a": 1})), EXPORT, NOT_A_RUN),
    "weights cut": (lambda: WEIGHTS.write_bytes(WEIGHTS.read_bytes()[:-9]), EVALUATE, NOT_A_RUN),
    "weights of another network": (weights("MAG-UNet"), PREDICT, f"for MAGUNet ... {NOT_A_RUN}"),
    "weights of another width": (weights(divisor=8), PREDICT, f"size mismatch ... {NOT_A_RUN}"),
    "weights NaN": (weights(times=np.nan), PREDICT, f"NaN ... {NOT_A_RUN}"),
    "record of another network": (changed(RECORD, network="+SE"), EVALUATE, NOT_A_RUN),
    "record of no network": (changed(RECORD, network="V-Net 3"), EXPORT, f"'V-Net 3' ... {NOT_A_RUN}"),
    "record of no bytes": (holding(RECORD, b""), PREDICT, NOT_A_RUN),
    "record a list": (holding(RECORD, "[]"), TABLE, NOT_A_RUN.replace("runs/run", "runs/")),
    **{f"record without {name}": (changed(RECORD, **{name: None}), command, f"{name} ... {NOT_A_RUN}")
       for name, command in {"seed": PREDICT, "data_hash": EVALUATE, "train": EXPORT, "val": EXPORT}.items()},
    "record with a word for its cases": (changed(RECORD, val="all"), EXPORT, NOT_A_RUN),
    "record, pixel": (changed(RECORD, pixel_mm="x"), EVALUATE, "runs/run ... cannot be read"),
    "record, setting misspelt": (changed(RECORD, settings={"epoch": 1}), EVALUATE, "run.json ... 'epochs'?"),
    **{f"{name}: {content}": (holding(RUN / name, content), command, f"{name} ... damaged ... {remedy}")
       for name, content, command, remedy in [
           ("scores.csv", b"", TABLE, "score the run again"),
           ("scores.csv", "a,b\n1,2\n", TABLES, "score the run again"),
           ("scores.csv", b"\xff\xfe\0", EVALUATE, "score the run again"),
           ("scores_by_side.csv", "network,seed,ca", TABLE, "score the run again"),
           ("metrics.jsonl", '{"epoch": 1, "lo', f"{TABLES} --out stored", "train the run again")]},
    "results into a file": (holding("out.csv", b""), f"{TABLES} --out out.csv", f"out.csv ... {NO_FOLDER}"),
    "no scores": (holding("a/runs.json", "{}"), "tables 4 --scores a", "a: holds no results ... --out"),
    "mask of the real CT damaged": (lambda: [text(b"")(Path(path)) for path in (
        "runs/own/sample/ct_sij.nii.gz", "data/sample/sij.nii.gz")], TABLES, f"ct_sij.nii.gz ... {DAMAGED}"),
    # Settings
    "profile a folder": (Path("a.yaml").mkdir, "cohort --profile a.yaml", "a.yaml ... no such settings"),
    **{f"profile: {content[:40]}": (holding("a.yaml", content), f"{command} --profile a.yaml", says)
       for content, command, says in [
           (b"", "train MAG-UNet", "a.yaml ... 'name: value' a line"), (b"\xff\xfe\0", "tables", NOT_YAML),
           ("!!python/object/apply:os.system [a]", "tables", NOT_YAML), ("[" * 10**4, "cohort", NOT_YAML)]},
    **{f"epochs: {value[:50]}": (reworded(OWN, b'"epochs": 6', b'"epochs": ' + value.encode()), TRAIN, says)
       for value, says in {
           "!!python/object/apply:os.system ['touch a']": NOT_YAML, "!!python/name:os.system": NOT_YAML,
           "9" * 5000: NOT_YAML, "2026-99-99": NOT_YAML, "3, ? [a] : 1": NOT_YAML,
           "3, epochs: 9": "own.yaml ... 'epochs' is given twice ... remove one",
           f"3, a0: &a0 [{'lol, ' * 9}], {LAUGHS} b: *a9": "own.yaml ... unknown parameter 'a0'",
           "&a [*a]": NO_NUMBER, f"[&a [[[[[[lol, lol]]]]]], {'*a, ' * 999}]": NO_NUMBER}.items()},
    **{f"settings: {values}": (changed(OWN, **values), command, f"{file} ... {says}")
       for values, command, file, says in [
           ({"epoch": 3}, TRAIN, OWN, "unknown parameter 'epoch' ... did you mean 'epochs'?"),
           ({"dropout": 0.5}, TABLE, OWN, "unknown parameter 'dropout'"),
           ({"epochs": None}, TABLES, OWN, "'epochs' is missing ... copy it from"),
           ({"learning_rate": "fast"}, TRAIN, OWN, "must be a valid number ... got 'fast'"),
           ({"size": 10**9}, TRAIN, OWN, "'size' must be less than or equal to 2048"),
           ({"width_divisor": 33}, TRAIN, OWN, "less than or equal to 32"),
           ({"cohort": "data/none"}, TABLE, "data/none", "missing ... nnU-Net raw layout")]},
    # What other verbs are given
    "damaged example": (holding(BOXES / "imagesTr/box_0_0000.nii.gz", b""), LIKE, f"box_0_0 ... {DAMAGED}"),
    "out not empty": (holding("out/mine.txt", "mine"), LIKE, "out ... is not empty ... give another --out"),
    "phantoms over a file": (holding("out", "mine"), LIKE, "out ... is not empty ... give another --out"),
    "results over a file": (holding("out", "mine"), PREDICT, f"out ... {NO_FOLDER}"),
    "results in the series": (lambda: series(Path("series")), "predict series --model runs/run --out series",
                              "series ... folder of the series ... give another --out"),
    "no labels": (mine(lambda ct, labels: text("")(labels)), IMPORT, f"ct_seg.nii.gz ... {DAMAGED}"),
    "no CT": (mine(lambda ct, labels: text("")(ct)), IMPORT, f"mine/ct.nii.gz ... {DAMAGED}"),
    "no bones": (mine(lambda ct, labels: revoxelled(lambda a: a * 0, labels)()), IMPORT, NO_SACRUM),
    "halves of bones": (mine(lambda ct, labels: revoxelled(lambda a: a * 1.5, labels)()), IMPORT, NO_SACRUM),
    "bones with other labels": (mine(), f"{IMPORT} --sacrum 7", f"{NO_SACRUM} (label 7)"),
    "no hip": (lambda: totalsegmentator(Path("src"), scan(), right=EMPTY), f"import totalsegmentator {SRC}",
               "src ... no right hip in view"),
    "bones on another grid": (lambda: write_on_another_grid(Path("src")), PENGWIN, "src ... none of 1 scans"),
    "segment without a number": (segmentation(b"_LabelValue:=5", b"_LabelValue:=x"), VSD, NO_SEGMENT),
    "segment without a label": (segmentation(b"_LabelValue:=5", b"_Label:=5"), VSD, NO_SEGMENT),
    "segment whose name is no text": (segmentation(b"_Name:=Sacrum", b"\xff_Name:=Sacrum"), VSD, NO_SEGMENT),
    "segment in no layer": (segmentation(b"_Layer:=0", b"_Layer:=7"), VSD, NO_SEGMENT),
    "no spacing": (segmentation(b"space directions", b"directions"), VSD, f".seg.nrrd ... {UNSTATED}"),
    # The command itself
    **{command: (lambda: None, command, says) for command, says in {
        "check nowhere": "nowhere/dataset.json ... missing ... make one with 'magunet cohort'",
        "check scan.mha": f"scan.mha/dataset.{NO_JSON}",
        "export runs/run box_9": "data/boxes ... no case 'box_9' ... it has box_0",
        "evaluate nowhere": "nowhere/run.json ... missing ... as train prints it",
        "predict scan.mha --model scan.mha --out out": "scan.mha/run.json ... missing ... give the folder",
        "predict scan.mha --out out": "data/weights/weights.safetensors ... missing ... --model",
        f"{PREDICT} --formats obj": "'obj' ... there are nifti", f"{PREDICT} --formats ''": "no format ''",
        f"{PREDICT} --formats dicom-seg": "scan.mha ... is no DICOM series, so no DICOM SEG",
        f"{EXPORT} --out out --formats dicom-seg": "cases are no DICOM series ... with 'magunet predict'",
        f"{TRAIN} --recompute sometimes": "--recompute ... auto ... never",
        "train MAGUNet --profile own": "'MAGUNet' ... unknown network ... known: 3D U-Net",
        "train MAG-UNet --seed -1": "--seed ... from 0 to", "": "VERB", "train": "required: network",
        "train MAG-UNet --seed one": "'one' is no whole number from 0 to",
        "cohort --out phantoms": "--out, --cases and --seed are for phantoms like a cohort",
        "cohort --like data/boxes": "give it with --out", "tables 1 --out out": "all tables, not only 1",
        "doctor smoke": "smoke ... unrecognized",
        **{f"tables {words} --scores none": "none ... no results ... --out"
           for words in ("2", "claims", "effects", "--out out")},
        "tables effects --profile smoke": "scores ... no scores yet ... train",
        "tables --profile smoke --out out": "smoke ... scored yet ... make reproduce",
        "tables 5": "table ... invalid choice: '5'",
        "tables 1 --format html": "--format ... invalid choice: 'html'",
        "tables 1 all": "all ... unrecognized arguments ... --help",
        "cohort --profile smok": "smok.yaml ... no such settings ... smoke",
        "cohort --like nowhere --out out": "nowhere/dataset.json ... missing",
        LIKE: "box_0_0000.nii.gz ... hardly any soft tissue",
        f"{LIKE} --cases 0": "--cases ... from 1 to 99999",
        f"{IMPORT} --sacrum os": "--sacrum ... invalid int value: 'os'",
        "sample": "sample CT ... could not be downloaded ... check the network",
        "predcit scan.mha": "'predcit' ... invalid choice ... --help"}.items()},
}
"""What is wrong -> what spoils something in the working folder, a command, and what its message says."""


def test_the_corpus_is_large_and_has_every_verb():
    begins = {command.partition(" ")[0] for _, command, _ in CORPUS.values()}
    assert len(CORPUS) >= 200 and set(cli.parser()._subparsers._group_actions[0].choices) <= begins


@pytest.fixture(scope="session")
def world(run, tmp_path_factory):
    """A compendium with a cohort of boxes, a finished and scored run, and a sound scan."""
    root = tmp_path_factory.mktemp("world") / "root"
    shutil.copytree(run.parents[1], root)
    shutil.copytree(ROOT / "papermill_params", root / "papermill_params", dirs_exist_ok=True)
    settings = TINY.as_dict() | {"cohort": str(BOXES), "profile": "own"}
    write_json(root / OWN, settings)
    (root / RUN).symlink_to(run.name)
    write_json(root / RECORD, json.loads((root / RECORD).read_text()) | {"settings": settings})
    sound(root / "scan.mha")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        assert cli.main(["evaluate", str(RUN)]) == 0
    return root


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """A copy of that compendium to work in, on a machine without a network."""
    shutil.copytree(world, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "place"


def files(root: Path) -> dict[str, bytes | None]:
    """Path -> bytes, None for a folder that is not empty: a run's is made before its cases are prepared."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*") if path.is_file() or any(path.iterdir())}


@pytest.mark.parametrize("bad", CORPUS)
def test_it_is_one_line_and_leaves_nothing(bad, place, capfd):
    spoil, command, says = CORPUS[bad]
    spoil()
    before = files(place)
    capfd.readouterr()
    status, out, error = call(capfd, *shlex.split(command))
    lines = [line for line in error.splitlines() if not PROGRESS.fullmatch(line)]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("magunet") and len(lines[0]) < 1000, error
    # check's lines about each file are its result
    found = lines[0] if "listed above" not in error else out
    for words in says.split(" ... "):
        assert words in found, f"{words!r} not in {found!r}"
    assert "Traceback" not in out + error and "\0" not in error
    assert files(place) == before


# What only looks odd ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WORKS)
def test_what_only_looks_odd_is_segmented(name, place, capfd):
    path, make = WORKS[name]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    make(Path(path))
    words = ("predict", path, "--model", RUN, "--out", "Ergebnis 骶", "--formats", "nifti")
    status, out, error = call(capfd, *words)
    assert status == 0, error
    read, mask = read_volume(path), read_volume(out.strip())
    assert same_geometry(read, mask)
    if name not in ("metal", "padding", "NIfTI without qform and sform"):
        assert np.array_equal(read.array, SCAN.array) and same_geometry(read, SCAN)
