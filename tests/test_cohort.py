"""Cohorts: the split holds patients together and never changes; every mistake is named with its way out."""

import functools
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
from magunet.base import profiles, provenance
from magunet.cohort import SPLIT_SEED, load_cohort, read_checked, split_by_patient
from magunet.runs import fit
from magunet.volume import Volume, read_volume, write_volume
from sijphantom import phantom
from sijphantom.cohort import cohort_of, make_phantom_cohort, phantom_folder

SHAPE, SPACING = (8, 8, 8), (3.0, 1.0, 1.0)
NAMES = ["a1", "a2", "b1", "b2", "c", "d"]
"""Six scans of four patients."""


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


def write_dataset(root, **changes):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "SIJ": 1}, "numTraining": 6,
               "file_ending": ".nii.gz"} | changes
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        add_case(tmp_path, name)
    write_dataset(tmp_path, cases={name: {"patient": name[0]} for name in NAMES[:4]})
    return tmp_path


# The split --------------------------------------------------------------------------------------------

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


def test_the_seed_decides_and_any_patient_can_land_on_either_side():
    train, val = split_by_patient({f"case_{i}": f"patient_{i}" for i in range(70)})
    assert (len(train), len(val)) == (49, 21)                                           # as in the paper
    patients = {str(i): str(i) for i in range(10)}
    splits = [split_by_patient(patients, seed)[0] for seed in range(300)]
    counts = sum(np.isin(sorted(patients), split) for split in splits)
    assert (abs(counts - 210) < 4 * np.sqrt(300 * 0.7 * 0.3)).all() and len(set(map(tuple, splits))) > 100


# Loading ----------------------------------------------------------------------------------------------

def test_a_cohort_is_read_from_the_nnunet_layout_and_its_split_is_written_once(root):
    (root / "imagesTr/.part-123-e_0000.nii.gz").write_bytes(b"half")    # as a killed write leaves them
    (root / "labelsTr/.part-123-e.nii.gz").write_bytes(b"half")
    first = load_cohort(str(root))
    assert list(first.cases) == NAMES and first.root == root
    assert [case.patient for case in first.cases.values()] == ["a", "a", "b", "b", "c", "d"]
    assert sorted(first.train + first.val) == NAMES
    assert not {name[0] for name in first.train} & {name[0] for name in first.val}
    for case in first.cases.values():
        assert case.image == root / f"imagesTr/{case.name}_0000.nii.gz" and case.image.exists()
        assert case.label == root / f"labelsTr/{case.name}.nii.gz" and case.label.exists()
    written = (root / "splits.json").read_bytes()
    assert json.loads(written) == {"seed": SPLIT_SEED, "train": list(first.train), "val": list(first.val)}
    add_case(root, "e")                                                                 # is in neither list
    again = load_cohort(root)
    assert (again.train, again.val, [*again.cases]) == (first.train, first.val, [*NAMES, "e"])
    assert (root / "splits.json").read_bytes() == written


def test_a_plain_nnunet_dataset_has_one_patient_a_case_and_keeps_the_users_split(root):
    write_dataset(root, file_ending=None)
    text = '{"train": ["d", "b1"], "val": ["c"]}'
    (root / "splits.json").write_text(text)
    cohort = load_cohort(root)
    assert [case.patient for case in cohort.cases.values()] == NAMES
    assert cohort.train == ("d", "b1") and cohort.val == ("c",) and (root / "splits.json").read_text() == text


