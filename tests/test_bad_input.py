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
from typing import NamedTuple

import nbformat
import numpy as np
import pytest
import safetensors.torch
import torch
from bad_files import (
    SCAN,
    SCANS,
    SERIES,
    UNSTATED,
    compressed,
    deflated,
    packed,
    rle,
    series,
    sliced,
    sound,
    tags,
    text,
    voxels,
)
from boxes import TINY
from conftest import ROOT, refused
from scans import write_scan
from test_check import pelvis
from test_sources import EMPTY, own, pengwin, scan, totalsegmentator, vsd

from compendium import cli
from magunet.base import profiles
from magunet.base.provenance import write_json
from magunet.predict import Model
from magunet.studies import build
from magunet.volume import Volume, read_volume, same_geometry, write_volume

OWN = "papermill_params/own.yaml"
BOXES = Path("data/boxes")
SCAN_1, MASK_1 = BOXES / "imagesTr/box_1_0000.nii.gz", BOXES / "labelsTr/box_1.nii.gz"
PROGRESS = re.compile(r"\w+ \d+/\d+")


class Bad(NamedTuple):
    """Spoil something in the working folder, run a command: its message names ``names`` and holds
    ``says``."""

    name: str
    spoil: Callable[[], object]
    command: str
    names: str
    says: list[str]


def nothing() -> None:
    """The command itself is wrong."""


def changed(path: str | Path, **values) -> Callable[[], None]:
    """Other values in a JSON object, or in the settings (JSON is YAML); None takes one out."""
    def spoil() -> None:
        content = json.loads(Path(path).read_text()) | values
        Path(path).write_text(json.dumps({k: v
                                          for k, v in content.items() if v is not None or k not in values}))
    return spoil


def holding(path: str | Path, content: bytes | str) -> Callable[[], None]:
    return lambda: text(content)(Path(path))


def revoxelled(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], None]:
    def spoil() -> None:
        volume = read_volume(path)
        write_scan(volume.with_array(change(volume.array)), path)
    return spoil


def moved() -> None:
    mask = read_volume(MASK_1)
    write_volume(Volume(mask.array, mask.spacing, (0.0, 0.0, 5.0)), MASK_1)


def weights(network: str, divisor: int) -> Callable[[], None]:
    return lambda: safetensors.torch.save_file(build(network, divisor).state_dict(),
                                               RUN / "weights.safetensors")


def poisoned_weights() -> None:
    path = RUN / "weights.safetensors"
    state = safetensors.torch.load(path.read_bytes())
    safetensors.torch.save_file({k: v * torch.nan if v.is_floating_point() else v for k, v in state.items()},
                                path)


def segmentation(old: bytes, new: bytes) -> Callable[[], None]:
    """A scan of the VSD data set with other words in its segmentation's header."""
    def spoil() -> None:
        vsd(Path("src"), scan())
        path = next(Path("src").rglob("*.seg.nrrd"))
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))
    return spoil


def mine(change: Callable[[Path, Path], object]) -> Callable[[], None]:
    """A CT of one's own and its bone labels, of which one is changed."""
    return lambda: change(*own(Path("mine"), scan()))


RUN = Path("runs/run")
"""A link to the run's folder, whose name has a hash."""
PREDICT, IMPORT = ("predict {} --model runs/run --out out",
                   "import labelmap mine/ct.nii.gz --labels mine/ct_seg.nii.gz --out out")
TRAIN, CHECK = "train '3D U-Net' --profile own", "check data/boxes"
STUDY, REPORT, EVALUATE, EXPORT = ("tables 4 --profile own", "tables --profile own", "evaluate runs/run",
                                   "export runs/run box_1")
NOT_A_RUN = ["cannot be read or do not fit together", "train the run again"]

