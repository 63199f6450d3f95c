"""Left and right of the patient, on every kind of grid."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from joint_object import CENTRES, COARSE, DIRECTIONS, WIDE, both, grid, parts, single, world
from scipy.spatial.transform import Rotation

from compendium.scores import score_case
from magunet.cohort import Case
from magunet.joints import JOINTS, SIDES, UNKNOWN, left_and_right, midline, sides
from magunet.volume import Volume, reorient, same_geometry
from sijphantom.phantom import make_phantom

LPS, PAIR = DIRECTIONS["LPS"], "the two joints"


def labels_in(mask, scan=None):
    return set(np.unique(sides(scan, mask)[1][0].array))


def test_the_patients_left_is_left_on_any_grid():
    """Both joints, and each alone, which is told by the CT around it, and by nothing without one."""
    for name, direction in DIRECTIONS.items():
        on = grid(direction)
        labels = left_and_right(both(on))
        assert same_geometry(labels, on) and labels.array.dtype == np.uint8, name
        for joint in JOINTS:
            own = parts(on)[joint.side]
            np.testing.assert_array_equal(labels.array == joint.label, own, name)
            mask, scan = single(grid(direction, WIDE), joint.side)
            _, (labelled,) = sides(scan, mask)
            np.testing.assert_array_equal(labelled.array, mask.array * joint.label, name)
            for empty in (None, scan.with_array(0 * scan.array)):
                assert labels_in(mask, empty) == {0, UNKNOWN.label}, name


def test_the_middle_of_the_scan_tells_nothing_about_a_single_joint():
    """Wherever the scan begins and ends, down to 20 mm beside it, it is whole and on its side."""
    places = (-10, 36), (-3, 36), (3, 36), (10, 36), (-25, 50), (25, 50), (-70, 90), (70, 90)
    for (shift, width), joint in itertools.product(places, JOINTS):
        on = grid(LPS, (44, 48, width), centre=(CENTRES[joint.side][0] + shift, 0, 0))
        assert labels_in(*single(on, joint.side)) == {0, joint.label}, (shift, width, joint.side)


def test_signs_that_do_not_agree_or_are_missing_tell_no_side():
    on = grid(LPS, WIDE)
    mask, scan = single(on, "left")
    assert labels_in(mask, scan) == {0, JOINTS[0].label}
    upright, specks = np.abs(world(on) - CENTRES["left"]).max(-1) < 8, np.zeros(on.array.shape, np.uint8)
    specks[4:40:6, 4:44:6, 4:52:6] = 1
    for name, inside, hu in (
            ("dense on the inside", mask.array, 380 - scan.array), ("no slant", upright, scan.array),
            ("no bone", mask.array, 0 * scan.array + 80), ("padding", mask.array, 0 * scan.array - 1024),
            ("specks", specks, scan.array)):
        assert labels_in(on.with_array(inside), scan.with_array(hu)) == {0, UNKNOWN.label}, name
    assert labels_in(on.with_array(specks | mask.array), scan) >= {0, JOINTS[0].label}, "specks and a joint"


def test_a_joint_and_a_piece_of_the_hip_beside_it_are_not_called_left_and_right():
    """Where the piece is the larger one nobody knows."""
    on = grid(LPS, shape=(44, 48, 170))
    for joint, hip in zip(JOINTS, ((100, -20, -40), (-98, -20, -40))):
        for radius, label in ((11, joint.label), (18, UNKNOWN.label)):
            mask, scan = single(on, joint.side)
            mask.array[np.linalg.norm(world(on) - hip, axis=-1) < radius] = 1
            assert labels_in(mask, scan) == {0, label}, (joint.side, radius)
            assert labels_in(mask) == {0, UNKNOWN.label}
        mask, scan = single(on, joint.side)
        inward = CENTRES[joint.side] - (50 * np.sign(hip[0]), 0, 0)
        ball = np.linalg.norm(world(on) - inward, axis=-1) < 10
        (labels,) = sides(scan, scan.with_array(ball | (mask.array > 0)))[1]
        found = set(labels.array[mask.array > 0]), set(labels.array[ball])
        assert found == ({joint.label}, {3 - joint.label}), "a child's joints lie nearer"


def test_a_piece_that_spans_both_sides_is_cut_and_specks_get_a_side_but_do_not_move_the_midline():
    on, mask = grid(LPS), both(grid(LPS)).array
    at = world(on)
    bridge = (np.abs(at[..., 1]) < 4) & (np.abs(at[..., 2]) < 4) & (np.abs(at[..., 0]) < 45)
    labels = left_and_right(on.with_array(mask | bridge))
    assert midline(labels).told_by.startswith(PAIR) and labels.array[bridge].all()
    mask[0, 0, 0] = mask[0, 0, -9:] = 1
    specked = left_and_right(on.with_array(mask))
    assert midline(specked) == midline(both(on))
    assert specked.array[0, 0, 0] == 2 and (specked.array[0, 0, -9:] == 1).all()
    for joint in JOINTS:
        own = parts(on)[joint.side]
        assert (labels.array[own] == joint.label).all() and (specked.array[own] == joint.label).all()


def test_masks_may_be_empty_or_a_voxel_and_hold_any_number():
    on, one, mask = grid(LPS), grid(LPS), both(grid(LPS))
    one.array[3, 3, 3] = 1
    assert labels_in(on) == {0} and np.isnan(midline(on).x)
    assert np.count_nonzero(left_and_right(one).array) == 1
    for array in (mask.array * 7, mask.array != 0, mask.array.astype(np.float32) / 2):
        labels = left_and_right(on.with_array(array))
        np.testing.assert_array_equal(labels.array, left_and_right(mask).array, str(array.dtype))


def by_side(truth, prediction):
    """Rows of the two sides as scores have them."""
    return score_case(Case("c", Path("i"), Path("l"), "p", {}), truth, prediction, truth)[1]


PIECES = {"above and below": [(0, -5, -22), (0, 3, 20)], "side by side": [(-13, 0, 0), (13, 0, 0)],
          "front and back": [(0, -18, 0), (0, 18, 4)], "three": [(-12, -6, -14), (0, 16, 0), (12, -6, 16)]}
"""Centres in mm of the pieces of one joint, balls of 6 mm radius, from the joint's own."""