@pytest.mark.parametrize("spoil, words", [
    (lambda root: (root / "dataset.json").unlink(), ["dataset.json", "missing", "magunet cohort"]),
    (lambda root: (root / "dataset.json").write_text("{"), ["dataset.json", "not valid JSON", "restore"]),
    (lambda root: (root / "dataset.json").write_text("[]"), ["dataset.json", "JSON object"]),
    (lambda root: (root / "dataset.json").write_bytes(b"\xff\xfe{"), ["dataset.json", "not valid JSON"]),
    (lambda root: write_dataset(root, file_ending=".nrrd"), ["dataset.json", ".nii.gz", "convert"]),
    (lambda root: write_dataset(root, cases={"a1": "a"}), ["dataset.json", "'cases'"]),
    (lambda root: write_dataset(root, cases=["a1", "a2"]), ["dataset.json", "'cases'"]),
    (lambda root: (root / "labelsTr/c.nii.gz").unlink(),
     ["labelsTr/c.nii.gz", "c_0000.nii.gz", "missing", "remove"]),
    (lambda root: (root / "imagesTr/c_0000.nii.gz").unlink(),
     ["labelsTr/c.nii.gz", "no image c_0000.nii.gz"]),
    (lambda root: [path.unlink() for path in (root / "imagesTr").iterdir()],
     ["no images", "imagesTr/CASE_0000.nii.gz"])])
def test_a_broken_folder_is_explained(root, spoil, words):
    spoil(root)
    refused(lambda: load_cohort(root), *words)
    assert not (root / "splits.json").exists()


def test_a_broken_split_is_explained_and_left_alone(root):
    for content, *words in (
            ('{"train": ["c"], "val": ["gone"]}', "'gone'", "must be the name of a case"),
            ('{"train": ["gone"], "val": ["c"]}', "'gone'", "must be the name of a case"),
            ('{"train": ["a1"], "val": ["a2", "c"]}', "patient 'a'", "both train and val"),
            ('{"train": ["c"], "val": ["c"]}', "patient 'c'", "both train and val"),
            ('{"train": ["c"]}', "'train' and 'val'"), ('{"train": ["c"], "val": []}', "'train' and 'val'"),
            ('{"train": "c", "val": ["d"]}', "'train' and 'val'"),
            ('{"train": ["c", "c"], "val": ["d"]}', "'c'", "stand once"),
            ('{"train": ["d"], "val": ["c", "c"]}', "'c'", "stand once"),
            ('{"train": ["d", 3], "val": ["c"]}', "3 must be the name"),
            ('{"train": ["d"], "val": [["c"]]}', "['c'] must be the name"),
            ('[["c"], ["d"]]', "JSON object"), ('{"train": ["c"]', "not valid JSON")):
        (root / "splits.json").write_text(content)
        refused(lambda: load_cohort(root), "splits.json", *words)
        assert (root / "splits.json").read_text() == content


def test_one_patient_can_be_looked_at_but_not_trained_on(root):
    write_dataset(root, cases={name: {"patient": "x"} for name in NAMES})
    cohort = load_cohort(root)
    assert (cohort.train, sorted(cohort.val)) == ((), NAMES) and not (root / "splits.json").exists()
    refused(lambda: fit("MAG-UNet", PHANTOMS, 0, cohort), "one patient", "add other patients")


# Cases ------------------------------------------------------------------------------------------------

def test_a_case_is_described_and_its_row_is_empty_where_files_cannot_be_read(root):
    write_dataset(root, cases={"c": {"patient": "C", "grade_left": 2, "grade_right": 0, "parameters": {}}})
    case = load_cohort(root).cases["c"]
    known = {"case": "c", "patient": "C", "grade_left": 2, "grade_right": 0}
    assert describe(case, *read_checked(case.image, case.label)) == known | {
        "slices": 8, "matrix": 8, "slice_mm": 3.0, "pixel_mm": 1.0,
        "target_ml": pytest.approx(2 * 3 * 3 * 3.0 / 1000)}
    columns = ("slices", "matrix", "slice_mm", "pixel_mm", "target_ml")
    assert describe(case, None, None) == known | dict.fromkeys(columns)


