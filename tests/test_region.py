"""The region of interest: cut and put back as torch interpolates, and where it lies in the patient."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, refused
from joint_object import DIRECTIONS, WIDE, both, grid, world
from scipy.spatial.transform import Rotation
from test_predict import Brightness

from benchmarks import region as benchmark
from magunet import predict
from magunet.base import profiles
from magunet.base.profiles import BOX_MM, box_shape
from magunet.metrics import overlap
from magunet.region import (
    LEAST_ML,
    SURE,
    Region,
    cut,
    joints,
    joints_alone,
    joints_centre,
    linear,
    put_back,
    region_about,
    resample,
)
from magunet.volume import Volume, bounding_box, reorient
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom
from sijphantom.scanner import Protocol

ON_REGIONS = [settings for path in sorted((ROOT / "papermill_params").glob("*.yaml"))
              if not (settings := profiles.load(path.stem)).depth and settings.networks is None]
"""The profiles whose networks see boxes."""


@pytest.mark.parametrize("shape", [(9, 13, 17), (9, 40, 60), (18, 20, 30)])
def test_resampling_is_torchs_antialiased_interpolation(shape):
    array = np.random.default_rng(0).normal(size=(9, 20, 30)).astype(np.float32)
    axes = [linear(n, 2.0, n / m - 1, 2 * n / m, m) for n, m in zip(array.shape, shape)]
    expected = F.interpolate(torch.from_numpy(array)[None], shape[1:], mode="bilinear", antialias=True)[0]
    if shape[0] != 9:
        flat = expected.reshape(1, 1, 9, -1)
        expected = F.interpolate(flat, (shape[0], flat.shape[-1]), mode="bilinear", antialias=True)[0, 0]
    assert resample(array, axes) == pytest.approx(expected.numpy().reshape(shape), abs=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_region_lies_where_the_joints_are_and_comes_back_to_its_place(direction):
    mask = both(grid(DIRECTIONS[direction], WIDE))
    lps = reorient(mask, "LPS")
    centre = joints_centre(mask)
    inside = lps.array > 0
    places = [world(lps)[inside & side] for side in (world(lps)[..., 0] > 0, world(lps)[..., 0] < 0)]
    local = [(np.concatenate([p]) - lps.origin) @ lps.direction for p in places]       # mm along x, y, z
    middle = np.mean([(p.min(0) + p.max(0)) / 2 for p in local], axis=0)
    assert centre == pytest.approx(middle[::-1], abs=1e-6)
    for voxel in (1.5, 2.0):
        region = region_about(centre, mask, voxel)
        part = cut(mask, region)
        assert part.shape == box_shape(voxel) == tuple(round(side / voxel) for side in BOX_MM)
        assert part.sum() * voxel**3 == pytest.approx(inside.sum() * np.prod(lps.spacing), rel=0.02)
        back = put_back((part > 0.5).astype(np.float32), region, mask)
        assert overlap(back.array > 0.5, mask.array > 0).dice >= 0.93, voxel


def test_beyond_the_scan_there_is_air_and_an_empty_mask_has_no_region():
    scan = grid(np.eye(3), WIDE)
    scan = scan.with_array(np.full(scan.array.shape, 40, np.int16))
    region = region_about((0.0, 0.0, 0.0), scan, 2.0)           # about the first voxel
    part = cut(scan, region, -200)
    assert part[0, 0, 0] == -200 and part[-1, -1, -1] == pytest.approx(40) and part.max() == pytest.approx(40)
    refused(lambda: joints_centre(scan.with_array(0 * scan.array)), "is empty")


def test_a_network_answers_about_the_centre_that_it_is_told_or_where_the_locator_finds_it(monkeypatch):
    truth = both(grid(np.eye(3), WIDE))
    scan = truth.with_array(np.where(truth.array > 0, 1000, -200).astype(np.int16))
    settings = replace(ON_REGIONS[0], voxel_mm=2.0)
    model = predict.Model(Brightness(), settings, {}, torch.device("cpu"), torch.float32)
    answers = []
    for centre in (joints_centre(truth), None):
        monkeypatch.setattr(predict, "locate", lambda scan, centre=centre: (centre, ""))
        answers += [model.segment(scan), model.segment(scan, joints_centre(truth))]
    located, told, nothing, again = (answer.array for answer in answers)
    assert overlap(told, truth.array).dice > 0.93
    assert (told == located).all() and (told == again).all()
    assert not nothing.any() and nothing.dtype == told.dtype and nothing.shape == told.shape
    moved = model.answer(scan, (joints_centre(truth)[0] + BOX_MM[0], *joints_centre(truth)[1:]))
    assert not moved.mask.array.any() and moved.note == predict.NOTHING


def test_small_pieces_are_no_joints_to_the_locator_nor_unsure_ones_unless_they_pair_with_a_sure_one():
    chance = Volume(np.zeros((40, 20, 40), np.float32), (2.0, 5.0, 4.0))           # 25 voxels are a mL
    for place, voxels, p in ((0, 200, 0.87), (6, 196, 0.99), (11, 400, 0.84), (20, 196, 0.7), (24, 400, 0.6),
                             (36, 400, 0.5)):
        chance.array[:voxels // 20, :, place] = p
        chance.array[voxels // 20, :voxels % 20, place] = p
    pair = joints(chance, LEAST_ML, SURE)
    assert pair.array.dtype == np.uint8
    assert np.array_equal(pair.array > 0, np.isin(chance.array, np.float32([0.87, 0.6])))
    chance.array[16:28, :, 26] = 0.9                # smaller than its neighbour, and sure
    pair = joints(chance, LEAST_ML, SURE).array > 0
    assert np.array_equal(pair, np.isin(chance.array, np.float32([0.87, 0.9])))
    chance.array[..., [0, 26]] = 0
    assert not joints(chance, LEAST_ML, SURE).array.any()
    assert not joints(chance.with_array(0 * chance.array), LEAST_ML, SURE).array.any()


@pytest.mark.parametrize("seed", [97001, 97002, pytest.param(97004, marks=pytest.mark.slow)])
def test_in_parts_of_a_scan_without_joints_the_shipped_locator_finds_none_or_says_so(seed):
    """Parts above and below the joints of phantoms that nothing was chosen on; and half of a scan."""
    truth, scan = (reorient(one, "LPS") for one in reversed(phantom_scan(make_phantom(
        seed, matrix=128, slices=(80, 120), protocol=Protocol(slice_mm=(2, 4), margin_mm=(60, 110))))))
    box, half = bounding_box(truth.array), int(joints_centre(truth)[2] / truth.spacing[2])
    assert predict.locate(scan)[1] == ""
    for part, says in ((np.s_[box[0].stop:], "no sacroiliac joint"),
                       (np.s_[:box[0].start], "no sacroiliac joint"), (np.s_[:, :, half:], "only one joint")):
        centre, note = predict.locate(Volume(scan.array[part], scan.spacing))
        assert says in note and (centre is None) == says.startswith("no"), (part, centre, note)


@pytest.mark.parametrize("code", ["LPS", "RSA"])
def test_the_locator_takes_the_two_pieces_that_make_a_pair_and_says_what_is_missing(monkeypatch, code):
    """Two joints and a larger false piece far below, in a body in a field of view of any width."""
    locator = predict.Model(Brightness(), profiles.load("locator"), {}, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(predict, "load_locator", lambda: locator)
    for left, right, more, said in (
            (True, True, 0, ""), (True, True, 60, ""), (True, False, 0, "only one joint"),
            (False, False, 0, "no sacroiliac joint is found")):
        array = np.full((80, 60, 90), 40, np.int16)
        array[40:52, 20:30, 30:33], array[40:52, 20:30, 54:57] = 1000 * right, 1000 * left
        array[2:14, 20:34, 60:66] = 1000 * (left and right)
        wide = np.pad(array, ((0, 0), (more, more), (more, more)), constant_values=-1000)
        centre, note = predict.locate(reorient(Volume(wide, (4.0, 4.0, 4.0)), code))
        assert said in note and bool(said) == bool(note)
        expected = pytest.approx(4 * np.array([45.5, 24.5 + more, (43 if right else 55) + more]), abs=2.1)
        assert centre == (expected if left else None), (left, right, more)
    array = np.full((80, 60, 90), 40, np.int16)     # right, left, and behind it one larger than the right
    array[40:52, 20:30, 30:33] = array[40:52, 20:30, 54:58] = array[40:52, 34:43, 54:58] = 1000
    centre, note = predict.locate(reorient(Volume(array, (4.0, 4.0, 4.0)), code))
    assert not note and centre == pytest.approx(4 * np.array([45.5, 24.5, 43.25]), abs=2.1)


def test_the_distance_to_the_boxs_face_is_that_of_the_joints_outermost_voxels():
    mask = np.zeros((20, 30, 40), np.uint8)
    mask[5:9, 10:14, 6:31] = 1                  # from 13.5 to 25.5, from 9.5 to 13.5, from 11 to 61 mm
    volume = Volume(mask, (3.0, 1.0, 2.0))
    region = Region((13.0, 8.0, 8.0), (2, 2, 2), (8, 9, 30))    # from 12 to 28, from 7 to 25, from 7 to 67 mm
    for code in ("LPS", "SAR"):
        assert benchmark.to_face(reorient(volume, code), region) == pytest.approx(1.5)
    assert benchmark.to_face(volume, region._replace(shape=(6, 9, 30))) == pytest.approx(-1.5)


@pytest.mark.parametrize("profile, seed", [*(("smoke", seed) for seed in (300, 301, 302)), *(
    pytest.param("cpu", seed, marks=pytest.mark.slow) for seed in range(310, 330))])
def test_the_box_about_the_middle_that_the_locator_finds_holds_both_joints(profile, seed):
    settings = profiles.load(profile)
    row = benchmark.measures(*benchmark.scan_of(settings, seed), settings)
    assert max(abs(row[axis]) for axis in benchmark.AXES) < settings.margin_mm and row[benchmark.FACE] >= 0


@pytest.mark.parametrize("settings", ON_REGIONS, ids=lambda settings: settings.profile)
def test_training_boxes_move_farther_than_the_locator_was_off_and_no_joint_was_cut(settings):
    rows = pd.read_csv(ROOT / "benchmarks" / benchmark.FILE).query("profile == @settings.profile")
    assert len(rows) >= (200 if settings.profile == "cpu" else 5)
    assert rows[list(benchmark.AXES)].abs().max(axis=None) < settings.margin_mm
    assert (rows[benchmark.FACE] >= 0).all()


def test_a_perfect_answer_of_profile_cpu_has_a_dice_of_at_least_97_percent_and_of_half_the_voxels_less():
    cpu = profiles.load("cpu")
    masks = [benchmark.scan_of(cpu, seed)[1] for seed in (1, 3)]
    fine, coarse = (
        np.mean([benchmark.best_dice(mask, region_about(joints_centre(mask), mask, mm)) for mask in masks])
        for mm in (cpu.voxel_mm, 2 * cpu.voxel_mm))
    assert fine >= 0.97 and coarse < fine - 0.02


def test_the_benchmark_shows_what_its_readme_shows(capsys):
    benchmark.main(["--show"])
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert capsys.readouterr().out.strip() in readme


def test_pieces_away_from_both_joints_are_removed_whatever_their_size():
    """Boxes of voxels of 4 mm: two joints 96 mm apart, what lies 12 mm above one, and pieces elsewhere."""
    mask, sums = np.zeros((60, 50, 60), np.uint8), []
    for first, size in (((0, 0, 0), (0, 0, 0)), ((30, 20, 16), (10, 8, 3)), ((30, 20, 40), (10, 8, 3)),
                        ((42, 20, 16), (4, 4, 3)), ((2, 20, 4), (12, 12, 4)), ((50, 2, 30), (1, 1, 1))):
        mask[tuple(slice(start, start + n) for start, n in zip(first, size))] = 1
        for code in ("LPS", "RSA"):
            sums.append(int(joints_alone(reorient(Volume(mask, (4.0, 4.0, 4.0)), code)).array.sum()))
    assert sums == [0, 0, 240, 240, 480, 480] + 6 * [528]
    mask[30:40, 20:28, 16:19] = 0                           # what lay above one joint is all of it
    assert joints_alone(Volume(mask, (4.0, 4.0, 4.0))).array.sum() == 240 + 48
    mask[30:48] = 0                                         # without joints the largest piece is left
    assert joints_alone(Volume(mask, (4.0, 4.0, 4.0))).array.sum() == 12 * 12 * 4


@pytest.mark.parametrize("degrees", [0, 15, 30])
def test_no_joint_of_a_patient_who_lies_turned_or_tilted_is_removed(degrees):
    for axis, way in (("z", 1), ("y", -1)):
        mask, turn = both(grid(np.eye(3), WIDE)), Rotation.from_euler(axis, way * degrees, degrees=True)
        turned = Volume(mask.array, mask.spacing, mask.origin, turn.as_matrix())
        assert joints_alone(turned).array.sum() == mask.array.sum()
