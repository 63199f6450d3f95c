"""What headers tell of a patient reaches no file, no name and no line that magunet writes, whichever tag it
stands in."""

# ruff: noqa: F811

import gzip
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_files import not_rescaled, rewrite
from boxes import TINY, write_cohort
from dicom_series import PATIENT, STANDARD, planted, read, write_series
from identifiers import (
    every_text_tag,
    found,
    found_in,
    layers,
    plant_in_nifti,
    plant_in_series,
    plant_in_text_header,
)
from joint_object import DIRECTIONS, both, grid
from scans import write_scan
from test_cli import call
from test_exports import ALL, finds_the_object  # noqa: F401
from test_sources import LEFT, RIGHT, SACRUM, labelled
from test_sources import scan as ct_of_boxes

from magunet.base import profiles
from magunet.volume import Volume, write_volume

FILES = {".nii.gz": plant_in_nifti, ".nrrd": plant_in_text_header, ".mha": plant_in_text_header}


@pytest.fixture(scope="module")
def scan():
    """The object on a grid coarse enough for headers of thousands of tags."""
    on = grid(DIRECTIONS["oblique"], (20, 24, 28), (6.0, 5.0, 4.4))
    return Volume(np.where(both(on).array != 0, 700, -1000).astype(np.int16), on.spacing, on.origin,
                  on.direction)


@pytest.fixture(scope="module")
def series(scan, tmp_path_factory):
    """A DICOM series with an identifier in every text tag, in a folder that is named after the patient; and
    what to look for."""
    folder = write_series(tmp_path_factory.mktemp("archive") / PATIENT, scan.array, scan.spacing, scan.origin,
                          scan.direction)
    return folder, plant_in_series(folder)


def holds(path, words):
    """Those of the words that stand in a file, also inside of what is compressed."""
    content = b"\n".join(layers(path.read_bytes()))
    return [word for word in words if word in content]


def uids(folder):
    headers = [read(path) for path in folder.iterdir()]
    return {str(header[name].value).encode() for header in headers for name in header.dir("UID")
            if "Class" not in name}


def test_the_search_finds_every_identifier_wherever_it_stands(series, scan, tmp_path):
    """In the series itself, compressed, in a name, and at the head of other formats: the tests below are not
    blind."""
    folder, words = series
    assert len(words) > 2400
    slice_ = next(folder.iterdir()).read_bytes()
    for content in (slice_, gzip.compress(slice_), b"NRRD0005\n\n" + gzip.compress(slice_), b"\x89PNG"
                    + zlib.compress(slice_)):
        assert found(words, content) == words
    (tmp_path / every_text_tag()["PatientComments"]).touch()
    np.savez_compressed(tmp_path / "a.npz", text=every_text_tag()["PatientComments"].encode())
    assert len(found_in(words, tmp_path)) == 2
    for ending, count in zip(FILES, (5, 3, 2)):
        path = tmp_path / f"scan{ending}"
        write_scan(scan, path)
        assert len(found(FILES[ending](path), path.read_bytes())) == count


@pytest.mark.parametrize("anonymise", [False, True])
def test_a_series_is_segmented_and_nothing_of_its_headers_is_written(
        anonymise, series, run, finds_the_object, tmp_path, capfd):
    folder, words = series
    status, printed, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path, "--formats",
                                 ALL,
                                 *["--anonymise"] * anonymise)
    assert status == 0, said
    assert len(printed.splitlines()) == len(list(tmp_path.iterdir())) == 7
    assert found_in(words, tmp_path) == {}
    said = said.replace(str(folder), "").encode()
    own = [*uids(folder), *planted(STANDARD)]
    assert not found(words, printed.encode(), said) and not [word for word in own if word in printed.encode()
                                                             + said]
    for path in tmp_path.iterdir():
        assert bool(holds(path, own)) == (path.suffix == ".dcm" and not anonymise), path.name


def remove(folder):
    min(folder.iterdir()).unlink()
    sorted(folder.iterdir())[8].unlink()


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-2000])


def without_spacing(header):
    del header.PixelSpacing


def no_numbers(header):
    header.ImageOrientationPatient = [0] * 6


FAULTS = {"a slice is missing": remove, "a slice is cut off": lambda folder: cut_off(min(folder.iterdir())),
          "a tag is missing": lambda folder: rewrite(min(folder.iterdir()), without_spacing),
          "a tag is no number": lambda folder: [rewrite(path, no_numbers) for path in folder.iterdir()],
          "values are not HU": lambda folder: [rewrite(path, not_rescaled) for path in folder.iterdir()]}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_series_is_told_without_what_its_headers_hold(fault, series, run, tmp_path, capfd):
    folder = tmp_path / "in"
    shutil.copytree(series[0], folder)
    FAULTS[fault](folder)
    status, printed, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 2 and len(said.splitlines()) == 1
    assert not found(series[1], printed.encode(), said.encode()) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", FILES)
def test_a_fault_of_a_file_is_told_without_what_its_header_holds(ending, scan, run, tmp_path, capfd):
    path = tmp_path / "in" / f"scan{ending}"
    write_scan(scan, path)
    words = FILES[ending](path)
    cut_off(path)
    status, printed, said = call(capfd, "predict", path, "--model", run, "--out", tmp_path / "out")
    assert status == 2 and len(said.splitlines()) == 1
    assert not found(words, printed.encode(), said.encode()) and not (tmp_path / "out").exists()