CORPUS = [
    *(Bad(f"scan: {name}", lambda f=file, m=make: m(Path(f)), PREDICT.format(file), file, says)
      for name, (file, make, says) in SCANS.items()),
    *(Bad(f"series: {name}", lambda m=make: m(Path("series")), PREDICT.format("series"), "series", says)
      for name, (make, says) in SERIES.items()),

    # Cohorts: their lists, and a case of them that training, checking, exporting meet
    Bad("no cohort", nothing, "check nowhere", "nowhere/dataset.json",
        ["missing", "make one with 'magunet cohort'"]),
    Bad("a file for a cohort", nothing, "check scan.mha", "scan.mha/dataset.json",
        ["not valid JSON", "restore it"]),
    Bad("list of no bytes", holding(BOXES / "dataset.json", b""), CHECK, "dataset.json",
        ["not valid JSON", "restore it"]),
    Bad("list cut", holding(BOXES / "dataset.json", '{"labels": {'), TRAIN, "dataset.json",
        ["not valid JSON", "restore it"]),
    Bad("list nested without end", holding(BOXES / "dataset.json", "[" * 10**5), CHECK, "dataset.json",
        ["not valid JSON", "restore"]),
    Bad("list no text", holding(BOXES / "dataset.json", b"\xff\xfe{"), TRAIN, "dataset.json",
        ["not valid JSON", "restore it"]),
    Bad("other images", changed(BOXES / "dataset.json", file_ending=".mha"), CHECK, "dataset.json",
        [".nii.gz", "convert"]),
    Bad("case without an object", changed(BOXES / "dataset.json", cases={"box_0": 3}), STUDY, "dataset.json",
        ["'cases'", "correct"]),
    Bad("split of no bytes", holding(BOXES / "splits.json", b""), EVALUATE, "splits.json",
        ["not valid JSON", "restore it"]),
    Bad("split of an unknown case", changed(BOXES / "splits.json", val=["box_9"]), TRAIN, "splits.json",
        ["'box_9'", "remove the file"]),
    Bad("split of nothing", changed(BOXES / "splits.json", val=[]), TRAIN, "splits.json",
        ["two lists", "remove it"]),
    Bad("split of numbers", changed(BOXES / "splits.json", val=[3]), CHECK, "splits.json",
        ["name of a case", "remove the file"]),
    Bad("mask missing", lambda: MASK_1.unlink(), TRAIN, "box_1.nii.gz",
        ["is missing", "add it or remove the image"]),
    Bad("image missing", lambda: SCAN_1.unlink(), CHECK, "box_1.nii.gz", ["has no image box_1_0000.nii.gz"]),
    Bad("image of no bytes", holding(SCAN_1, b""), TRAIN, "box_1_0000.nii.gz",
        ["damaged", "copy or export it again"]),
    Bad("image cut", holding(SCAN_1, b"\x1f\x8b\x08"), EXPORT, "box_1_0000.nii.gz",
        ["damaged", "copy or export it again"]),
    Bad("image without HU", revoxelled(SCAN_1, lambda a: a + 1024), TRAIN, "box_1_0000.nii.gz",
        ["not HU", "Export the CT again"]),
    Bad("image out of range", revoxelled(SCAN_1, lambda a: a * 1e300), EXPORT, "box_1_0000.nii.gz",
        ["beyond", "export it again"]),
    Bad("mask on another grid", moved, TRAIN, "box_1.nii.gz", ["another grid", "resample the mask"]),
    Bad("mask with another label", revoxelled(MASK_1, lambda a: a * 2), TRAIN, "box_1.nii.gz",
        ["labels [0, 2]", "0 and 1 only"]),
    Bad("mask of fractions", revoxelled(MASK_1, lambda a: a * 0.5), EXPORT, "box_1.nii.gz",
        ["[0.0, 0.5]", "0 and 1 only"]),
    Bad("mask below 0", revoxelled(MASK_1, lambda a: a * np.int16(-1)), CHECK, "box_1.nii.gz",
        ["labels [-1, 0]", "0 and 1 only"]),
    Bad("mask NaN", revoxelled(MASK_1, lambda a: np.where(a, np.nan, 0.0)), TRAIN, "box_1.nii.gz",
        ["NaN", "export it again"]),
    Bad("mask empty", revoxelled(MASK_1, lambda a: a * 0), TRAIN, "box_1.nii.gz",
        ["is empty", "remove the case or label it"]),
    Bad("mask full", revoxelled(MASK_1, lambda a: a * 0 + 1), CHECK, "box_1.nii.gz",
        ["fills the volume", "remove the case"]),
    Bad("images of one slice", lambda: [write_volume(Volume(v[8:9], (3.0, 2.0, 2.0)), path)
                                        for path in (SCAN_1, MASK_1)
                                        for v in [read_volume(path).array]], EXPORT, "box_1_0000.nii.gz",
        ["at least 2 of each"]),
    Bad("data of another run", revoxelled(SCAN_1, lambda a: a + 1), EVALUATE, "runs/run",
        ["trained on other data", "train on this"]),
    Bad("case unknown", nothing, "export runs/run box_9", "data/boxes", ["no case 'box_9'", "it has box_0"]),

    # Runs
    Bad("no run", nothing, "evaluate nowhere", "nowhere/run.json", ["missing", "as train prints it"]),
    Bad("a file for a run", nothing, "predict scan.mha --model scan.mha --out out", "scan.mha/run.json",
        ["missing", "give the folder"]),
    Bad("weights of no bytes", holding(RUN / "weights.safetensors", b""), PREDICT.format("scan.mha"),
        "runs/run", NOT_A_RUN),
    Bad("weights pickled", holding(RUN / "weights.safetensors", pickle.dumps({"a": 1})), EXPORT, "runs/run",
        NOT_A_RUN),
    Bad("weights cut", lambda: holding(RUN / "weights.safetensors",
                                       (RUN / "weights.safetensors").read_bytes()[:-9])(), EVALUATE,
        "runs/run", NOT_A_RUN),
    Bad("weights of another network", weights("MAG-UNet", 16), PREDICT.format("scan.mha"), "runs/run",
        ["for MAGUNet", *NOT_A_RUN]),
    Bad("weights of another width", weights("3D U-Net", 8), PREDICT.format("scan.mha"), "runs/run",
        ["size mismatch", *NOT_A_RUN]),
    Bad("weights NaN", poisoned_weights, PREDICT.format("scan.mha"), "runs/run", ["NaN", *NOT_A_RUN]),
    Bad("record of another network", changed(RUN / "run.json", network="+SE"), EVALUATE, "runs/run",
        NOT_A_RUN),
    Bad("record of an unknown network", changed(RUN / "run.json", network="V-Net 3"), EXPORT, "runs/run",
        ["'V-Net 3'", *NOT_A_RUN]),
    Bad("record of no bytes", holding(RUN / "run.json", b""), PREDICT.format("scan.mha"), "runs/run",
        NOT_A_RUN),
    Bad("record a list", holding(RUN / "run.json", "[]"), STUDY, "runs/", NOT_A_RUN),
    *(Bad(f"record without {name}", changed(RUN / "run.json", **{name: None}), command, "runs/run",
          [name, *NOT_A_RUN])
      for name, command in {"seed": PREDICT.format("scan.mha"), "data_hash": EVALUATE, "train": EXPORT,
                            "val": EXPORT}.items()),
    Bad("record with a word for its cases", changed(RUN / "run.json", val="all"), EXPORT, "runs/run",
        NOT_A_RUN),
    Bad("record with a misspelt setting", changed(RUN / "run.json", settings={"epoch": 1}), EVALUATE,
        "run.json", ["'epochs'?"]),
    Bad("recomputing sometimes", nothing, f"{TRAIN} --recompute sometimes", "--recompute", ["auto", "never"]),
    Bad("doctor of something", nothing, "doctor smoke", "smoke", ["unrecognized"]),
    Bad("network unknown", nothing, "train MAGUNet --profile own", "'MAGUNet'",
        ["unknown network", "known: 3D U-Net"]),
    *(Bad(f"{file} {name}", holding(RUN / file, content), command, file, ["damaged", "score the run again"])
      for file, name, content, command in [
          ("scores.csv", "of no bytes", b"", STUDY), ("scores.csv", "of other columns", "a,b\n1,2\n", REPORT),
          ("scores.csv", "no text", b"\xff\xfe\0", EVALUATE),
          ("scores_by_side.csv", "cut", "network,seed,ca", STUDY)]),
    Bad("learning curve cut", holding(RUN / "metrics.jsonl", '{"epoch": 1, "lo'),
        "tables --profile own --out stored",
        "metrics.jsonl", ["damaged", "train the run again"]),
    Bad("results into a file", holding("out.csv", b""), "tables --profile own --out out.csv", "out.csv",
        ["is a file", "give a folder"]),
    *(Bad(f"stored results missing for {words}", nothing, f"tables {words} --scores none", "none",
          ["no results", "--out"])
      for words in ("2", "claims", "effects", "--out out")),
    Bad("effects before anything is scored", nothing, "tables effects --profile smoke", "scores",
        ["no scores yet", "train"]),
    Bad("tables before anything is scored", nothing, "tables --profile smoke --out out", "smoke",
        ["scored yet", "make reproduce"]),
    Bad("no weights to take", nothing, "predict scan.mha --out out", "data/weights/weights.safetensors",
        ["missing", "--model"]),
    Bad("stored results of nothing", holding("stored/runs.json", "{}"), "tables 4 --scores stored", "stored",
        ["no results", "'magunet tables --out'"]),
    Bad("mask of the real CT damaged", lambda: [holding(path, b"")() for path in
                                                ("runs/own/sample/ct_sij.nii.gz", "data/sample/sij.nii.gz")],
        REPORT, "ct_sij.nii.gz", ["damaged", "copy or export it again"]),

    # Settings
    Bad("profile unknown", nothing, "cohort --profile smok", "smok.yaml", ["no such settings", "smoke"]),
    Bad("profile a folder", lambda: Path("a.yaml").mkdir(), "cohort --profile a.yaml", "a.yaml",
        ["no such settings"]),
    Bad("profile of no bytes", holding("a.yaml", b""), "train MAG-UNet --profile a.yaml", "a.yaml",
        ["'name: value' a line"]),
    Bad("profile no text", holding("a.yaml", b"\xff\xfe\0"), "tables --profile a.yaml", "a.yaml",
        ["not valid YAML"]),
    Bad("profile of code", holding("a.yaml", "!!python/object/apply:os.system [exit]"),
        "tables 1 --profile a.yaml", "a.yaml",
        ["not valid"]),
    Bad("profile with no date", holding("a.yaml", "profile: 2020-99-99"), "cohort --profile a.yaml", "a.yaml",
        ["not valid YAML"]),
    Bad("profile nested without end", holding("a.yaml", "[" * 10**4), "cohort --profile a.yaml", "a.yaml",
        ["not valid YAML"]),
    Bad("setting twice", lambda: Path(OWN).write_text(Path(OWN).read_text().rstrip("}\n") + ', "epochs": 9}'),
        TRAIN, OWN,
        ["'epochs' is given twice", "remove one"]),
    Bad("setting misspelt", changed(OWN, epoch=3), TRAIN, OWN,
        ["unknown parameter 'epoch'", "did you mean 'epochs'?"]),
    Bad("setting unknown", changed(OWN, dropout=0.5), STUDY, OWN, ["unknown parameter 'dropout'"]),
    Bad("setting absent", changed(OWN, epochs=None), REPORT, OWN, ["'epochs' is missing", "copy it from"]),
    Bad("setting of the wrong type", changed(OWN, learning_rate="fast"), TRAIN, OWN,
        ["must be a valid number", "got 'fast'"]),
    Bad("setting out of range", changed(OWN, size=10**9), TRAIN, OWN,
        ["'size' must be less than or equal to 2048"]),
    Bad("width that leaves no channel", changed(OWN, width_divisor=33), TRAIN, OWN,
        ["less than or equal to 32"]),
    Bad("cohort of the settings missing", changed(OWN, cohort="data/none"), STUDY, "data/none",
        ["missing", "nnU-Net raw layout"]),

    # What other verbs are given
    Bad("phantoms like no cohort", nothing, "cohort --like nowhere --out out", "nowhere/dataset.json",
        ["missing"]),
    Bad("phantoms like no patient", nothing, "cohort --like data/boxes --out out", "box_0_0000.nii.gz",
        ["hardly any soft tissue"]),
    Bad("phantoms like a damaged scan", holding(BOXES / "imagesTr/box_0_0000.nii.gz", b""),
        "cohort --like data/boxes --out out",
        "box_0_0000.nii.gz", ["damaged", "copy or export it again"]),
    Bad("phantoms over something else", holding("out/mine.txt", "mine"), "cohort --like data/boxes --out out",
        "out",
        ["is not empty", "give another --out"]),
    Bad("no phantoms", nothing, "cohort --like data/boxes --out out --cases 0", "--cases",
        ["from 1 to 99999"]),
    Bad("a seed below 0", nothing, "train MAG-UNet --seed -1", "--seed", ["from 0 to"]),
    Bad("results over a file", holding("out", "mine"), PREDICT.format("scan.mha"), "out",
        ["is a file", "give a folder"]),
    Bad("results in the series", lambda: series(Path("series")),
        "predict series --model runs/run --out series", "series",
        ["folder of the series", "give another --out"]),
    Bad("format unknown", nothing, PREDICT.format("scan.mha") + " --formats obj", "'obj'",
        ["there are nifti"]),
    Bad("data set missing", nothing, "import vsd nowhere --out out", "nowhere",
        ["no such folder", "unpack the data set"]),
    Bad("data set of something else", lambda: sound(Path("src/a.nii.gz")), "import pengwin src --out out",
        "src",
        ["as it is published"]),
    Bad("bone labels of no bytes", mine(lambda ct, labels: labels.write_bytes(b"")), IMPORT, "ct_seg.nii.gz",
        ["damaged", "export it"]),
    Bad("bone CT of no bytes", mine(lambda ct, labels: ct.write_bytes(b"")), IMPORT, "mine/ct.nii.gz",
        ["damaged", "export it again"]),
    Bad("bones with other labels", mine(lambda ct, labels: None), IMPORT + " --sacrum 7", "mine/ct.nii.gz",
        ["no sacrum in view (label 7)"]),
    Bad("bones of fractions", mine(lambda ct, labels: revoxelled(labels, lambda a: a * 1.5)()), IMPORT,
        "mine/ct.nii.gz",
        ["no sacrum"]),
    Bad("no bones", mine(lambda ct, labels: revoxelled(labels, lambda a: a * 0)()), IMPORT, "mine/ct.nii.gz",
        ["no sacrum in view"]),
    Bad("one joint in a data set of bones", lambda: totalsegmentator(Path("src"), scan(), right=EMPTY),
        "import totalsegmentator src --out out", "src", ["no right hip in view"]),
    Bad("bones on another grid", lambda: (pengwin(Path("src"), scan()),
                                          write_scan(scan(shift=(1, 0, 0)), next(
        Path("src").glob("*labels/*.mha")))), "import pengwin src --out out", "src", ["none of 1 scans"]),
    Bad("label no number", nothing, IMPORT + " --sacrum os", "--sacrum", ["invalid int value: 'os'"]),
    Bad("segment without a number", segmentation(b"_LabelValue:=5", b"_LabelValue:=x"),
        "import vsd src --out out", ".seg.nrrd",
        ["does not say which voxels are Sacrum", "save it again in 3D Slicer"]),
    Bad("segment without a label", segmentation(b"_LabelValue:=5", b"_Label:=5"), "import vsd src --out out",
        ".seg.nrrd",
        ["does not say which voxels are Sacrum", "save it again"]),
    Bad("segment whose name is no text", segmentation(b"_Name:=Sacrum", b"\xff_Name:=Sacrum"),
        "import vsd src --out out",
        ".seg.nrrd", ["does not say which voxels are Sacrum", "save it again"]),
    Bad("segment in no layer", segmentation(b"_Layer:=0", b"_Layer:=7"), "import vsd src --out out",
        ".seg.nrrd",
        ["does not say which voxels are Sacrum", "save it again"]),
    Bad("segments without a spacing", segmentation(b"space directions", b"directions"),
        "import vsd src --out out", ".seg.nrrd",
        UNSTATED),
    Bad("list of an import damaged", lambda: (own(Path("mine"), scan()),
                                              holding("out/import.json", "[" * 10**5)()), IMPORT,
        "out/import.json", ["damaged", "import again"]),
    Bad("table that is none", nothing, "tables 5", "table", ["invalid choice: '5'"]),
    Bad("table format unknown", nothing, "tables 1 --format html", "--format", ["invalid choice: 'html'"]),
    Bad("word too many for tables", nothing, "tables 1 all", "all", ["unrecognized arguments", "--help"]),
    Bad("sample without a network", nothing, "sample", "sample CT",
        ["could not be downloaded", "check the network"]),
    Bad("verb of earlier versions", nothing, "study 1", "study",
        ["no verb any more", "magunet tables NUMBER"]),
    Bad("verb unknown", nothing, "predcit scan.mha", "'predcit'", ["invalid choice", "--help"]),
]


