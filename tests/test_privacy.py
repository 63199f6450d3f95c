"""What headers tell of a patient reaches no file, no name and no line that magunet writes, whichever tag it
stands in; nor an output of notebook 10."""

# ruff: noqa: F811

import ast
import base64
import functools
import gzip
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bad_files import not_rescaled, rewrite
from boxes import TINY, write_cohort
from conftest import ROOT
from dicom_series import PATIENT, STANDARD, planted, read, write_series
from identifiers import TAGS, TEXT, WORDS, found, found_in, mark_file, mark_series
from joint_object import DIRECTIONS, both, grid
from matplotlib.figure import Figure
from nbclient import NotebookClient
from printed import words as words_of
from scans import write_scan
from test_cli import call
from test_exports import ALL, finds_the_object  # noqa: F401
from test_sources import LEFT, RIGHT, SACRUM, labelled
from test_sources import scan as ct_of_boxes

from magunet.base import provenance
from magunet.volume import Volume, write_volume

FILES = {".nii.gz": 5, ".nrrd": 3, ".mha": 2}
"""Formats, and how many marks a header of theirs has room for."""
WITHOUT_SEG = ALL.replace("dicom-seg,", "")
GIVEAWAYS = [*WORDS, *planted(), b"Geheimnis", PATIENT.encode()]
"""Also other words of the series' headers, and its folder's name."""


@pytest.fixture(autouse=True)
def code_hashed_once(monkeypatch):
    """Only to save time."""
    monkeypatch.setattr(provenance, "code_hash", functools.cache(provenance.code_hash))


@pytest.fixture(scope="module")
def scan():
    """The object on a grid coarse enough for headers of thousands of tags."""
    on = grid(DIRECTIONS["oblique"], (9, 24, 28), (13.0, 5.0, 4.4))
    return Volume(np.where(both(on).array != 0, 700, -1000).astype(np.int16), on.spacing, on.origin,
                  on.direction)


def series_of(scan, folder, **options):
    return write_series(folder, scan.array, scan.spacing, scan.origin, scan.direction, **options)


@pytest.fixture(scope="module")
def series(scan, tmp_path_factory):
    """A DICOM series with a mark in every text tag, in a folder that is named after the patient."""
    folder = series_of(scan, tmp_path_factory.mktemp("archive") / PATIENT)
    mark_series(folder)
    return folder


def own_words(folder):
    """What the standard wants of the study, and the slices' UIDs: only a DICOM SEG may hold them."""
    headers = map(read, folder.iterdir())
    return [*planted(STANDARD), *{str(header[name].value).encode() for header in headers
                                  for name in header.dir("UID") if "Class" not in name}]


def test_the_search_finds_every_mark_wherever_it_stands(series, scan, tmp_path):
    """In the series itself, compressed, in a name, and at the head of other formats: the tests below are not
    blind."""
    content = min(series.iterdir()).read_bytes()
    assert len(TAGS) > 2400 and sum(map(content.count, WORDS)) >= len(TAGS)
    for form in (content, gzip.compress(content), b"NRRD0005\n\n" + gzip.compress(content),
                 b"\x89PNG" + zlib.compress(content)):
        assert found(form, [*WORDS, b"Geheimnis"]) == [*WORDS, b"Geheimnis"]
    (tmp_path / TEXT).touch()
    np.savez_compressed(tmp_path / "a.npz", text=TEXT.encode())
    assert found_in(tmp_path).keys() == {TEXT, "a.npz"}
    for ending, count in FILES.items():
        path = tmp_path / f"scan{ending}"
        write_scan(scan, path)
        mark_file(path)
        content = path.read_bytes()
        content = gzip.decompress(content) if ending == ".nii.gz" else content
        assert content.count(TEXT.encode()) == count and found(path.read_bytes()), ending


@pytest.mark.parametrize("anonymise", [False, True])
def test_a_series_is_segmented_and_nothing_of_its_headers_is_written(
        anonymise, series, run, finds_the_object, tmp_path, capfd):
    status, printed, said = call(capfd, "predict", series, "--model", run, "--out", tmp_path,
                                 "--formats", ALL, *["--anonymise"] * anonymise)
    assert status == 0, said
    assert len(printed.splitlines()) == len(list(tmp_path.iterdir())) == 7
    assert not found(printed + said.replace(str(series), ""), WORDS + own_words(series))
    assert found_in(tmp_path) == {}
    keeping = found_in(tmp_path, own_words(series))
    assert [Path(name).suffix for name in keeping] == [".dcm"] * (not anonymise)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-400])


