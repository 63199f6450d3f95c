"""Cohorts: the split holds patients together and never changes; every mistake is named with its way out."""

import gzip
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from compendium.check import describe
from magunet.base import profiles
from magunet.cohort import (
    SPLIT_SEED,
    load_cohort,
    read_checked,
    split_by_patient,
)
from magunet.runs import fit
from magunet.volume import Volume, orientation, read_volume, write_volume
from sijphantom import phantom
from sijphantom.cohort import cohort_of, make_phantom_cohort, phantom_folder, phantom_scan

SHAPE, SPACING = (8, 8, 8), (3.0, 1.0, 1.0)


def tiny(seed=0):
    """Noise of soft tissue in air, and a box as its mask."""
    scan, mask = np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, np.uint8)
    scan[2:6, 2:7, 2:7] = np.random.default_rng(seed).integers(0, 800, (4, 5, 5))
    mask[3:5, 3:6, 3:6] = 1
    return Volume(scan, SPACING), Volume(mask, SPACING)


def add_case(root, name, image=None, label=None):
    scan, mask = tiny(len(name))
    write_volume(image or scan, root / f"imagesTr/{name}_0000.nii.gz")
    write_volume(label or mask, root / f"labelsTr/{name}.nii.gz")


@pytest.fixture
def root(tmp_path):
    """Six scans of four patients: a and b have two each."""
    for name in ("a1", "a2", "b1", "b2", "c", "d"):
        add_case(tmp_path, name)
    write_dataset(tmp_path, cases={n: {"patient": n[0]} for n in ("a1", "a2", "b1", "b2")})
    return tmp_path


def write_dataset(root, **changes):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": 6,
               "file_ending": ".nii.gz"} | changes
    (root / "dataset.json").write_text(json.dumps(content))


# The split --------------------------------------------------------------------------------------------

def test_70_patients_are_split_49_to_21():
    train, val = split_by_patient({f"case_{i:02d}": f"patient_{i:02d}" for i in range(70)})
    assert (len(train), len(val)) == (49, 21)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.integers(0, 12).map(str), min_size=1, max_size=40),
       st.integers(0, 9))
def test_a_split_is_a_partition_by_patient(patients, seed):
    count = len(set(patients.values()))
    if count < 2:
        return refused(lambda: split_by_patient(patients, seed), "two patients")
    train, val = split_by_patient(patients, seed)
    assert train and val and sorted(train + val) == sorted(patients)
    sides = [{patients[name] for name in side} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert abs(len(sides[0]) - Fraction(7, 10) * count) <= (Fraction(1, 2) if count > 2 else 1)
    backwards = dict(reversed(patients.items()))
    assert split_by_patient(backwards, seed) == (train, val)                    # order does not matter


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=40), st.integers(1, 4))
def test_a_patient_stays_on_its_side_however_many_scans_there_are(owners, more):
    """New names and more scans of the same patients move none of them."""
    if len(set(owners)) < 2:
        return
    first = {f"scan_{number}": str(owner) for number, owner in enumerate(owners)}
    second = {f"{owner}_{visit}": str(owner) for owner in owners for visit in range(more)}
    sides = [[{patients[name] for name in side} for side in split_by_patient(patients)]
             for patients in (first, second)]
    assert sides[0] == sides[1]


def test_another_seed_is_another_split():
    patients = {str(i): str(i) for i in range(30)}
    splits = {tuple(split_by_patient(patients, seed)[0]) for seed in range(5)}
    assert len(splits) == 5


def test_every_patient_can_land_on_either_side():
    patients = {str(i): str(i) for i in range(10)}
    counts = sum(np.isin(sorted(patients), split_by_patient(patients, seed)[0]) for seed in range(300))
    assert (abs(counts - 210) < 4 * np.sqrt(300 * 0.7 * 0.3)).all()


# Loading ----------------------------------------------------------------------------------------------

