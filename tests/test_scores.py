"""Scores by case and by side: left is left, a missed joint is counted, and nothing is dropped."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from boxes import TINY, write_cohort

from compendium import scores
from compendium.scores import SIDES_FILE, read_scores, score_case, score_run, scored_with
from magunet.base.provenance import write_json
from magunet.cohort import Case, load_cohort
from magunet.runs import data_hash
from magunet.volume import Volume, read_volume, reorient

CASE = Case("c1", Path("image"), Path("label"), "p1", {"patient": "p1", "grade_left": 3, "grade_right": 0})
SPACING = (2.0, 1.0, 1.5)


def volume(*boxes):
    """An LPS mask of 10 x 20 x 60 voxels with boxes over some columns, on a grid away from the origin."""
    array = np.zeros((10, 20, 60), np.uint8)
    for first, end in boxes:
        array[3:7, 5:12, first:end] = 1
    return Volume(array, SPACING, (-40.0, 12.0, 7.0))


RIGHT, LEFT = (8, 16), (40, 50)
"""Columns; x grows to the patient's left."""
DIAGONAL = np.sqrt(20**2 + 20**2 + 90**2)


def scored(prediction, truth, code="LPS"):
    whole, joints = score_case(CASE, reorient(prediction, code), reorient(truth, code))
    return whole, {joint["side"]: joint for joint in joints}


def test_left_is_the_patients_left_in_any_orientation():
    """The left joint is found exactly, the right one is missed."""
    for code in ("LPS", "RAS", "SPL", "AIR"):
        whole, joints = scored(volume(LEFT), volume(LEFT, RIGHT), code)
        assert (joints["left"]["grade"], joints["right"]["grade"]) == (3, 0), code
        assert (whole["grade_left"], whole["grade_right"], whole["patient"]) == (3, 0, "p1"), code
        for row, expected in (
                (joints["left"], dict(dice=1, hd95=0, nsd=1, missed=0, undefined=0)),
                (joints["right"], dict(dice=0, nsd=0, missed=1, undefined=1, hd95=DIAGONAL, assd=DIAGONAL,
                                       truth_ml=4 * 7 * 8 * 3 / 1000, predicted_ml=0)),
                (whole, dict(missed=1, undefined=0, recall=10 / 18, precision=1))):
            assert {name: row[name] for name in expected} == pytest.approx(expected), code


def test_a_joint_beside_which_something_else_was_found_is_missed_too():
    """Its distances are defined, so nothing else would tell."""
    whole, joints = scored(volume((20, 26), LEFT), volume(RIGHT, LEFT))
    assert joints["right"]["missed"] == 1 and joints["right"]["undefined"] == 0
    assert 0 < joints["right"]["hd95"] < DIAGONAL
    assert whole["missed"] == 1


def test_a_side_without_a_joint_is_no_missed_one_but_undefined_when_something_is_found_there():
    whole, joints = scored(volume(RIGHT, LEFT), volume(LEFT))
    assert (joints["right"]["missed"], joints["right"]["undefined"], joints["right"]["dice"]) == (0, 1, 0)
    assert whole["missed"] == 0
    _, joints = scored(volume(LEFT), volume(LEFT))
    assert (joints["right"]["dice"], joints["right"]["hd95"], joints["right"]["undefined"]) == (1, 0, 0)


def test_empty_cases_count_and_are_never_not_a_number():
    for prediction, truth, expected in (
            ((), (), dict(dice=1, hd95=0, nsd=1, undefined=0, missed=0)),
            ((), (LEFT, RIGHT), dict(dice=0, hd95=DIAGONAL, nsd=0, undefined=1, missed=2)),
            ((LEFT, RIGHT), (), dict(dice=0, hd95=DIAGONAL, nsd=0, undefined=1, missed=0))):
        whole, joints = scored(volume(*prediction), volume(*truth))
        assert {name: whole[name] for name in expected} == pytest.approx(expected), (prediction, truth)
        for row in (whole, *joints.values()):
            assert not any(pd.isna(value) for value in row.values()), row


