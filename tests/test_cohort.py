"""Cohorts: the split holds patients together and never changes; every mistake is named with its way out."""

import gzip
import itertools
import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from boxes import write_cohort
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from compendium.check import describe
from magunet.base import profiles
from magunet.cohort import SPLIT_SEED, evenly, load_cohort, read_checked, split_by_patient
from magunet.runs import fit
from magunet.volume import read_volume, write_volume
from sijphantom import phantom
from sijphantom.cohort import cohort_of, phantom_folder

PATIENTS = {"box_0": "a", "box_1": "a", "box_2": "b", "box_3": "b", "box_4": "box_4", "box_5": "box_5"}
NUMBERS = st.integers(0, 12).map(str)               # names of patients, and of cases that look like one


def write_dataset(root, **changes):
    content = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def root(tmp_path):
    """Six scans of four patients, not yet split."""
    write_cohort(tmp_path, 6)
    (tmp_path / "splits.json").unlink()
    write_dataset(tmp_path, cases={name: {"patient": PATIENTS[name]} for name in list(PATIENTS)[:4]})
    return tmp_path


@given(st.dictionaries(st.text(max_size=5) | NUMBERS, NUMBERS, min_size=1, max_size=40), st.integers(0, 9),
       st.integers(1, 4))
def test_a_split_is_a_partition_by_patient_whatever_scans_there_are(patients, seed, more):
    count = len(set(patients.values()))
    if count < 2:
        return refused(lambda: split_by_patient(patients, seed), "two patients")
    train, val = split_by_patient(patients, seed)
    assert train and val and sorted(train + val) == sorted(patients)
    sides = [{patients[name] for name in side} for side in (train, val)]
    assert not sides[0] & sides[1]
    assert abs(len(sides[0]) - Fraction(7, 10) * count) <= (Fraction(1, 2) if count > 2 else 1)
    assert split_by_patient(dict(reversed(patients.items())), seed) == (train, val)
    others = {f"{owner}_{visit}": owner for owner in patients.values() for visit in range(more)}
    assert [{others[name] for name in side} for side in split_by_patient(others, seed)] == sides


def test_the_seed_decides_and_any_patient_can_land_on_either_side():
    train, val = split_by_patient({f"case_{i}": f"patient_{i}" for i in range(70)})
    assert (len(train), len(val)) == (49, 21)                                           # as in the paper
    patients = {str(i): str(i) for i in range(10)}
    splits = [split_by_patient(patients, seed)[0] for seed in range(300)]
    counts = sum(np.isin(sorted(patients), split) for split in splits)
    assert (abs(counts - 210) < 4 * np.sqrt(300 * 0.7 * 0.3)).all() and len(set(map(tuple, splits))) > 100


def test_a_cohort_is_read_from_the_nnunet_layout_and_its_split_is_written_once(root):
    (root / "imagesTr/.part-123-box_6_0000.nii.gz").write_bytes(b"half")    # as a killed write leaves them
    (root / "labelsTr/.part-123-box_6.nii.gz").write_bytes(b"half")
    first = load_cohort(str(root))
    assert {name: case.patient for name, case in first.cases.items()} == PATIENTS and first.root == root
    assert sorted(first.train + first.val) == list(first.cases) == list(PATIENTS)
    assert not {PATIENTS[name] for name in first.train} & {PATIENTS[name] for name in first.val}
    for case in first.cases.values():
        assert case.image == root / f"imagesTr/{case.name}_0000.nii.gz" and case.image.exists()
        assert case.label == root / f"labelsTr/{case.name}.nii.gz" and case.label.exists()
    written = (root / "splits.json").read_bytes()
    assert json.loads(written) == {"seed": SPLIT_SEED, "train": list(first.train), "val": list(first.val)}
    for file in ("imagesTr/box_{}_0000.nii.gz", "labelsTr/box_{}.nii.gz"):              # in neither list
        shutil.copy(root / file.format(5), root / file.format(6))
    again = load_cohort(root)
    assert (again.train, again.val, [*again.cases]) == (first.train, first.val, [*PATIENTS, "box_6"])
    assert (root / "splits.json").read_bytes() == written


def test_a_plain_nnunet_dataset_has_one_patient_a_case_and_keeps_the_users_split(root):
    write_dataset(root, file_ending=None, cases=None)
    text = '{"train": ["box_5", "box_2"], "val": ["box_4"]}'
    (root / "splits.json").write_text(text)
    cohort = load_cohort(root)
    assert [case.patient for case in cohort.cases.values()] == list(PATIENTS)
    unknown = {"box_0": None, "box_1": " ", "box_2": math.nan}
    write_dataset(root, cases={name: {"patient": value} for name, value in (unknown | {"box_3": 0}).items()})
    assert [case.patient for case in load_cohort(root).cases.values()][:4] == [*unknown, "0"]
    for key, value, says in (("Patient", "a", "is not read"), ("subject_id", "a", "is not read"),
                             ("Grade left", 1, "is not read"), ("any_values", "false", "true or false")):
        write_dataset(root, cases={"box_4": {key: value}})
        refused(lambda: load_cohort(root), "dataset.json", key, "box_4", says)
    write_dataset(root, cases={"box_4": {"patient": 1, "patient ID": 2, "grader": "me", "any_values": None}})
    assert load_cohort(root).cases["box_4"].patient == "1"
    write_dataset(root, cases=None)
    assert (cohort.train, cohort.val) == (("box_5", "box_2"), ("box_4",))
    assert (root / "splits.json").read_text() == text