def test_the_corpus_is_large_and_has_every_verb():
    verbs = set(cli.parser()._subparsers._group_actions[0].choices)
    assert len(CORPUS) >= 80 and len({bad.name for bad in CORPUS}) == len(CORPUS)
    assert verbs - {bad.command.split()[0] for bad in CORPUS} == set()


@pytest.fixture(scope="session")
def world(run, tmp_path_factory):
    """A compendium with a cohort of boxes, a finished and scored run, and a sound scan."""
    root = tmp_path_factory.mktemp("world") / "root"
    shutil.copytree(run.parents[1], root)
    shutil.copytree(ROOT / "papermill_params", root / "papermill_params", dirs_exist_ok=True)
    settings = TINY.as_dict() | {"cohort": str(BOXES), "profile": "own"}
    write_json(root / OWN, settings)
    (root / RUN).symlink_to(run.name)
    write_json(root / RUN / "run.json", json.loads((root / RUN / "run.json").read_text())
               | {"settings": settings})
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


def call(capfd, command: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one command, also of the C libraries in it."""
    capfd.readouterr()
    try:
        status = cli.main(shlex.split(command))
    except SystemExit as stop:
        status = stop.code
    return status, *capfd.readouterr()


def files(root: Path) -> dict[str, bytes | None]:
    """Path -> bytes, None for a folder. Empty folders do not count: a run's is made before its cases are
    prepared."""
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*")
            if path.is_file() or any(path.iterdir())}


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
def test_it_is_one_line_and_leaves_nothing(bad, place, capfd):
    bad.spoil()
    before = files(place)
    status, out, error = call(capfd, bad.command)
    lines = [line for line in error.splitlines() if not PROGRESS.fullmatch(line)]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("magunet"), error
    # check's lines about each file are its result
    found = lines[0] if "listed above" not in error else out
    for word in (bad.names, *bad.says):
        assert word in found, f"{word!r} not in {found!r}"
    assert "Traceback" not in out + error and "\0" not in error
    assert files(place) == before


# Settings in notebooks -----------------------------------------------------------------------------------

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OUT_OF_RANGE = {name: [-1, 10**7] for name in (
    "cases", "scan_matrix", "target_mm", "depth", "size", "slice_mm", "margin_mm", "epochs",
    "samples_per_case", "learning_rate",
    "weight_decay")}
OUT_OF_RANGE |= {"cohort_seed": [-1, 2**63], "scan_slices": [[15, 40], [40, 36], [36, 10**5]],
                 "seeds": [[], [-1], [2**63]], "width_divisor": [0, -1, 33],
                 "schedule": ["step", ""], "augmentation": ["Strong", ""], "precision": ["float16"],
                 "profile": ["", "..", "a/b", "../../up", "a\\b"], "cohort": ["", " "]}
OUT_OF_TYPE = {"profile": 3, "cohort": 3, "scan_slices": "36", "seeds": 0, "schedule": 1, "augmentation": 2,
               "precision": True,
               "slice_mm": "own"}
PARAMETERS = [(name, value) for name in OUT_OF_RANGE
              for value in (*OUT_OF_RANGE[name], OUT_OF_TYPE.get(name, [1.5]))]


def test_every_parameter_has_a_wrong_value():
    assert {name for name, _ in PARAMETERS} == set(profiles.load("smoke").as_dict())


@pytest.mark.parametrize("name, value", PARAMETERS)
def test_a_notebook_names_the_parameter_that_is_wrong(name, value):
    refused(lambda: parameters(f"# Parameters\n{name} = {value!r}"), "notebook parameters", name, "must",
            "got")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", sorted({"learning_rte", "seed", "Epochs", "network"}))
def test_every_notebook_refuses_a_parameter_it_does_not_know(path, name):
    refused(lambda: parameters(f"# Parameters\n{name} = 1", path), "notebook parameters",
            f"unknown parameter {name!r}")


def parameters(injected: str, path: Path = NOTEBOOKS[0]) -> profiles.Settings:
    """What a notebook's parameters cell gives together with one that papermill puts behind it."""
    cell = next(c.source for c in nbformat.read(path, as_version=4).cells
                if "parameters" in c.metadata.get("tags", []))
    namespace = {"In": [cell, injected]}
    for source in namespace["In"].copy():
        exec(source, namespace)
    return profiles.from_notebook(namespace)


# What only looks odd
# -----------------------------------------------------------------------------------------

def metal(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[2:4, 8:11, 4:7] = 30000
    return array


WORKS = {
    "spaces and letters of all kinds": ("Größe 骶髂/Fall ä 1.nii.gz", sound),
    "series, spaces and letters of all kinds": ("Größe 骶髂/Fall ä", series),
    "metal": ("a.nii.gz", voxels(metal)),
    "padding": ("a.nrrd", voxels(lambda a: np.where(a < -900, -32768, a))),
    "floats": ("a.mha", voxels(lambda a: a.astype(np.float64))),
    "NIfTI that says no slope": ("a.nii", packed((112, "2f", np.nan, np.nan))),
    "NIfTI without qform and sform": ("a.nii", packed((252, "2h", 0, 0))),
    "HU without rescale tags": ("series", tags(RescaleIntercept=None, RescaleSlope=None)),
    "RLE": ("series", sliced(rle)), "deflated": ("series", sliced(deflated)),
    "lossless JPEG": ("series", compressed("JPEG")), "lossless JPEG 2000": ("series", compressed("JPEG2000")),
    "without preambles": ("series", lambda folder: series(folder, preamble=False)),
    "a list beside the slices": ("series", lambda folder: text("6 slices")(series(folder) / "README.txt")),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_only_looks_odd_is_segmented(name, place, capfd):
    path, make = WORKS[name]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    make(Path(path))
    status, out, error = call(capfd, f"predict '{path}' --model runs/run --out 'Ergebnis 骶' --formats nifti")
    assert status == 0, error
    read, mask = read_volume(path), read_volume(out.strip())
    assert same_geometry(read, mask)
    if name not in ("metal", "padding", "NIfTI without qform and sform"):
        assert np.array_equal(read.array, SCAN.array) and same_geometry(read, SCAN)


def half(mask: np.ndarray) -> np.ndarray:
    """One joint of two, that on the left of the array."""
    return mask * (np.arange(mask.shape[2]) < mask.shape[2] // 2)


def test_one_joint_alone_is_segmented(place, capfd, monkeypatch):
    one = np.zeros(SCAN.array.shape, np.uint8)
    one[2:4, 8:12, 2:6] = 1
    monkeypatch.setattr(Model, "segment", lambda self, scan: scan.with_array(one))
    status, out, error = call(capfd, "predict scan.mha --model runs/run --out out --formats nifti,stl")
    assert status == 0 and [Path(line).name for line in out.split()] == ["scan_sij.nii.gz",
                                                                         "scan_sij_right.stl"]
    assert "scan_sij_left.stl is not written: the mask has no left sacroiliac joint" in error


@pytest.mark.parametrize("folder", ["one joint", "Kohorte 骶髂 ä"])
def test_a_cohort_of_single_joints_with_metal_is_sound(folder, place, capfd):
    for seed in range(3):
        image, mask = pelvis(seed)
        write_volume(image.with_array(metal(image.array)), Path(folder) / f"imagesTr/p{seed}_0000.nii.gz")
        write_volume(mask.with_array(half(mask.array)), Path(folder) / f"labelsTr/p{seed}.nii.gz")
    write_json(Path(folder) / "dataset.json", {"labels": {"background": 0, "SIJ": 1}})
    status, out, error = call(capfd, f"check '{folder}'")
    assert status == 0, out + error