@pytest.mark.parametrize("present", [("left",), ("right",), ("left", "right")])
def test_a_joint_in_pieces_has_one_side_in_exports_and_in_scores(present):
    """Whatever the grid: scores by side and exports once disagreed. One alone has none in an empty CT."""
    for code, (name, pieces) in itertools.product(("LPS", "RAS", "SPL"), PIECES.items()):
        on = reorient(grid(DIRECTIONS["oblique"], *COARSE), code)
        at, own = world(on), dict.fromkeys(SIDES, np.zeros(on.array.shape, bool))
        for side in present:
            centres = CENTRES[side] + np.array(pieces)
            own[side] = (np.linalg.norm(at[..., None, :] - centres, axis=-1) < 6).any(axis=-1)
        mask = on.with_array(own["left"] | own["right"])
        labels = left_and_right(mask).array
        own["unknown"] = own["left"] | own["right"]
        for joint, row in zip(JOINTS if len(present) == 2 else [UNKNOWN], by_side(mask, mask), strict=True):
            np.testing.assert_array_equal(labels == joint.label, own[joint.side], f"{name}, {code}")
            ml = pytest.approx(own[joint.side].sum() * np.prod(on.spacing) / 1000)
            found = row["side"], row["truth_ml"], row["predicted_ml"], row["missed"]
            assert found == (joint.side, ml, ml, 0), (name, code)