def test_fold_0_of_nnunet_is_the_split_if_it_keeps_patients_apart_else_it_is_said_why_not(root, capsys):
    for folds, words in (
            ([{"train": ["box_4", "box_0", "box_1"], "val": ["box_5"]}, {}], "fold 0 of 2"),
            ([{"train": ["box_0"], "val": ["box_1"]}], "patient 'a' is in both train and val"),
            ([{"train": ["box_0"], "val": ["gone"]}], "'gone' must be the name"),
            ({"train": ["box_4"], "val": ["box_5"]}, "JSON list"), ([], "no folds"), ([[]], "no folds")):
        (root / "splits_final.json").write_text(json.dumps(folds))
        (root / "splits.json").unlink(missing_ok=True)
        cohort, said = load_cohort(root), capsys.readouterr().err
        assert "splits_final.json" in said and words in said and said.count("\n") == 1, said
        taken = (list(cohort.train), list(cohort.val)) == (["box_4", "box_0", "box_1"], ["box_5"])
        assert taken == ("fold 0 of" in words) and load_cohort(root) == cohort
        assert capsys.readouterr().err == ""                                            # said once


def test_no_file_of_a_case_is_passed_over_without_a_word(root, capsys):
    for name, words in (
            ("imagesTr/new_0000.nii", "must end in .nii.gz"), ("imagesTr/new_0000.NII.GZ", "small letters"),
            ("labelsTr/new.nii", "must end in .nii.gz"), ("imagesTr/new_0000.mha", "convert"),
            ("imagesTr/new.nii.gz", "no channel"), ("imagesTr/box_1_0001.nii.gz", "no channel")):
        shutil.copy(root / "imagesTr/box_1_0000.nii.gz", root / name)
        refused(lambda: load_cohort(root), f"{root / name}: ", words)
        (root / name).unlink()
    (root / "imagesTr/notes.txt").write_text("mine")
    shutil.copy(root / "imagesTr/box_1_0000.nii.gz", root / "imagesTr/box_1_0001.nii.gz")
    for key in ("channel_names", "modality"):
        write_dataset(root, **{"channel_names": None, key: {"0": "CT", "1": "PET"}})
        assert len(load_cohort(root).cases) == 6
        assert "only channel 0 is read; 1 images of other channels are not" in capsys.readouterr().err


def test_a_broken_split_is_explained_and_left_alone(root):
    for content, *words in (
            ('{"train": ["box_4"], "val": ["gone"]}', "'gone'", "must be the name of a case"),
            ('{"train": ["gone"], "val": ["box_4"]}', "'gone'", "must be the name of a case"),
            ('{"train": ["box_0"], "val": ["box_1", "box_4"]}', "patient 'a'", "both train and val"),
            ('{"train": ["box_4"], "val": ["box_4"]}', "patient 'box_4'", "both train and val"),
            ('{"train": ["box_4"]}', "'train' and 'val'"),
            ('{"train": ["box_4"], "val": []}', "'train' and 'val'"),
            ('{"train": "box_4", "val": ["box_5"]}', "'train' and 'val'"),
            ('{"train": ["box_4", "box_4"], "val": ["box_5"]}', "'box_4'", "stand once"),
            ('{"train": ["box_5"], "val": ["box_4", "box_4"]}', "'box_4'", "stand once"),
            ('{"train": ["box_5", 3], "val": ["box_4"]}', "3 must be the name"),
            ('{"train": ["box_5"], "val": [["box_4"]]}', "['box_4'] must be the name"),
            ('[["box_4"], ["box_5"]]', "JSON object"), ('{"train": ["box_4"]', "not valid JSON")):
        (root / "splits.json").write_text(content)
        refused(lambda: load_cohort(root), "splits.json", *words)
        assert (root / "splits.json").read_text() == content


def test_one_patient_can_be_looked_at_but_not_trained_on(root):
    write_dataset(root, cases={name: {"patient": "x"} for name in PATIENTS})
    cohort = load_cohort(root)
    assert (cohort.train, sorted(cohort.val)) == ((), list(PATIENTS)) and not (root / "splits.json").exists()
    refused(lambda: fit("MAG-UNet", PHANTOMS, 0, cohort), "one patient", "add other patients")