def without_spacing(header):
    del header.PixelSpacing


def no_numbers(header):
    header.ImageOrientationPatient = [0] * 6


FAULTS = {"a slice is missing": lambda slices: slices[4].unlink(),
          "a slice is cut off": lambda slices: cut_off(slices[0]),
          "a tag is missing": lambda slices: rewrite(slices[0], without_spacing),
          "a tag is no number": lambda slices: [rewrite(path, no_numbers) for path in slices],
          "values are not HU": lambda slices: [rewrite(path, not_rescaled) for path in slices]}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_series_is_told_without_what_its_headers_hold(fault, series, run, tmp_path, capfd):
    folder = shutil.copytree(series, tmp_path / "in")
    FAULTS[fault](sorted(folder.iterdir()))
    status, printed, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 2 and len(said.splitlines()) == 1
    assert not found(printed + said) and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("always")
def test_odd_values_of_a_header_are_not_quoted(scan, run, finds_the_object, tmp_path, capfd, recwarn):
    """Values that the standard does not allow, as scanners write them; pydicom warns of them, and quotes."""
    odd = {"PatientName": f"{'x' * 70}Musterfrau", "PatientSex": "Musterfrau, weiblich",
           **dict.fromkeys(("PatientBirthDate", "StudyDate", "StudyTime"), "Musterfrau"),
           **dict.fromkeys(("StudyID", "AccessionNumber"), "Musterfrau" * 3),
           **dict.fromkeys(("PatientID", "ReferringPhysicianName"), "Musterfrau" * 9)}
    folder = series_of(scan, tmp_path / "in", tags=odd)
    recwarn.clear()
    status, _, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 0 and not list(recwarn) and "Musterfrau" not in said, said
    assert len(list((tmp_path / "out").iterdir())) == 7
    assert {Path(name).suffix for name in found_in(tmp_path / "out", [b"Musterfrau"])} == {".dcm"}


@pytest.mark.parametrize("ending", FILES)
def test_nothing_of_a_files_header_is_written_nor_told_when_it_is_cut_off(
        ending, scan, run, finds_the_object, tmp_path, capfd):
    path, out = tmp_path / "in" / f"scan{ending}", tmp_path / "out"
    write_scan(scan, path)
    mark_file(path)
    words = "predict", path, "--model", run, "--formats", WITHOUT_SEG, "--out"
    status, printed, said = call(capfd, *words, out)
    assert status == 0, said
    assert found_in(out) == {} and not found(printed + said)
    assert len(list(out.iterdir())) == 6
    cut_off(path)
    status, printed, said = call(capfd, *words, tmp_path / "other")
    assert status == 2 and len(said.splitlines()) == 1
    assert not found(printed + said) and not (tmp_path / "other").exists()


def test_nothing_of_a_cohorts_headers_reaches_checks_runs_records_tables_or_exports(compendium, capfd):
    """From check to export, a search of all that lies in the compendium but the cohort's own images and
    masks."""
    root = write_cohort(compendium / "data" / "boxes", 2).root
    for path in root.rglob("*.nii.gz"):
        mark_file(path)
    settings = replace(TINY, profile="tiny", cohort="data/boxes", epochs=1, samples_per_case=1)
    (compendium / "papermill_params" / "tiny.yaml").write_text(json.dumps(settings.as_dict()))
    own = set(found_in(compendium))
    status, printed, said = call(capfd, "check", root)
    assert status == 2 and not found(printed + said)        # boxes are no pelvis: each case has its problems
    status, run, said = call(capfd, "train", "3D U-Net", "--profile", "tiny")
    assert status == 0, said
    tables = "tables", "--profile", "tiny"
    for words in (("evaluate", run.strip()), tables, (*tables, 1),
                  ("export", run.strip(), "box_0", "--formats", WITHOUT_SEG)):
        status, printed, other = call(capfd, *words)
        said += printed + other
        assert status == 0, said
    assert {"run.json", "metrics.jsonl", "scores.csv", "checkpoint.safetensors", "box_0_sij.json"} <= {
        path.name for path in compendium.rglob("*")}
    assert len(own) == 4 and set(found_in(compendium)) == own and not found(run + said)