def test_a_cohort_is_read_from_the_nnunet_layout(root):
    cohort = load_cohort(str(root))
    assert list(cohort.cases) == ["a1", "a2", "b1", "b2", "c", "d"]
    assert [c.patient for c in cohort.cases.values()] == ["a", "a", "b", "b", "c", "d"]
    assert sorted(cohort.train + cohort.val) == sorted(cohort.cases)
    assert not {n[0] for n in cohort.train} & {n[0] for n in cohort.val}
    for case in cohort.cases.values():
        assert case.image == root / f"imagesTr/{case.name}_0000.nii.gz" and case.image.exists()
        assert case.label == root / f"labelsTr/{case.name}.nii.gz" and case.label.exists()


def test_a_plain_nnunet_dataset_has_one_patient_a_case(root):
    write_dataset(root)
    assert [c.patient for c in load_cohort(root).cases.values()] == ["a1", "a2", "b1", "b2", "c", "d"]


def test_the_split_is_written_once_and_read_ever_after(root):
    first = load_cohort(root)
    written = (root / "splits.json").read_bytes()
    add_case(root, "e")
    again = load_cohort(root)
    assert (again.train, again.val) == (first.train, first.val) and "e" in again.cases      # in neither list
    assert (root / "splits.json").read_bytes() == written
    assert json.loads(written) == {"seed": SPLIT_SEED, "train": list(first.train), "val": list(first.val)}
    assert first.root == again.root == root


def test_a_dataset_need_not_say_its_ending(root):
    content = json.loads((root / "dataset.json").read_text())
    del content["file_ending"]
    (root / "dataset.json").write_text(json.dumps(content))
    assert len(load_cohort(root).cases) == 6


def test_a_split_given_by_the_user_is_kept(root):
    text = '{"train": ["d", "b1"], "val": ["c"]}'
    (root / "splits.json").write_text(text)
    cohort = load_cohort(root)
    assert cohort.train == ("d", "b1") and cohort.val == ("c",) and (root / "splits.json").read_text() == text


def test_what_a_killed_write_left_behind_is_no_case(root):
    (root / "imagesTr/.part-123-e_0000.nii.gz").write_bytes(b"half")
    (root / "labelsTr/.part-123-e.nii.gz").write_bytes(b"half")
    assert list(load_cohort(root).cases) == ["a1", "a2", "b1", "b2", "c", "d"]


@pytest.mark.parametrize("spoil, words", [
    (lambda root: (root / "dataset.json").unlink(), ["dataset.json", "missing", "magunet cohort"]),
    (lambda root: (root / "dataset.json").write_text("{"), ["dataset.json", "not valid JSON", "restore"]),
    (lambda root: (root / "dataset.json").write_text("[]"), ["dataset.json", "JSON object"]),
    (lambda root: (root / "dataset.json").write_bytes(b"\xff\xfe{"), ["dataset.json", "not valid JSON"]),
    (lambda root: write_dataset(root, file_ending=".nrrd"), ["dataset.json", ".nii.gz", "convert"]),
    (lambda root: write_dataset(root, cases={"a1": "a"}), ["dataset.json"]),
    (lambda root: write_dataset(root, cases=["a1", "a2"]), ["dataset.json"]),
    (lambda root: (root / "labelsTr/c.nii.gz").unlink(),
     ["labelsTr/c.nii.gz", "c_0000.nii.gz", "missing", "remove"]),
    (lambda root: (root / "imagesTr/c_0000.nii.gz").unlink(),
     ["labelsTr/c.nii.gz", "no image c_0000.nii.gz"]),
    (lambda root: [p.unlink() for p in (root / "imagesTr").iterdir()],
     ["no images", "imagesTr/CASE_0000.nii.gz"]),
], ids=["no dataset", "broken dataset", "list for dataset", "no text", "ending", "patient not in a mapping",
        "cases not a mapping", "no mask", "no image", "no images"])
def test_a_broken_folder_is_explained(root, spoil, words):
    spoil(root)
    refused(lambda: load_cohort(root), *words)
    assert not (root / "splits.json").exists()