def test_a_case_that_cannot_be_used_is_explained(root):
    image, mask = tiny()
    bone, empty = mask.array > 0, np.zeros_like(mask.array)
    for scan, label, *words in (
            (None, Volume(mask.array, (3.1, 1.0, 1.0)), "c.nii.gz", "another grid", "c_0000.nii.gz"),
            (None, Volume(mask.array[1:], SPACING), "c.nii.gz", "another grid", "resample"),
            (None, mask.with_array(mask.array * 3), "c.nii.gz", "labels [0, 3]", "0 and 1 only"),
            (None, mask.with_array(mask.array * 0.5), "c.nii.gz", "labels [0.0, 0.5]", "0 and 1 only"),
            (None, mask.with_array(empty), "c.nii.gz", "is empty", "remove the case or label it"),
            (None, mask.with_array(empty + 1), "c.nii.gz", "fills the volume", "remove the case or label it"),
            (image.with_array(np.where(bone, np.nan, image.array)), None, "c_0000.nii.gz", "NaN", "export"),
            (image.with_array(np.where(bone, np.inf, image.array)), None, "c_0000.nii.gz", "infinite"),
            (image.with_array((image.array + 1024).astype(np.int16)), None, "c_0000.nii.gz", "not HU",
             "rescale slope")):
        add_case(root, "c", scan, label)
        case = load_cohort(root).cases["c"]
        refused(lambda case=case: read_checked(case.image, case.label), *words)
    (root / "imagesTr/c_0000.nii.gz").write_bytes(gzip.compress(b"no image"))
    refused(lambda: read_checked(case.image, case.label), "c_0000.nii.gz")


# Phantoms ---------------------------------------------------------------------------------------------

PHANTOMS = replace(profiles.load("smoke"), cases=3, scan_matrix=32, scan_slices=(20, 24))


def quietly(items, what):
    return iter(items)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_interrupted_generation_goes_on_and_ends_with_the_same_files(compendium, monkeypatch):
    made = []

    def recorded(seed, matrix, slices, thickness):
        """In no time: what a phantom looks like is not the matter here."""
        assert (matrix, slices, thickness) == (32, (20, 24), 6.0)
        made.append(seed)
        scan, mask = tiny(seed)
        return phantom.Phantom(scan.array, mask.array, mask.array, SPACING, (seed, 0), {"seed": seed})

    def interrupted(items, what):
        yield items[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "make_phantom", recorded)
    monkeypatch.setattr(provenance, "code_hash", functools.cache(provenance.code_hash))
    with pytest.raises(KeyboardInterrupt):
        make_phantom_cohort(PHANTOMS, interrupted)
    assert made == [0] and not (phantom_folder(PHANTOMS) / "dataset.json").exists()
    root = make_phantom_cohort(PHANTOMS, quietly)
    assert made == [0, 1, 2]
    assert make_phantom_cohort(PHANTOMS, quietly) == root and made == [0, 1, 2]     # nothing left to do
    resumed = contents(root)
    root.rename(compendium / "resumed")
    assert contents(make_phantom_cohort(PHANTOMS, quietly)) == resumed and made == [0, 1, 2, 0, 1, 2]

    cohort = cohort_of(PHANTOMS, quietly)
    assert (len(cohort.train), len(cohort.val)) == (2, 1)
    dataset = json.loads((root / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "CT"} and dataset["labels"] == {"background": 0, "SIJ": 1}
    assert dataset["numTraining"] == 3 and dataset["file_ending"] == ".nii.gz"
    for seed, case in enumerate(cohort.cases.values()):
        assert case.info["parameters"] == {"seed": seed}
        row = describe(case, *read_checked(case.image, case.label))
        assert (row["patient"], row["grade_left"], row["grade_right"]) == (f"phantom_00{seed}", seed, 0)
        for path, made in zip((case.image, case.label), tiny(seed)):
            volume = read_volume(path)
            assert np.array_equal(volume.array, made.array) and volume.spacing == SPACING
            assert volume.to_world((3.5, 3.5, 3.5)) == pytest.approx([0, 0, 0])         # centred