def test_two_joints_are_found_wherever_the_scan_lies_and_a_prediction_is_parted_where_the_truth_is():
    """The prediction holds one joint only, off the middle; the truth's two joints are parted right of it."""
    on = grid(LPS, shape=(44, 48, 90), centre=(60.0, 0.0, 0.0))
    assert midline(both(on)).told_by.startswith(PAIR)
    np.testing.assert_array_equal(left_and_right(both(on)).array == 1, parts(on)["left"])
    left, right = by_side(both(on), on.with_array(parts(on)["left"]))
    assert (left["missed"], right["missed"]) == (0, 1)
    assert left["dice"] == 1 and right["predicted_ml"] == 0


def halves(seed):
    """Side, mask and scan of a phantom's halves, cut halfway between its joints; and of each joint alone in
    the whole scan, where the other is missed."""
    phantom = make_phantom(seed, matrix=128, slices=(50, 60))
    scan, mask = (Volume(array, phantom.spacing, (-99, 12, 7)) for array in (phantom.image, phantom.mask))
    plane = midline(mask)
    assert plane.told_by.startswith(PAIR)
    labels = left_and_right(mask, plane.x)
    middle = round((plane.x - scan.origin[0]) / scan.spacing[2])
    for joint, columns in zip(JOINTS, (slice(middle, None), slice(middle))):
        own = labels.with_array(np.uint8(labels.array == joint.label))
        yield joint, own, scan
        yield joint, *(replace(one, array=one.array[..., columns], origin=tuple(one.to_world((
            0, 0, columns.start or 0)))) for one in (own, scan))


def test_half_a_phantom_has_its_own_side_on_any_grid_and_the_other_in_the_mirror():
    for joint, mask, scan in halves(1):
        other = JOINTS[joint is JOINTS[0]]
        mirrored = (replace(one, direction=np.diag([-1.0, 1, 1])) for one in (mask, scan))
        permuted = (reorient(one, "SAR") for one in (mask, scan))
        on = grid(DIRECTIONS["oblique"], (50, 60, 90), (4.0, 4.0, 4.0), scan.to_world(
            tuple((n - 1) / 2 for n in scan.array.shape)))
        oblique = (on.with_array(np.round(one.sample(world(on), 0))) for one in (mask, scan))
        for name, (one, ct), expected in (("as it is", (mask, scan), joint), ("mirrored", mirrored, other),
                                          ("permuted", permuted, joint), ("oblique", oblique, joint)):
            assert labels_in(one, ct) == {0, expected.label}, (joint.side, name)


@pytest.mark.slow
def test_of_half_phantoms_none_has_the_wrong_side_and_nine_of_ten_the_right_one():
    """Also turned by 15 degrees either way, as patients lie, and with pieces of the joint only; these have
    less often a side."""
    counts = {"as it is": [], "turned": [], "upper half": [], "lower half": [], "front": [], "back": []}
    for joint, mask, scan in itertools.chain(*map(halves, range(200, 224))):
        def told(name, mask, scan=scan, joint=joint):
            counts[name].append(labels_in(mask, scan) - {0})
            assert counts[name][-1] in ({joint.label}, {UNKNOWN.label}), (name, joint.side)
        told("as it is", mask)
        for degrees in (-15, 15):
            turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()
            told("turned", *(replace(one, origin=tuple(turn @ one.origin), direction=turn)
                             for one in (mask, scan)))
        for axis, names in ((0, ("lower half", "upper half")), (1, ("front", "back"))):
            at = np.indices(mask.array.shape)[axis]
            median = np.median(at[mask.array > 0])
            for name, kept in zip(names, (at <= median, at > median)):
                told(name, mask.with_array(mask.array * kept))
    shares = {name: np.mean([one != {UNKNOWN.label} for one in labels]) for name, labels in counts.items()}
    assert len(counts["as it is"]) == 96 and shares["as it is"] > 0.9 and min(shares.values()) > 0.6, shares