@pytest.mark.parametrize("content, words", [
    ('{"train": ["c"], "val": ["gone"]}', ["'gone'", "must be the name of a case"]),
    ('{"train": ["a1"], "val": ["a2", "c"]}', ["patient 'a'", "both train and val"]),
    ('{"train": ["c"], "val": ["c"]}', ["patient 'c'", "both train and val"]),
    ('{"train": ["c"]}', ["'train' and 'val'"]),
    ('{"train": ["c"], "val": []}', ["'train' and 'val'"]),
    ('{"train": "c", "val": ["d"]}', ["'train' and 'val'"]),
    ('{"train": ["gone"], "val": ["c"]}', ["'gone'", "must be the name of a case"]),
    ('{"train": ["c", "c"], "val": ["d"]}', ["'c'", "stand once"]),
    ('{"train": ["d"], "val": ["c", "c"]}', ["'c'", "stand once"]),
    ('{"train": ["d", 3], "val": ["c"]}', ["3 must be the name"]),
    ('{"train": ["d"], "val": [["c"]]}', ["['c'] must be the name"]),
    ('[["c"], ["d"]]', ["JSON object"]),
    ('{"train": ["c"]', ["not valid JSON"]),
])
def test_a_broken_split_is_explained_and_left_alone(root, content, words):
    (root / "splits.json").write_text(content)
    refused(lambda: load_cohort(root), "splits.json", *words)
    assert (root / "splits.json").read_text() == content


def test_one_patient_can_be_looked_at_but_not_trained_on(root):
    write_dataset(root, cases={n: {"patient": "x"} for n in ("a1", "a2", "b1", "b2", "c", "d")})
    cohort = load_cohort(root)
    assert cohort.root == root and cohort.train == ()
    assert sorted(cohort.val) == sorted(cohort.cases) and not (root / "splits.json").exists()
    refused(lambda: fit("MAG-UNet", PHANTOMS, 0, cohort), "one patient", "add other patients")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    refused(lambda: load_cohort(tmp_path / "nowhere"), "nowhere", "missing")


# Cases ------------------------------------------------------------------------------------------------

def test_a_case_is_described(root):
    write_dataset(root, cases={"c": {"patient": "C", "grade_left": 2, "grade_right": 0, "parameters": {}}})
    case = load_cohort(root).cases["c"]
    row = describe(case, *read_checked(case.image, case.label))
    assert row == {"case": "c", "patient": "C", "slices": 8, "matrix": 8, "slice_mm": 3.0, "pixel_mm": 1.0,
                   "target_ml": pytest.approx(2 * 3 * 3 * 3.0 / 1000), "grade_left": 2, "grade_right": 0}


def test_a_case_whose_files_cannot_be_read_has_an_empty_row(root):
    row = describe(load_cohort(root).cases["c"], None, None)
    assert row == {"case": "c", "patient": "c", "slices": None, "matrix": None, "slice_mm": None,
                   "pixel_mm": None,
                   "target_ml": None}


IMAGE, MASK = tiny()
EMPTY = np.zeros_like(MASK.array)


@pytest.mark.parametrize("image, label, words", [
    (None, Volume(MASK.array, (3.1, 1.0, 1.0)), ["c.nii.gz", "another grid", "c_0000.nii.gz", "resample"]),
    (None, Volume(MASK.array[1:], SPACING), ["c.nii.gz", "another grid", "resample"]),
    (None, MASK.with_array(MASK.array * 3), ["c.nii.gz", "labels [0, 3]", "0 and 1 only"]),
    (None, MASK.with_array(MASK.array * 0.5), ["c.nii.gz", "labels [0.0, 0.5]", "0 and 1 only"]),
    (None, MASK.with_array(EMPTY), ["c.nii.gz", "is empty", "remove the case or label it"]),
    (None, MASK.with_array(EMPTY + 1), ["c.nii.gz", "fills the volume", "remove the case or label it"]),
    (IMAGE.with_array(np.where(MASK.array, np.nan, IMAGE.array)), None,
     ["c_0000.nii.gz", "NaN", "export it again"]),
    (IMAGE.with_array(np.where(MASK.array, np.inf, IMAGE.array)), None,
     ["c_0000.nii.gz", "infinite", "export"]),
    (IMAGE.with_array((IMAGE.array + 1024).astype(np.int16)), None,
     ["c_0000.nii.gz", "not HU", "rescale slope"]),
], ids=["spacing", "shape", "label 3", "label 0.5", "empty", "full", "NaN", "infinite", "no air"])
def test_a_case_that_cannot_be_used_is_explained(root, image, label, words):
    add_case(root, "c", image, label)
    case = load_cohort(root).cases["c"]
    refused(lambda: read_checked(case.image, case.label), *words)


