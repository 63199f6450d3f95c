"""Left and right of the patient, on every kind of grid."""

import itertools
from pathlib import Path

import nrrd
import numpy as np
import pytest
from joint_object import CENTRES, DIRECTIONS, both, grid, parts, world

from compendium.scores import score_case
from magunet.cohort import Case
from magunet.joints import JOINTS, left_and_right, midline
from magunet.volume import Volume, read_volume, reorient, same_geometry

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


def test_flipping_and_permuting_a_grid_changes_no_side():
    mask = both(grid(DIRECTIONS["oblique"]))
    labels = left_and_right(mask)
    for code in ("LPS", "RAS", "LAS", "RPI", "SPL", "AIR"):
        turned = left_and_right(reorient(mask, code))
        np.testing.assert_array_equal(turned.array, reorient(labels, code).array, code)


def test_files_with_negative_spacing(tmp_path):
    """A NRRD file whose axes run against the world's, as other programs write them: steps of negative
    length."""
    lps, ras = "left-posterior-superior", "right-anterior-superior"
    for space, sign in ((lps, (-1, 1, 1)), (lps, (-1, -1, -1)), (ras, (-1, -1, 1)), (ras, (1, 1, -1))):
        to_lps = np.array([1, 1, 1] if space == lps else [-1, -1, 1])
        on = grid(np.diag(np.multiply(sign, to_lps).astype(float)))
        step = np.diag(np.multiply(sign, on.spacing[::-1]))
        nrrd.write(str(tmp_path / "mask.nrrd"), both(on).array.T, {
            "space": space, "space directions": step, "space origin": np.multiply(on.origin, to_lps),
            "kinds": ["domain"] * 3})
        labels = left_and_right(read_volume(tmp_path / "mask.nrrd"))
        for joint in JOINTS:
            found, own = world(labels)[labels.array == joint.label], world(on)[parts(on)[joint.side]]
            assert len(found) == len(own), (space, sign)
            np.testing.assert_allclose(found.mean(axis=0), own.mean(axis=0), atol=1e-6, err_msg=space)


def test_a_single_joint_that_the_middle_of_the_scan_cuts_stays_whole():
    for shift, label in ((3, 2), (-3, 1)):
        on = grid(LPS, centre=(CENTRES["left"][0] + shift, 0, 0))
        assert labels_in(on.with_array(parts(on)["left"])) == {0, label}


def test_two_joints_are_found_wherever_the_scan_lies():
    on = grid(LPS, shape=(44, 48, 90), centre=(60.0, 0.0, 0.0))
    labels = left_and_right(both(on))
    assert midline(labels).between_joints
    np.testing.assert_array_equal(labels.array == 1, parts(on)["left"])


def test_a_joint_and_a_piece_of_the_hip_beside_it_are_not_called_left_and_right():
    on = grid(LPS, shape=(44, 48, 170))
    for side, label, hip in (("left", 1, (100, -20, -40)), ("right", 2, (-98, -20, -40))):
        for radius in (11, 18):
            mask = on.with_array(parts(on)[side] | (np.linalg.norm(world(on) - hip, axis=-1) < radius))
            assert labels_in(mask) == {0, label} and not midline(mask).between_joints, (side, radius)


def test_a_piece_that_spans_both_sides_is_cut_between_them():
    on = grid(LPS)
    at = world(on)
    bridge = (np.abs(at[..., 1]) < 4) & (np.abs(at[..., 2]) < 4) & (np.abs(at[..., 0]) < 45)
    labels = left_and_right(on.with_array((both(on).array != 0) | bridge))
    assert midline(labels).between_joints and labels.array[bridge].all()
    for joint in JOINTS:
        assert (labels.array[parts(on)[joint.side]] == joint.label).all()


def test_specks_do_not_move_the_midline_but_get_a_side():
    on = grid(LPS)
    mask = both(on).array
    mask[0, 0, 0] = mask[0, 0, -1] = mask[0, 0, 27] = 1
    labels = left_and_right(on.with_array(mask)).array
    assert labels[0, 0, 0] == 2 and labels[0, 0, -1] == 1
    np.testing.assert_array_equal((labels == 1)[1:], parts(on)["left"][1:])


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
"""Centres in mm of the pieces of one joint, from the joint's own."""


def in_pieces(on, sides, pieces):
    """Side -> (d, h, w): a joint in pieces, balls of 6 mm radius at least 12 mm apart."""
    at, none = world(on), np.zeros(on.array.shape, bool)
    balls = {side: [np.linalg.norm(at - (CENTRES[side] + piece), axis=-1) < 6 for piece in pieces]
             for side in sides}
    return {joint.side: np.any(balls.get(joint.side, [none]), axis=0) for joint in JOINTS}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_a_joint_in_pieces_has_one_side_in_exports_and_in_scores(pieces):
    """Whatever the grid: scores by side and exports once disagreed on it."""
    for sides, code in itertools.product((("left",), ("right",), ("left", "right")), ("LPS", "RAS", "SPL")):
        on = reorient(grid(DIRECTIONS["oblique"], (22, 24, 28), (6.0, 5.0, 4.4)), code)
        own = in_pieces(on, sides, pieces)
        mask = on.with_array(np.any(list(own.values()), axis=0))
        labels = left_and_right(mask).array
        for joint, row in zip(JOINTS, by_side(mask, mask)):
            np.testing.assert_array_equal(labels == joint.label, own[joint.side], f"{sides}, {code}")
            ml = own[joint.side].sum() * np.prod(on.spacing) / 1000
            assert row["side"] == joint.side, (sides, code)
            assert row["truth_ml"] == row["predicted_ml"] == pytest.approx(ml), (sides, code)


def test_the_joint_in_two_pieces_that_scores_once_gave_to_both_sides():
    array = np.zeros((10, 60, 200), np.uint8)
    array[3:7, 20:40, 120:130] = array[3:7, 20:40, 145:155] = 1
    for code in ("LPS", "RAS", "ASL"):
        turned = reorient(Volume(array, (3.0, 1.0, 1.0)), code)
        assert labels_in(turned) == {0, 1}, code
        rows = by_side(turned, turned)
        assert [round(row["truth_ml"] / 0.003) for row in rows] == [1600, 0], code
        assert [row["missed"] for row in rows] == [0, 0], code


def test_the_truth_decides_where_a_prediction_is_parted():
    """The prediction holds one joint only, off the middle; the truth's two joints are parted right of it."""
    on = grid(LPS, shape=(44, 48, 90), centre=(60.0, 0.0, 0.0))
    left, right = by_side(both(on), on.with_array(parts(on)["left"]))
    assert (left["missed"], right["missed"]) == (0, 1)
    assert left["dice"] == 1 and right["predicted_ml"] == 0