def test_a_case_is_described_and_one_that_cannot_be_used_is_explained(root):
    info = {"patient": "C", "grade_left": 2, "grade_right": 0}
    write_dataset(root, cases={"box_4": info | {"parameters": {}, "any_values": True}})
    case, known = load_cohort(root).cases["box_4"], {"case": "box_4"} | info
    assert describe(case, *read_checked(case)) == known | {
        "slices": 20, "matrix": 32, "slice_mm": 3.0, "pixel_mm": 2.0,
        "target_ml": pytest.approx(9 * 10 * 10 * 12 / 1000)}
    columns = ("slices", "matrix", "slice_mm", "pixel_mm", "target_ml")
    assert describe(case, None, None) == known | dict.fromkeys(columns)
    mask = read_volume(case.label)
    write_volume(mask.with_array(mask.array * 3), case.label)           # `magunet check` lists all there is
    refused(lambda: read_checked(case), "box_4.nii.gz", "labels [0, 3]", "0 and 1 only")
    case.image.write_bytes(gzip.compress(b"no image"))
    refused(lambda: read_checked(case), "box_4_0000.nii.gz")


PHANTOMS = replace(profiles.load("smoke"), cases=2, test_cases=1, test_seed=2, scan_matrix=32,
                   scan_slices=(20, 24))


def quietly(items, what):
    return iter(items)


def test_scored_phantoms_have_seeds_of_their_own_and_every_grade_equally_often(compendium, monkeypatch):
    """Of 25, every pair of grades is one; a seed that is trained on, too, is refused before any work."""
    calls = []
    monkeypatch.setattr("sijphantom.cohort.write_phantoms", lambda *words: calls.append(words))
    monkeypatch.setattr("sijphantom.cohort.load_cohort", str)
    cohort_of(replace(PHANTOMS, test_seed=500, test_cases=50), quietly)
    _, phantoms, _, _, scored = calls.pop()
    assert [*scored] == [*range(500, 550)] and phantoms.keys() - {*scored} == {0, 1}
    assert not any("grades" in phantoms[seed] for seed in (0, 1))
    pairs = Counter(phantoms[seed]["grades"] for seed in scored)
    assert pairs == dict.fromkeys(itertools.product(range(5), repeat=2), 2)
    for test_seed in (0, 1):
        refused(lambda seed=test_seed: cohort_of(replace(PHANTOMS, test_seed=seed), quietly),
                f"profile smoke: phantoms of seeds {test_seed} to {test_seed} would be trained on and scored",
                "choose another test_seed")
    assert not calls


def test_interrupted_generation_goes_on_and_writes_what_was_drawn(compendium, monkeypatch):
    made, mask = [], np.uint8(np.indices((8, 8, 8)).sum(0) > 12)
    scans = [np.where(mask, 100, -1000).astype(np.int16) for _ in range(3)]
    for seed, scan in enumerate(scans):
        scan[7, 7, 7] = 700 + seed                                              # bone

    def recorded(seed, matrix, slices, thickness, grades=None):
        """In no time: what a phantom looks like is not the matter here."""
        assert (matrix, slices, thickness, grades) == (32, (20, 24), 6.0, None if seed < 2 else (0, 0))
        made.append(seed)
        return phantom.Phantom(scans[seed], mask, mask, (3, 8, 8), (seed, 0), {"seed": seed})

    def interrupted(items, what):
        yield items[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "make_phantom", recorded)
    with pytest.raises(KeyboardInterrupt):
        cohort_of(PHANTOMS, interrupted)
    assert made == [0] and not (phantom_folder(PHANTOMS) / "dataset.json").exists()
    root = cohort_of(PHANTOMS, quietly).root
    assert made == [0, 1, 2]
    cohort = cohort_of(PHANTOMS, quietly)
    assert cohort.root == root and made == [0, 1, 2]                                # nothing left to do
    assert (cohort.train, cohort.val) == (("phantom_000", "phantom_001"), ("phantom_002",))
    dataset = json.loads((root / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "CT"} and dataset["labels"] == {"background": 0, "SIJ": 1}
    assert dataset["numTraining"] == 3 and dataset["file_ending"] == ".nii.gz"
    for seed, case in enumerate(cohort.cases.values()):
        assert case.info["parameters"] == {"seed": seed}
        row = describe(case, *read_checked(case))
        assert (row["patient"], row["grade_left"], row["grade_right"]) == (f"phantom_00{seed}", seed, 0)
        for path, array in ((case.image, scans[seed]), (case.label, mask)):
            volume = read_volume(path)
            assert np.array_equal(volume.array, array) and volume.spacing == (3, 8, 8)
            assert volume.to_world((3.5, 3.5, 3.5)) == pytest.approx([0, 0, 0])         # centred


def test_few_of_many_cases_are_spread_over_their_order():
    names = [str(n) for n in range(100)]
    assert evenly(names, 3) == ["0", "49", "99"] and evenly(names[:2], 5) == ["0", "1"]
    pairs = [divmod(int(name) % 25, 5) for name in evenly(names, 20)]   # grades of phantoms that are scored
    assert all(set(grades) == set(range(5)) for grades in zip(*pairs))
