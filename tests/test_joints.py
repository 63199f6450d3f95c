"""Left and right of the patient, on every kind of grid."""

import itertools
from pathlib import Path

import nrrd
import numpy as np
import pytest
from joint_object import CENTRES, COARSE, DIRECTIONS, both, grid, parts, places, world

from compendium.scores import score_case
from magunet.cohort import Case
from magunet.joints import JOINTS, SIDES, left_and_right, midline
from magunet.volume import read_volume, reorient, same_geometry

LPS = DIRECTIONS["LPS"]


def labels_in(mask):
    return set(np.unique(left_and_right(mask).array))


def test_the_patients_left_is_left_on_any_grid():
    """Both joints, and each alone, which is told by the middle of the scan."""
    for name, direction in DIRECTIONS.items():
        on = grid(direction)
        labels = left_and_right(both(on))
        assert same_geometry(labels, on) and labels.array.dtype == np.uint8, name
        for joint in JOINTS:
            own = parts(on)[joint.side]
            np.testing.assert_array_equal(labels.array == joint.label, own, name)
            single = left_and_right(on.with_array(own))
            np.testing.assert_array_equal(single.array, own * joint.label, name)
            assert not midline(single).between_joints, name


def test_files_whose_axes_run_against_a_world_of_ras(tmp_path):
    """A NRRD file as other programs write them: steps of negative length, and x to the right."""
    to_lps = np.array([-1, -1, 1])
    for sign in ((-1, -1, 1), (1, 1, -1)):
        on = grid(np.diag(np.multiply(sign, to_lps).astype(float)))
        steps = np.diag(np.multiply(sign, on.spacing[::-1]))
        nrrd.write(str(tmp_path / "mask.nrrd"), both(on).array.T, {
            "space": "right-anterior-superior", "space directions": steps,
            "space origin": np.multiply(on.origin, to_lps), "kinds": ["domain"] * 3})
        labels = left_and_right(read_volume(tmp_path / "mask.nrrd"))
        for joint in JOINTS:
            np.testing.assert_allclose(places(labels, labels.array == joint.label),
                                       places(on, parts(on)[joint.side]), atol=1e-6, err_msg=str(sign))


def test_a_single_joint_that_the_middle_of_the_scan_cuts_stays_whole():
    for shift, label in ((3, 2), (-3, 1)):
        on = grid(LPS, centre=(CENTRES["left"][0] + shift, 0, 0))
        assert labels_in(on.with_array(parts(on)["left"])) == {0, label}


def test_a_joint_and_a_piece_of_the_hip_beside_it_are_not_called_left_and_right():
    on = grid(LPS, shape=(44, 48, 170))
    for side, label, hip in (("left", 1, (100, -20, -40)), ("right", 2, (-98, -20, -40))):
        for radius in (11, 18):
            mask = on.with_array(parts(on)[side] | (np.linalg.norm(world(on) - hip, axis=-1) < radius))
            assert labels_in(mask) == {0, label} and not midline(mask).between_joints, (side, radius)


def test_a_piece_that_spans_both_sides_is_cut_and_specks_get_a_side_but_do_not_move_the_midline():
    on, mask = grid(LPS), both(grid(LPS)).array
    at = world(on)
    bridge = (np.abs(at[..., 1]) < 4) & (np.abs(at[..., 2]) < 4) & (np.abs(at[..., 0]) < 45)
    labels = left_and_right(on.with_array(mask | bridge))
    assert midline(labels).between_joints and labels.array[bridge].all()
    mask[0, 0, 0] = mask[0, 0, -9:] = 1
    specked = left_and_right(on.with_array(mask))
    assert midline(specked) == midline(both(on))
    assert specked.array[0, 0, 0] == 2 and (specked.array[0, 0, -9:] == 1).all()
    for joint in JOINTS:
        own = parts(on)[joint.side]
        assert (labels.array[own] == joint.label).all() and (specked.array[own] == joint.label).all()


def test_masks_may_be_empty_or_a_voxel_and_hold_any_number():
    on = grid(LPS)
    assert labels_in(on) == {0} and midline(on).x == pytest.approx(0)
    one = on.array.copy()
    one[3, 3, 3] = 1
    assert np.count_nonzero(left_and_right(on.with_array(one)).array) == 1
    mask = both(on)
    for array in (mask.array * 7, mask.array != 0, mask.array.astype(np.float32) / 2):
        labels = left_and_right(on.with_array(array))
        np.testing.assert_array_equal(labels.array, left_and_right(mask).array, str(array.dtype))


def by_side(truth, prediction):
    """Rows of the two sides as scores have them."""
    return score_case(Case("c", Path("i"), Path("l"), "p", {}), prediction, truth)[1]


PIECES = {"above and below": [(0, -5, -22), (0, 3, 20)], "side by side": [(-13, 0, 0), (13, 0, 0)],
          "front and back": [(0, -18, 0), (0, 18, 4)], "three": [(-12, -6, -14), (0, 16, 0), (12, -6, 16)]}
"""Centres in mm of the pieces of one joint, balls of 6 mm radius, from the joint's own."""


@pytest.mark.parametrize("sides", [("left",), ("right",), ("left", "right")])
def test_a_joint_in_pieces_has_one_side_in_exports_and_in_scores(sides):
    """Whatever the grid: scores by side and exports once disagreed on it."""
    for code, (name, pieces) in itertools.product(("LPS", "RAS", "SPL"), PIECES.items()):
        on = reorient(grid(DIRECTIONS["oblique"], *COARSE), code)
        at, own = world(on), dict.fromkeys(SIDES, np.zeros(on.array.shape, bool))
        for side in sides:
            centres = CENTRES[side] + np.array(pieces)
            own[side] = (np.linalg.norm(at[..., None, :] - centres, axis=-1) < 6).any(axis=-1)
        mask = on.with_array(own["left"] | own["right"])
        labels = left_and_right(mask).array
        for joint, row in zip(JOINTS, by_side(mask, mask)):
            np.testing.assert_array_equal(labels == joint.label, own[joint.side], f"{name}, {code}")
            ml = pytest.approx(own[joint.side].sum() * np.prod(on.spacing) / 1000)
            found = row["side"], row["truth_ml"], row["predicted_ml"], row["missed"]
            assert found == (joint.side, ml, ml, 0), (name, code)


def test_two_joints_are_found_wherever_the_scan_lies_and_a_prediction_is_parted_where_the_truth_is():
    """The prediction holds one joint only, off the middle; the truth's two joints are parted right of it."""
    on = grid(LPS, shape=(44, 48, 90), centre=(60.0, 0.0, 0.0))
    assert midline(both(on)).between_joints
    np.testing.assert_array_equal(left_and_right(both(on)).array == 1, parts(on)["left"])
    left, right = by_side(both(on), on.with_array(parts(on)["left"]))
    assert (left["missed"], right["missed"]) == (0, 1)
    assert left["dice"] == 1 and right["predicted_ml"] == 0
