"""Left and right of the patient, on every kind of grid."""

from pathlib import Path

import nrrd
import numpy as np
import pytest
from joint_object import CENTRES, DIRECTIONS, both, grid, parts, world

from compendium.scores import score_case
from magunet.cohort import Case
from magunet.joints import JOINTS, left_and_right, midline
from magunet.volume import Volume, read_volume, reorient, same_geometry


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_the_patients_left_is_left_on_any_grid(direction):
    on = grid(direction)
    labels = left_and_right(both(on))
    assert same_geometry(labels, on) and labels.array.dtype == np.uint8
    for joint in JOINTS:
        np.testing.assert_array_equal(labels.array == joint.label, parts(on)[joint.side])


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "RPI", "SPL", "AIR"])
def test_flipping_and_permuting_a_grid_changes_no_side(code):
    labels = left_and_right(both(grid(DIRECTIONS["oblique"])))
    turned = left_and_right(reorient(both(grid(DIRECTIONS["oblique"])), code))
    np.testing.assert_array_equal(turned.array, reorient(labels, code).array)


@pytest.mark.parametrize("space, sign", [
    ("left-posterior-superior", (-1, 1, 1)), ("left-posterior-superior", (-1, -1, -1)),
    ("right-anterior-superior", (-1, -1, 1)), ("right-anterior-superior", (1, 1, -1))])