def test_a_broken_image_is_named(root):
    (root / "imagesTr/c_0000.nii.gz").write_bytes(gzip.compress(b"no image"))
    case = load_cohort(root).cases["c"]
    refused(lambda: read_checked(case.image, case.label), "c_0000.nii.gz")


# Phantoms ---------------------------------------------------------------------------------------------

PHANTOMS = replace(profiles.load("smoke"), cases=3, scan_matrix=32, scan_slices=(20, 24))


def quietly(items, what):
    return iter(items)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_interrupted_generation_goes_on_and_ends_with_the_same_files(compendium, monkeypatch):
    made = []

    def recorded(seed, **options):
        made.append(seed)
        return original(seed, **options)

    def interrupted(items, what):
        yield items[0]
        raise KeyboardInterrupt

    original = phantom.make_phantom
    monkeypatch.setattr(phantom, "make_phantom", recorded)
    with pytest.raises(KeyboardInterrupt):
        make_phantom_cohort(PHANTOMS, interrupted)
    assert made == [0] and not (phantom_folder(PHANTOMS) / "dataset.json").exists()
    root = make_phantom_cohort(PHANTOMS, quietly)
    assert made == [0, 1, 2]
    # nothing left to do
    assert make_phantom_cohort(PHANTOMS, quietly) == root and made == [0, 1, 2]
    resumed = contents(root)

    root.rename(compendium / "resumed")
    uninterrupted = contents(make_phantom_cohort(PHANTOMS, quietly))
    assert made == [0, 1, 2, 0, 1, 2] and resumed == uninterrupted

    cohort = cohort_of(PHANTOMS, quietly)
    assert (len(cohort.train), len(cohort.val)) == (2, 1)
    dataset = json.loads((root / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "CT"} and dataset["labels"] == {"background": 0, "SIJ": 1}
    assert dataset["numTraining"] == 3 and dataset["file_ending"] == ".nii.gz"
    for seed, case in enumerate(cohort.cases.values()):
        image = read_volume(case.image)
        assert image.array.shape[1:] == (32,
                                         32) and 20 <= len(image.array) <= 24 and orientation(image) == "LPS"
        assert (image.to_world(tuple((n - 1) / 2 for n in image.array.shape))
                == pytest.approx([0, 0, 0], abs=1e-3))
        row = describe(case, *read_checked(case.image, case.label))
        assert row["target_ml"] > 0 and case.info["parameters"]["seed"] == seed


def test_a_phantom_as_volumes_is_centred():
    made = phantom.Phantom(IMAGE.array, MASK.array, EMPTY, SPACING, (0, 0))
    for volume, array in zip(phantom_scan(made), (IMAGE.array, MASK.array)):
        assert volume.array is array and volume.spacing == SPACING
        assert volume.to_world((3.5, 3.5, 3.5)) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("change, moves", [
    ({"cases": 4}, True), ({"cohort_seed": 1}, True), ({"scan_matrix": 40}, True),
    ({"scan_slices": (20, 25)}, True),
    ({"target_mm": 5.0}, True), ({"profile": "mine"}, True), ({"epochs": 9}, False), ({"size": 48}, False)])
def test_the_folder_of_phantoms_depends_on_what_makes_them(compendium, change, moves):
    assert (phantom_folder(replace(PHANTOMS, **change)) != phantom_folder(PHANTOMS)) is moves
