"""Scores by case and by side: left is left, a missed joint is counted, and nothing is dropped."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from boxes import TINY, write_cohort
from conftest import refused

from compendium import scores
from compendium.scores import SIDES_FILE, read_scores, score_case, score_run, scored_by
from magunet.base.provenance import write_json
from magunet.cohort import Case, load_cohort
from magunet.runs import data_hash
from magunet.volume import Volume, read_volume, reorient, write_volume

CASE = Case("c1", Path("image"), Path("label"), "p1", {"patient": "p1", "grade_left": 3, "grade_right": 0})


def volume(*boxes):
    """An LPS mask of 10 x 20 x 60 voxels with boxes over some columns, on a grid away from the origin."""
    array = np.zeros((10, 20, 60), np.uint8)
    for first, end in boxes:
        array[3:7, 5:12, first:end] = 1
    return Volume(array, (2.0, 1.0, 2.0), (-40.0, 12.0, 7.0))


RIGHT, LEFT = (8, 16), (40, 50)
"""Columns; x grows to the patient's left."""
DIAGONAL = np.sqrt(20**2 + 20**2 + 120**2)
EQUAL = dict(dice=1, hd95=0, nsd=1, missed=0, undefined=0)
LOST = dict(dice=0, hd95=DIAGONAL, assd=DIAGONAL, nsd=0, undefined=1)
"""One of the masks is empty."""
SCORED = {
    "the right joint is missed": ([LEFT], [LEFT, RIGHT], {
        "left": EQUAL | dict(grade=3),
        "right": LOST | dict(grade=0, missed=1, truth_ml=4 * 7 * 8 * 4 / 1000, predicted_ml=0),
        "whole": dict(missed=1, undefined=0, recall=10 / 18, precision=1, grade_left=3, patient="p1")}),
    # Its distances are defined, so nothing else would tell.
    "something else was found beside the right joint": ([(20, 26), LEFT], [RIGHT, LEFT], {
        "right": dict(missed=1, undefined=0, hd95=12 * 2), "whole": dict(missed=1)}),
    "something was found where no joint is": ([RIGHT, LEFT], [LEFT], {
        "unknown": dict(missed=0, dice=20 / 28, grade=None), "whole": dict(missed=0)}),
    "one joint in a CT that does not tell its side": ([LEFT], [LEFT], {"unknown": EQUAL, "whole": EQUAL}),
    "nothing at all": ([], [], {"whole": EQUAL}),
    "nothing was found": ([], [LEFT, RIGHT], {"whole": LOST | dict(missed=2)}),
    "no truth": ([LEFT, RIGHT], [], {"right": LOST | dict(missed=0), "whole": LOST | dict(missed=0)})}
"""What happened -> boxes predicted and true, and scores by hand of sides and whole."""


def test_cases_and_sides_score_as_by_hand_in_any_orientation_and_are_never_not_a_number():
    for (what, (*masks, expected)), code in itertools.product(SCORED.items(), ("LPS", "RAS", "SPL", "AIR")):
        whole, joints = score_case(CASE, *(reorient(volume(*boxes), code) for boxes in ([], *masks)))
        rows = {"whole": whole} | {joint["side"]: joint for joint in joints}
        assert not any(pd.isna(value) for row in rows.values() for key, value in row.items()
                       if key != "grade"), (what, rows)
        for name, by_hand in expected.items():
            found = {measure: rows[name][measure] for measure in by_hand}
            assert found == pytest.approx(by_hand), (what, code, name)


def test_within_the_targets_slices_what_lies_above_and_below_does_not_count_whatever_the_order_of_voxels():
    """Beside a naive count in axial slices of random masks, whose truth fills slices 2 and 4 to 6 of 9."""
    rng = np.random.default_rng(0)
    truth, predicted = (rng.random((9, 20, 60)) < share for share in (0.3, 0.4))
    slices = [2, 4, 5, 6]
    truth[[z for z in range(9) if z not in slices]] = False
    for x, y in ((predicted, truth), (predicted, 0 * truth), (0 * truth, 0 * truth)):
        expected, counted = {}, slices if y.any() else range(9)
        for name, part in (("", range(9)), ("_within", counted)):
            tp, fp, fn = (sum(np.sum(one[z] & other[z]) for z in part) for one, other in (
                (x, y), (x, 1 - y), (1 - x, y)))
            scored = {"dice": (2 * tp, 2 * tp + fp + fn), "iou": (tp, tp + fp + fn),
                      "precision": (tp, tp + fp), "recall": (tp, tp + fn)}
            expected |= {key + name: a / b if b else float(tp + fp + fn == 0)
                         for key, (a, b) in scored.items()}
        for code in ("LPS", "AIR", "PSL", "ASR"):                       # the last two are sagittal
            masks = [reorient(Volume(mask.astype(np.uint8), (2.0, 1.0, 2.0)), code) for mask in (x, y)]
            scores_of_case = score_case(CASE, masks[0], *masks)[0]
            assert {key: scores_of_case[key] for key in expected} == pytest.approx(expected), code
    assert expected["dice_within"] == 1


