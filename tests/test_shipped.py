"""Weights in half precision, the ones in the repository, and what their card says of them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import ROOT, refused
from test_cli import call

from magunet.base import project
from magunet.base.provenance import file_hash, read_json
from magunet.metrics import overlap
from magunet.predict import (
    CARD_FILE,
    LOCATOR,
    RECORD_FILE,
    WEIGHTS_FILE,
    load_model,
    shipped_weights,
)
from magunet.volume import Volume, write_volume
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom
from workflow import unseen
from workflow.weights import CALIBRATED, CALIBRATION, card, ship

WEIGHTS = ROOT / "data" / "weights"


def test_weights_are_halved_and_answer_alike(run, tmp_path):
    ship(run, tmp_path)
    whole, half = (safetensors.torch.load_file(folder / WEIGHTS_FILE) for folder in (run, tmp_path))
    assert whole.keys() == half.keys()
    for name, tensor in half.items():
        assert tensor.dtype == (torch.half if whole[name].is_floating_point() else whole[name].dtype), name
        assert torch.equal(tensor, whole[name].to(tensor.dtype)), name
    record = read_json(tmp_path / RECORD_FILE)
    assert record["outputs"][WEIGHTS_FILE] == file_hash(tmp_path / WEIGHTS_FILE)
    assert record["run"] == run.name and record["train"] == read_json(run / RECORD_FILE)["train"]
    window = np.random.default_rng(0).random((16, 32, 32), np.float32)
    full, small = (load_model(folder).probability(window) for folder in (run, tmp_path))
    assert full.max() > 0.5 > full.min() and np.abs(full - small).max() < 0.02


def test_a_weight_beyond_half_precision_is_refused_and_nothing_written(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    weights = safetensors.torch.load_file(tmp_path / "run" / WEIGHTS_FILE)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = 7e4
    (tmp_path / "run" / WEIGHTS_FILE).write_bytes(safetensors.torch.save(weights))
    refused(lambda: ship(tmp_path / "run", tmp_path / "weights"), WEIGHTS_FILE, name, "65504")
    assert not (tmp_path / "weights").exists()


def test_predict_takes_them_when_no_model_is_named_and_says_so(run, compendium, capsys):
    weights, scan = compendium / "data" / "weights", np.full((24, 36, 36), -1000, np.int16)
    ship(run, weights)
    shutil.copytree(WEIGHTS / LOCATOR, weights / LOCATOR)
    scan[:, 4:32, 4:32], scan[6:15, 12:22, 10:20] = 0, 700
    write_volume(Volume(scan, (3.0, 2.0, 2.0)), compendium / "ct.nii.gz")
    command = "predict", "ct.nii.gz", "--out", "out", "--formats", "nifti,json"
    status, out, said = call(capsys, *command)
    assert status == 0
    assert "no --model given" in said and CARD_FILE in said and "trained on phantoms only" in said
    mask, report = map(Path, out.split())
    first, model = mask.read_bytes(), read_json(report)["model"]
    assert model["sha256_of_weights"] == file_hash(weights / WEIGHTS_FILE)
    status, _, said = call(capsys, *command, "--model", weights)
    assert status == 0 and "no --model given" not in said and mask.read_bytes() == first


# Those in the repository --------------------------------------------------------------------------------
def test_they_are_small_halved_and_agree_with_full_precision():
    """In the same arithmetic; bfloat16 adds rounding of its own."""
    assert shipped_weights() == project.data() / "weights"
    folders, scores = (WEIGHTS, WEIGHTS / LOCATOR), pd.read_csv(WEIGHTS / "scores.csv")
    assert sum((folder / WEIGHTS_FILE).stat().st_size for folder in folders) <= 8 * 2**20
    for folder in folders:
        tensors, record = safetensors.torch.load_file(folder / WEIGHTS_FILE), read_json(folder / RECORD_FILE)
        assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.half}
        assert record["outputs"] == {WEIGHTS_FILE: file_hash(folder / WEIGHTS_FILE)}
        assert record["network"] == "MAG-UNet" and record["settings"]["augmentation"] == "strong"
    assert scores["agreement"].min() >= 0.999 and scores["agreement"].count() >= 25
    assert scores["agreement_as_run"].min() >= 0.998 and scores["agreement_as_run"].notna().all()


def test_the_card_says_what_record_and_scores_say():
    scores, record = pd.read_csv(WEIGHTS / "scores.csv"), read_json(WEIGHTS / RECORD_FILE)
    text = (WEIGHTS / CARD_FILE).read_text()
    assert text == card(record, read_json(WEIGHTS / LOCATOR / RECORD_FILE), scores)
    phantoms, others = scores[scores["group"] == unseen.PHANTOMS], scores[scores["group"] == CALIBRATION]
    assert len(phantoms) == record["settings"]["test_cases"] and len(others) == CALIBRATED[1]
    pairs = [others[[f"own_{side}", f"dice_{side}"]].dropna() for side in ("left", "right")]
    own, dice = np.concatenate(pairs).T
    slope, intercept = np.polyfit(own, dice, 1)
    assert record["calibration"] == pytest.approx([intercept, slope])
    assert f"| real CT | 1 | {100 * scores.iloc[-1]['dice']:.1f} " in text
    for grade in range(5):
        dice = [100 * joint for side in ("left", "right")
                for joint in phantoms.loc[phantoms[f"grade_{side}"] == grade, f"dice_{side}"]]
        assert f"| {grade} | {len(dice)} | {np.mean(dice):.1f} ({min(dice):.1f} to {max(dice):.1f}) |" in text
        assert np.mean(dice) >= 85, "what is wanted of every grade"
    assert scores["note"].isna().all(), "both joints are found in every scan"
    worst = phantoms.sort_values("dice").iloc[0]
    assert f"Worst phantoms: {worst['case']} {100 * worst['dice']:.1f} (grades " in text


def test_they_find_the_joints_of_a_phantom_that_nobody_has_seen():
    scan, truth = phantom_scan(make_phantom(123_456, matrix=64, slices=(20, 24)))
    assert overlap(load_model(WEIGHTS).segment(scan).array, truth.array).dice > 0.6


def test_a_scan_is_scored_as_a_whole_and_by_side(tmp_path):
    truth, found = np.zeros((2, 10, 20, 40), np.uint8)
    # right and left, as columns run to the left
    truth[2:8, 5:15, 5:10], truth[2:8, 5:15, 30:35] = 1, 1
    found[2:8, 5:15, 5:10], found[2:8, 5:10, 30:35] = 1, 1
    for columns, direction in ((slice(None), np.eye(3)), (slice(None, None, -1), np.diag([-1.0, 1, 1]))):
        true, predicted, nothing = (Volume(array[:, :, columns], (2.0, 1.0, 3.0), (0, 0, 0), direction)
                                    for array in (truth, found, 0 * found))
        row = unseen.score(unseen.Unseen("g", "c", true, true, (1, 4)), predicted)
        assert row["dice"] == pytest.approx(2 * 450 / (600 + 450)) and row["dice_right"] == 1
        assert row["dice_left"] == pytest.approx(2 * 150 / (300 + 150))
        assert (row["grade_left"], row["grade_right"], row["group"], row["case"]) == (1, 4, "g", "c")
        assert unseen.score(unseen.Unseen("g", "c", true, true), nothing)["median_surface_mm"] == np.inf
    refused(lambda: unseen.label_maps(tmp_path), str(tmp_path), "no .nii.gz label maps")
