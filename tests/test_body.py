"""Planes lie about the body, in mm: neither the field of view nor what is beside the patient moves them."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, refused

from magunet.base import profiles
from magunet.body import body_box
from magunet.metrics import overlap
from magunet.predict import load_model
from magunet.region import cut, placed, whole_planes
from magunet.volume import Volume, onto_grid, reorient
from sijphantom.cohort import phantom_scan
from sijphantom.phantom import make_phantom

SPACING = (4.0, 2.5, 2.0)
SIDE = 320.0
PLANES = replace(profiles.load("smoke"), voxel_mm=None, depth=16, size=128, slice_mm=None)


def lying(shape=(24, 128, 200), body=(90, 160)):
    """A body, an ellipse of these half axes in mm about the middle of the scan, with bones and marrow."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape[1:])
    radius = np.hypot(*np.meshgrid(y * SPACING[1] / body[0], x * SPACING[2] / body[1], indexing="ij"))
    plane = np.select([radius < 0.3, radius < 0.5, radius < 1], [700, 50, -90], -1000).astype(np.int16)
    return Volume(np.repeat(plane[None], shape[0], 0), SPACING, (-200.0, -160.0, 30.0))


def in_air(scan, *shape):
    """More air around it, or less: so many rows and columns."""
    corner = scan.to_world((0, *((old - new) // 2 for old, new in zip(scan.array.shape[1:], shape))))
    empty = np.broadcast_to(np.uint8(0), (len(scan.array), *shape))
    return onto_grid(scan, Volume(empty, scan.spacing, tuple(corner), scan.direction), -1000)


def painted(scan, rows, columns, hu):
    array = scan.array.copy()
    array[:, rows, columns] = hu
    return scan.with_array(array)


def disturbed(scan):
    """The scan with what says nothing about the patient; the body's lowest row is ``end``."""
    wide, (_, high, broad) = in_air(scan, 260, 330), scan.array.shape
    end = int(np.flatnonzero((wide.array > -300).any((0, 2)))[-1])
    table = painted(painted(wide, slice(end + 2, end + 3), slice(40, -40), 150), slice(end + 14, end + 15),
                    slice(40, -40), 150)
    y, x = np.ogrid[:260, :330]
    arms = wide.array.copy()
    for middle in (30, 300):
        arms[:, np.hypot((y - 130) * 2.5, (x - middle) * 2.0) < 30] = 40
        arms[:, np.hypot((y - 130) * 2.5, (x - middle) * 2.0) < 8] = 900
    return {"air": wide, "less air": in_air(scan, high - 6, broad - 8), "table": table,
            "blanket": painted(wide, slice(30, 32), slice(20, -20), 0), "arms": wide.with_array(arms),
            "padding": wide.with_array(np.where(wide.array <= -1000, -3024, wide.array).astype(np.int16)),
            "turned": reorient(wide, "RAS")}


def test_what_lies_beside_the_body_does_not_move_the_planes():
    scan = lying()
    region = whole_planes(scan, PLANES, SIDE)
    seen = placed(cut(scan, region), region, scan)
    assert region.shape == (24, 128, 128) and region.voxel == pytest.approx((4, 2.5, 2.5))
    middle = seen.to_world(np.subtract(region.shape, 1) / 2)
    assert middle == pytest.approx(scan.to_world(np.subtract(scan.array.shape, 1) / 2), abs=4)
    for name, other in disturbed(scan).items():
        view = whole_planes(other, PLANES, SIDE)
        here = placed(cut(other, view), view, other).to_world(np.subtract(view.shape, 1) / 2)
        assert here == pytest.approx(middle, abs=4) and view.voxel == region.voxel, name
        assert body_box(other)[1][2] == pytest.approx(320, abs=10), name
    moved = replace(scan, origin=(7.0, -13.0, 1e5))                     # the scanner's coordinates, or others
    assert whole_planes(moved, PLANES, SIDE) == region


def test_the_body_is_measured_and_a_scan_without_one_is_refused():
    first, extent = body_box(lying())
    assert extent == pytest.approx((96, 180, 320), abs=8)
    assert first == pytest.approx((0, 70, 40), abs=4)
    air = lying().with_array(np.full((24, 128, 200), -1000, np.int16))
    refused(lambda: body_box(air), "no body")


@pytest.mark.slow
def test_the_shipped_weights_give_the_same_mask_whatever_is_beside_the_body():
    scan, _ = phantom_scan(make_phantom(77, matrix=128, slices=(40, 50)))
    scan = in_air(scan, 150, 150)
    model = load_model(ROOT / "data" / "weights")
    mask = model.segment(scan)
    for name, other in disturbed(scan).items():
        dice = overlap(onto_grid(model.segment(other), scan).array, mask.array).dice
        assert dice >= 0.97, f"{name}: {dice}"