@pytest.fixture
def stubbed(compendium, monkeypatch):
    """The folder of a run that finds all that is brighter than air, its cohort of the patients 000 and 001,
    and the centres of the regions that it has segmented."""
    cohort, segmented = write_cohort(compendium / "data" / "boxes"), []
    names = {f"box_{i}": {"patient": f"00{i // 2}", "grade_left": i, "any_values": True} for i in range(4)}
    dataset = json.loads((cohort.root / "dataset.json").read_text())
    write_json(cohort.root / "dataset.json", dataset | {"cases": names})
    (cohort.root / "splits.json").unlink()
    cohort = load_cohort(cohort.root)

    def segment(scan, centre):
        segmented.append(centre)
        return scan.with_array((scan.array > -200).astype(np.uint8))

    folder = compendium / "runs" / "stub"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    settings = replace(TINY, voxel_mm=3.0, depth=None, size=None)
    record = {"network": "[1]", "seed": 4, "data_hash": data_hash(cohort, settings)}
    model = SimpleNamespace(record=record, settings=settings, device=torch.device("cpu"), segment=segment)
    monkeypatch.setattr(scores.predict, "load_model", lambda folder, plain: model)
    for file in ("weights.safetensors", "locator/weights.safetensors"):
        (compendium / "data" / "weights" / file).parent.mkdir(exist_ok=True)
        (compendium / "data" / "weights" / file).write_text("locator")
    monkeypatch.setattr(scores.predict, "locate",
                        lambda scan: ((float(scan.array.max()), 2.1, 0.1 + 0.2), ""))
    return folder, cohort, segmented


def test_a_scans_centre_is_found_once_for_all_networks_and_anew_when_the_locator_is_another(
        stubbed, monkeypatch, tmp_path):
    folder, cohort, segmented = stubbed
    score_run(folder, cohort)
    located = list(segmented)
    assert located == [(float(read_volume(cohort.cases[name].image).array.max()), 2.1, 0.1 + 0.2)
                       for name in cohort.val]
    stored = sorted((tmp_path / "data" / "prepared").glob("box_*.json"))
    assert len(stored) == len(cohort.val)
    monkeypatch.setattr(scores.predict, "locate", lambda scan: (None, ""))

    def centres(weights):
        (folder / "weights.safetensors").write_text(weights)
        segmented.clear()
        score_run(folder, cohort)
        return list(segmented)

    assert centres("of another network") == located
    stored[0].write_text("[1.0, 2")
    assert centres("of a third") == [None, *located[1:]], "a damaged file was not made anew"
    monkeypatch.setattr(scores.predict, "locate", lambda scan: 1 / 0)
    assert centres("of a fourth") == [None, *located[1:]], "that no joint was found is not kept"
    (tmp_path / "data" / "weights" / "locator" / "weights.safetensors").write_text("another locator")
    with pytest.raises(ZeroDivisionError):                  # with the same network, too
        score_run(folder, cohort)


def test_a_run_keeps_a_row_a_case_and_a_row_a_side_made_once_and_anew_when_anything_has_changed(stubbed):
    folder, cohort, segmented = stubbed
    first, sides = score_run(folder, cohort), read_scores(folder, SIDES_FILE)
    assert first[["network", "seed", "case", "patient"]].to_numpy().tolist() == [
        ["[1]", 4, name, cohort.cases[name].patient] for name in cohort.val]            # 000, not 0
    assert (first["dice"] == 1).all()
    assert (first["peak_memory_mb"] > 50).all() and (first["seconds"] >= 0).all()
    assert sides.groupby("case")["side"].apply(sorted).tolist() == [["unknown"]] * len(cohort.val)
    truth = [np.count_nonzero(read_volume(cohort.cases[name].label).array) * 12 / 1000
             for name in sorted(cohort.val)]
    assert sides.groupby("case")["truth_ml"].sum().tolist() == pytest.approx(truth)
    assert sides["grade"].isna().all()
    assert "processor" in scored_by(folder)["device"]
    columns = [name for name in first if name not in ("seconds", "peak_memory_mb")]
    for times, (spoilt, text) in enumerate([
            (SIDES_FILE, None), ("scores.csv", None), ("weights.safetensors", "others"),
            ("scores.json", '{"key": "of earlier code"}')], start=1):
        score_run(folder, cohort)
        assert len(segmented) == times * len(cohort.val), f"before {spoilt}"
        (folder / spoilt).unlink() if text is None else (folder / spoilt).write_text(text)
        pd.testing.assert_frame_equal(score_run(folder, cohort)[columns], first[columns])
        assert len(segmented) == (times + 1) * len(cohort.val), f"after {spoilt}"
    last = cohort.cases[cohort.val[-1]]
    corrected = cohort._replace(cases=cohort.cases | {last.name: last._replace(patient="another")})
    assert score_run(folder, corrected)["patient"].tolist()[-1] == "another"


def test_a_case_on_two_grids_is_refused_and_nothing_is_scored(stubbed, monkeypatch):
    folder, cohort, _ = stubbed
    last, settings = cohort.cases[cohort.val[-1]], replace(TINY, voxel_mm=3.0, depth=None, size=None)
    data = data_hash(cohort, settings)
    monkeypatch.setattr(scores.runs, "data_hash", lambda *_: data)
    label = read_volume(last.label)                         # was so before anybody trained
    write_volume(replace(label, origin=(9.0, 9.0, 9.0)), last.label)
    refused(lambda: score_run(folder, cohort), last.label.name, "lies on another grid")
    assert not (folder / "scores.csv").exists()