def test_the_midline_parts_joints_and_cuts_none():
    for boxes, left in (([RIGHT, LEFT], 10), ([(0, 5), (50, 60)], 10), ([(30, 34), (37, 45)], 12),
                        ([(8, 20)], 0), ([(40, 50)], 10), ([], 0),
                        ([(30, 34), (44, 52)], 12),             # 15 mm apart: pieces of one joint
                        ([(25, 45)], 20), ([(15, 34)], 0)):     # the middle would cut the joint
        _, joints = scored(volume(*boxes), volume(*boxes))
        columns = [joints[side]["truth_ml"] / (4 * 7 * 3 / 1000) for side in ("left", "right")]
        assert columns == pytest.approx([left, sum(end - first for first, end in boxes) - left]), boxes


@dataclass
class Stub:
    """Stands in for a trained run: finds all that is brighter than air."""

    record: dict
    settings = TINY
    device = torch.device("cpu")
    segmented = 0

    def segment(self, scan):
        self.segmented += 1
        return scan.with_array((scan.array > -200).astype(np.uint8))


@pytest.fixture
def stubbed(compendium, monkeypatch):
    """A run's folder, its stub and its cohort, of two patients with two scans each, from 000 and 001."""
    cohort = write_cohort(compendium / "data" / "boxes")
    names = {f"box_{i}": {"patient": f"00{i // 2}", "grade_left": i} for i in range(4)}
    dataset = json.loads((cohort.root / "dataset.json").read_text())
    write_json(cohort.root / "dataset.json", dataset | {"cases": names})
    (cohort.root / "splits.json").unlink()
    cohort = load_cohort(cohort.root)
    folder = compendium / "runs" / "stub"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    stub = Stub({"network": "[1]", "seed": 4, "data_hash": data_hash(cohort, TINY)})
    monkeypatch.setattr(scores.predict, "load_model", lambda folder, plain: stub)
    return folder, stub, cohort


def test_a_run_keeps_a_row_a_case_and_a_row_a_side_and_what_they_cost(stubbed):
    folder, _, cohort = stubbed
    table, sides = score_run(folder, cohort), read_scores(folder, SIDES_FILE)
    assert table[["network", "seed", "case", "patient"]].to_numpy().tolist() == [
        ["[1]", 4, name, cohort.cases[name].patient] for name in cohort.val]            # 000, not 0
    assert (table["dice"] == 1).all()
    assert (table["peak_memory_mb"] > 50).all() and (table["seconds"] >= 0).all()
    assert sides.groupby("case")["side"].apply(sorted).tolist() == [["left", "right"]] * len(cohort.val)
    truth = [np.count_nonzero(read_volume(cohort.cases[name].label).array) * 12 / 1000
             for name in sorted(cohort.val)]
    assert sides.groupby("case")["truth_ml"].sum().tolist() == pytest.approx(truth)
    assert sides.loc[sides["side"] == "right", "grade"].isna().all()
    assert "processor" in scored_with(folder)["device"]


def test_scores_are_made_once_and_anew_when_anything_is_missing_or_changed(stubbed):
    folder, stub, cohort = stubbed
    first = score_run(folder, cohort)
    columns = [name for name in first if name not in ("seconds", "peak_memory_mb")]
    for times, (spoilt, text) in enumerate([
            (SIDES_FILE, None), ("scores.csv", None), ("weights.safetensors", "others"),
            ("scores.json", '{"key": "of earlier code"}')], start=1):
        score_run(folder, cohort)
        assert stub.segmented == times * len(cohort.val), f"before {spoilt}"
        (folder / spoilt).unlink() if text is None else (folder / spoilt).write_text(text)
        pd.testing.assert_frame_equal(score_run(folder, cohort)[columns], first[columns])
        assert stub.segmented == (times + 1) * len(cohort.val), f"after {spoilt}"