def test_files_with_negative_spacing(space, sign, tmp_path):
    """A NRRD file whose axes run against the world's, as other programs write them: steps of negative
    length."""
    to_lps = np.array([1, 1, 1] if space.startswith("left") else [-1, -1, 1])
    on = grid(np.diag(np.multiply(sign, to_lps).astype(float)))
    step = np.diag(np.multiply(sign, on.spacing[::-1]))
    nrrd.write(str(tmp_path / "mask.nrrd"), both(on).array.T, {
        "space": space, "space directions": step, "space origin": np.multiply(on.origin, to_lps),
        "kinds": ["domain"] * 3})
    labels = left_and_right(read_volume(tmp_path / "mask.nrrd"))
    at = world(labels)
    assert (at[labels.array == 1][:, 0] > 20).all() and (at[labels.array == 2][:, 0] < -20).all()
    left = world(on)[parts(on)["left"]]
    np.testing.assert_allclose(at[labels.array == 1].mean(axis=0), left.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_single_joint_is_told_by_the_middle_of_the_scan(side, direction):
    on = grid(direction)
    labels = left_and_right(on.with_array(parts(on)[side]))
    assert set(np.unique(labels.array)) == {0, 1 if side == "left" else 2}
    assert not midline(labels).between_joints


def test_a_single_joint_that_the_middle_of_the_scan_cuts_stays_whole():
    on = grid(np.eye(3), centre=(CENTRES["left"][0] + 3, 0, 0))
    assert set(np.unique(left_and_right(on.with_array(parts(on)["left"])).array)) == {0, 2}
    on = grid(np.eye(3), centre=(CENTRES["left"][0] - 3, 0, 0))
    assert set(np.unique(left_and_right(on.with_array(parts(on)["left"])).array)) == {0, 1}


def test_two_joints_are_found_wherever_the_scan_lies():
    on = grid(np.eye(3), shape=(44, 48, 90), centre=(60.0, 0.0, 0.0))
    labels = left_and_right(both(on))
    assert midline(labels).between_joints
    np.testing.assert_array_equal(labels.array == 1, parts(on)["left"])


@pytest.mark.parametrize("radius", [11, 18])
@pytest.mark.parametrize("side, hip", [("left", (100, -20, -40)), ("right", (-98, -20, -40))])
def test_a_joint_and_a_piece_of_the_hip_beside_it_are_not_called_left_and_right(side, hip, radius):
    on = grid(np.eye(3), shape=(44, 48, 170))
    ball = np.linalg.norm(world(on) - hip, axis=-1) < radius
    mask = on.with_array(parts(on)[side] | ball)
    assert set(np.unique(left_and_right(mask).array)) == {0, 1 if side == "left" else 2}
    assert not midline(mask).between_joints


def test_a_piece_that_spans_both_sides_is_cut_between_them():
    on = grid(np.eye(3))
    at = world(on)
    bridge = (np.abs(at[..., 1]) < 4) & (np.abs(at[..., 2]) < 4) & (np.abs(at[..., 0]) < 45)
    labels = left_and_right(on.with_array((both(on).array != 0) | bridge))
    assert midline(labels).between_joints
    for joint in JOINTS:
        own = parts(on)[joint.side]
        assert (labels.array[own] == joint.label).all()
    assert (labels.array[bridge] != 0).all()


def test_specks_do_not_move_the_midline_but_get_a_side():
    on = grid(np.eye(3))
    mask = both(on).array
    mask[0, 0, 0] = mask[0, 0, -1] = mask[0, 0, 27] = 1
    labels = left_and_right(on.with_array(mask))
    assert labels.array[0, 0, 0] == 2 and labels.array[0, 0, -1] == 1
    np.testing.assert_array_equal((labels.array == 1)[1:], parts(on)["left"][1:])


def test_empty_masks_and_single_voxels():
    on = grid(np.eye(3))
    assert not left_and_right(on).array.any() and midline(on).x == pytest.approx(0)
    one = on.array.copy()
    one[3, 3, 3] = 1
    assert np.count_nonzero(left_and_right(on.with_array(one)).array) == 1


def test_masks_may_hold_any_number():
    on = grid(np.eye(3))
    expected = left_and_right(both(on)).array
    for array in (both(on).array * 7, both(on).array != 0, both(on).array.astype(np.float32) / 2):
        np.testing.assert_array_equal(left_and_right(Volume(array, on.spacing, on.origin)).array, expected)


PIECES = {"above and below": [(0, -5, -22), (0, 3, 20)], "side by side": [(-13, 0, 0), (13, 0, 0)],
          "front and back": [(0, -18, 0), (0, 18, 4)], "three": [(-12, -6, -14), (0, 16, 0), (12, -6, 16)]}
"""Centres in mm of the pieces of one joint, from the joint's own."""


def in_pieces(on, sides, pieces):
    """Side -> (d, h, w): a joint in pieces, balls of 6 mm radius at least 12 mm apart."""
    at = world(on)
    return {side: np.any([np.linalg.norm(at - (CENTRES[side] + piece), axis=-1) < 6 for piece in pieces],
                         axis=0)
            for side in sides}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("sides", [("left",), ("right",), ("left", "right")])
def test_a_joint_in_pieces_has_one_side_in_exports_and_in_scores(sides, pieces):
    """Whatever the grid: scores by side and exports once disagreed on it."""
    for direction in DIRECTIONS.values():
        for code in ("LPS", "RAS", "SPL"):
            on = reorient(grid(direction), code)
            own = in_pieces(on, sides, pieces)
            mask = on.with_array(np.any(list(own.values()), axis=0))
            labels = left_and_right(mask).array
            _, rows = score_case(Case("c", Path("i"), Path("l"), "p", {}), mask, mask)
            for joint, row in zip(JOINTS, rows):
                expected = own.get(joint.side, np.zeros(on.array.shape, bool))
                np.testing.assert_array_equal(labels == joint.label, expected)
                assert row["side"] == joint.side
                ml = expected.sum() * np.prod(on.spacing) / 1000
                assert row["truth_ml"] == row["predicted_ml"] == pytest.approx(ml)


def test_the_joint_in_two_pieces_that_scores_once_gave_to_both_sides():
    array = np.zeros((10, 60, 200), np.uint8)
    array[3:7, 20:40, 120:130] = array[3:7, 20:40, 145:155] = 1
    mask = Volume(array, (3.0, 1.0, 1.0))
    for code in ("LPS", "RAS", "ASL"):
        turned = reorient(mask, code)
        assert np.bincount(left_and_right(turned).array.ravel(), minlength=3).tolist()[1:] == [1600, 0]
        _, rows = score_case(Case("c", Path("i"), Path("l"), "p", {}), turned, turned)
        assert [round(row["truth_ml"] / 0.003) for row in rows] == [1600, 0]
        assert [row["missed"] for row in rows] == [0, 0]


def test_the_truth_decides_where_a_prediction_is_parted():
    """The prediction holds one joint only, off the middle; the truth's two joints are parted right of it."""
    on = grid(np.eye(3), shape=(44, 48, 90), centre=(60.0, 0.0, 0.0))
    _, rows = score_case(Case("c", Path("i"), Path("l"), "p", {}), on.with_array(parts(on)["left"]), both(on))
    assert [row["missed"] for row in rows] == [0, 1] and rows[0]["dice"] == 1 and rows[1]["predicted_ml"] == 0