ODD = {"PatientName": f"{'x' * 70}Musterfrau", "PatientBirthDate": "Musterfrau",
       "PatientSex": "Musterfrau, weiblich",
       "StudyDate": "Musterfrau", "StudyTime": "Musterfrau", "StudyID": "Musterfrau" * 3,
       "AccessionNumber": "Musterfrau" * 3,
       "PatientID": "Musterfrau" * 9, "ReferringPhysicianName": "Musterfrau" * 9}
"""Values that the standard does not allow, as scanners write them."""


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("name", ODD)
def test_odd_values_of_a_header_are_not_quoted(name, scan, run, finds_the_object, tmp_path, capfd,
                                               recwarn):
    """pydicom warns of them on stderr, with the value."""
    folder = write_series(tmp_path / "in", scan.array, scan.spacing, scan.origin, scan.direction,
                          tags={name: ODD[name]})
    recwarn.clear()
    status, _, said = call(capfd, "predict", folder, "--model", run, "--out", tmp_path / "out")
    assert status == 0 and not list(recwarn) and "Musterfrau" not in said, said
    others = [path for path in (tmp_path / "out").iterdir() if path.suffix != ".dcm"]
    assert len(others) == 6 and not [path for path in others if holds(path, [b"Musterfrau"])]


@pytest.mark.parametrize("ending", FILES)
def test_nothing_of_a_files_header_is_written(ending, scan, run, finds_the_object, tmp_path,
                                              capfd):
    path = tmp_path / "in" / f"scan{ending}"
    write_scan(scan, path)
    words = FILES[ending](path)
    formats = ALL.replace("dicom-seg,", "")
    status, printed, said = call(capfd, "predict", path, "--model", run, "--out", tmp_path / "out",
                                 "--formats", formats)
    assert status == 0, said
    assert found_in(words, tmp_path / "out") == {} and not found(words, printed.encode(), said.encode())
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_nothing_of_a_cohorts_headers_reaches_checks_runs_records_tables_or_exports(compendium, capfd):
    """From check to export, a grep over all that lies in the compendium but the cohort's own images and
    masks."""
    root = write_cohort(compendium / "data" / "boxes").root
    words = set().union(*(plant_in_nifti(path) for path in root.rglob("*.nii.gz")))
    settings = replace(TINY, profile="tiny", cohort="data/boxes", epochs=1, samples_per_case=1)
    profile = compendium / "papermill_params" / "tiny.yaml"
    profile.write_text(json.dumps(settings.as_dict()))
    assert profiles.load("tiny") == settings
    before = {path for path in compendium.rglob("*") if path.is_file()}
    assert call(capfd, "check",
                root)[0] == 2                           # boxes are no pelvis: each case has its problems
    made = call(capfd, "train", "3D U-Net", "--profile", "tiny")
    assert made[0] == 0, made[2]
    run = Path(made[1].strip())
    outputs = [made, *(call(capfd, *words) for words in (
        ("evaluate", run), ("tables", 1, "--profile", "tiny"), ("tables", "--profile", "tiny"),
        ("export", run, "box_0", "--formats", ALL.replace("dicom-seg,", ""))))]
    assert [status for status, _, _ in outputs] == [0] * 5, outputs
    written = {path for path in compendium.rglob("*") if path.is_file()} - before
    assert {"run.json", "metrics.jsonl", "scores.csv", "checkpoint.safetensors",
            "box_0_sij.json"} <= {p.name for p in written}
    for _, printed, said in outputs:
        assert not found(words, printed.encode(), said.encode())
    for path in written:
        assert not found(words, path.read_bytes(), path.name.encode()), path


def test_nothing_of_a_series_or_its_folders_name_reaches_an_imported_cohort(tmp_path, capfd):
    ct = ct_of_boxes(shape=(21, 40, 40), spacing=(4.0, 3.0, 3.0))
    folder = write_series(tmp_path / "in" / PATIENT, ct.array, ct.spacing, ct.origin, ct.direction)
    labels = tmp_path / "in" / f"{PATIENT}.nii.gz"
    write_volume(labelled(ct, (25, SACRUM), (77, LEFT), (78, RIGHT)), labels)
    words = plant_in_series(folder) | plant_in_nifti(labels)
    given = "import", "labelmap", folder, "--labels", labels, "--out", tmp_path / "out"
    status, printed, said = call(capfd, *given)
    assert (status == 2 and "give another one with --patient" in said and said.count("\n") == 1
            and not (tmp_path / "out").exists())
    status, printed, said = call(capfd, *given, "--patient", "p1")
    assert status == 0, said
    own = [*uids(folder), *planted(STANDARD), PATIENT.encode()]
    assert found_in(words, tmp_path / "out") == {} and not found(words, printed.encode(), said.encode())
    assert not [word for word in own if word in (printed + said).encode()]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"p1_0000.nii.gz", "p1.nii.gz", "dataset.json", "import.json"} <= {path.name for path in written}
    for path in written:
        assert not holds(path, own) and not [word for word in own if word.decode() in path.name], path