def test_nothing_of_a_series_or_its_folders_name_reaches_an_imported_cohort(tmp_path, capfd):
    ct = ct_of_boxes(shape=(29, 33, 51))
    folder, out = series_of(ct, tmp_path / "in" / PATIENT), tmp_path / "out"
    labels = tmp_path / "in" / f"{PATIENT}.nii.gz"
    write_volume(labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT)), labels)
    mark_series(folder)
    mark_file(labels)
    command = "import", "labelmap", folder, "--labels", labels, "--out", out
    status, printed, said = call(capfd, *command)
    assert status == 2 and "give another one with --patient" in said and said.count("\n") == 1
    assert not out.exists()
    status, printed, said = call(capfd, *command, "--patient", "p1")
    assert status == 0, said
    words = [*GIVEAWAYS, *own_words(folder)]
    assert not found(printed + said, words) and found_in(out, words) == {}
    assert {"p1_0000.nii.gz", "p1.nii.gz", "dataset.json", "import.json"} <= {
        path.name for path in out.rglob("*")}


# Notebook 10 on somebody's own series ---------------------------------------------------------------------

def typed(series, mask, compendium, scan):
    """The cells of notebook 10 after a user has typed settings and a scan into them."""
    write_cohort(compendium / "boxes", 2)
    own_mask = compendium / "in" / f"{PATIENT}.nii.gz"
    write_volume(both(scan), own_mask)
    mark_file(own_mask)
    tiny = [f"{name} = {getattr(TINY, name)}" for name in ("depth", "size", "width_divisor")]
    changes = {"seeds: list = [0]": "\n".join(["seeds: list = [0]", "cohort = 'boxes'", "epochs = 1",
                                               "samples_per_case = 1", *tiny]),
               "own_scan, own_mask = None, None":
                   f"own_scan, own_mask = {str(series)!r}, {str(own_mask) if mask else None!r}",
               "case, network = study.val[0], ": "case, network = 'my scan', "}
    notebook = nbformat.read(ROOT / "notebooks" / "10_inspect_in_3d.ipynb", 4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in changes.items():
        (cell,) = (cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)
    return notebook


def assert_nothing_written(compendium, mask):
    drawn = {"error_map.png"} | ({"surface_distance.png"} if mask else set())
    assert drawn | {"run.json"} <= {path.name for path in compendium.rglob("*")}
    assert not found_in(compendium / "figures", GIVEAWAYS) and not found_in(compendium / "runs", GIVEAWAYS)


@pytest.mark.parametrize("mask", [True, False])
def test_the_cells_of_notebook_10_show_nothing_of_the_patient(mask, series, scan, compendium, capfd):
    """Run here, one after the other."""
    notebook, outputs = typed(series, mask, compendium, scan), []
    names = {"In": [], "display": outputs.append}
    for cell in notebook.cells:
        names["In"].append(cell.source)
        tree = ast.parse(cell.source.replace("%matplotlib inline", ""))
        last = [tree.body.pop()] if isinstance(tree.body[-1], ast.Expr) else []
        exec(compile(tree, "cell", "exec"), names)
        outputs += [eval(compile(ast.Expression(node.value), "cell", "eval"), names) for node in last]
    texts = [" ".join(words_of(output)) if isinstance(output, Figure) else repr(output) for output in outputs]
    said = "\n".join([*texts, *capfd.readouterr()])
    assert sum("my scan" in text for text in texts) == 2 + mask
    assert not found(said, GIVEAWAYS)
    assert_nothing_written(compendium, mask)


@pytest.mark.slow
def test_the_outputs_of_notebook_10_hold_nothing_of_the_patient(series, scan, compendium, monkeypatch):
    """As a kernel sends them, pictures decoded: their headers could name somebody."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = typed(series, True, compendium, scan)
    NotebookClient(notebook, timeout=600, kernel_name="python3",
                   resources={"metadata": {"path": str(compendium)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    pictures = [base64.b64decode(output.data["image/png"]) for output in outputs
                if "image/png" in output.get("data", {})]
    assert pictures and "my scan" in json.dumps(outputs)
    for content in (*pictures, json.dumps(outputs)):
        assert not found(content, GIVEAWAYS)
    assert_nothing_written(compendium, True)
